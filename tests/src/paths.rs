//! Where things lie: the workspace's folder, and the target folder and profile that this test was built in.

use std::path::{Path, PathBuf};

/// The workspace's folder.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests' folder lies in the workspace's")
}

/// The folder that holds this build's binaries: `target/debug` or the like.
pub fn profile_dir() -> PathBuf {
    let exe = std::env::current_exe().expect("the system tells a process its executable");
    // A test binary lies in target/PROFILE/deps, an example or a doc test's runner elsewhere below it.
    let deps = exe.ancestors().find(|folder| folder.ends_with("deps")).unwrap_or(&exe);
    deps.parent().expect("a test binary lies below the target folder").to_owned()
}

/// The target folder: what is made here goes with `cargo clean`.
pub fn target_dir() -> PathBuf {
    profile_dir().parent().expect("a profile's folder lies in the target folder").to_owned()
}

/// The profile as `cargo build --profile` names it.
pub fn profile() -> String {
    match profile_dir().file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev".to_owned(),
        Some(name) => name.to_owned(),
    }
}
