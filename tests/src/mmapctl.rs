//! The real `mmapctl`, run against a server.

use std::process::{Command, Output};

use crate::binaries;
use crate::mmapd::Mmapd;

/// A command that talks to `server`.
pub fn command(server: &Mmapd) -> Command {
    let mut command = Command::new(binaries::binary("mmapctl"));
    command
        .env_clear()
        .envs(std::env::vars_os().filter(|(name, _)| !name.to_string_lossy().starts_with("MMAPCTL_")))
        .arg("--server")
        .arg(server.addr());
    command
}

/// What `mmapctl ARGS` answers.
///
/// # Panics
/// If it cannot be started.
pub fn run<'a>(server: &Mmapd, args: impl IntoIterator<Item = &'a str>) -> Output {
    command(server).args(args).output().expect("mmapctl was built and can be started")
}
