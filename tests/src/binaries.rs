//! The programs under test, built from this workspace in this test's profile.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use crate::paths;

/// The program `name` (`mmapd`, `mmapctl`), built at the first call of a test process.
///
/// # Panics
/// If the build fails.
pub fn binary(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(build).join(name)
}

fn build() -> PathBuf {
    // The tests' own package is named too: with it the dependencies' features are those that the tests
    // were built with, and nothing is compiled twice.
    let mut command = Command::new(env!("CARGO"));
    command
        .current_dir(paths::workspace())
        .args(["build", "--quiet", "--locked", "-p", "mmap-server", "-p", "mmap-cli", "-p", "mmap-tests", "--bins"])
        .args(["--profile", &paths::profile()])
        .arg("--target-dir")
        .arg(paths::target_dir());
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}:\n{}", String::from_utf8_lossy(&output.stderr));
    paths::profile_dir()
}
