//! What deploy/ and docker-compose.yml say, held against schemas, against each other, and against what mmapd knows.
//! It needs neither Docker nor a cluster; tests/tests/containers.rs runs what can be run here.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::process::Command;

use mmap_tests::docker::succeed;
use mmap_tests::require::available;
use mmap_tests::venv::Venv;
use mmap_tests::{binaries, paths};

#[test]
fn manifests_and_compose_files_follow_their_schemas_and_agree_with_each_other_and_with_mmapd() {
    let Some(venv) = available(Venv::get()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let help = folder.path().join("help");
    std::fs::write(&help, succeed(Command::new(binaries::binary("mmapd")).arg("--help"))).unwrap();
    let mut check = venv.command("python");
    check.env("PYTHONDONTWRITEBYTECODE", "1").arg(paths::workspace().join("tests/python/deploy_files.py"));
    assert_eq!(succeed(check.arg(paths::workspace()).arg(&help)), "all as it should be\n");
}
