//! The program: what it prints, which signals end it, and its exit codes.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

/// `mmapd` with no settings but its arguments, and its data below `home`.
fn mmapd(home: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mmapd"));
    command.args(args).env_clear().env("HOME", home).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn refused(args: &[&str]) -> (Option<i32>, String) {
    let home = tempfile::tempdir().unwrap();
    let Output { status, stdout, stderr } = mmapd(home.path(), args).output().unwrap();
    assert!(stdout.is_empty(), "what listens says so, and nothing else does");
    (status.code(), String::from_utf8(stderr).unwrap())
}

fn terminate(child: &Child) {
    let status = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

#[test]
fn it_says_where_it_listens_serves_a_folder_and_ends_cleanly_on_sigterm() {
    let home = tempfile::tempdir().unwrap();
    let mut child = mmapd(home.path(), &["--listen", "127.0.0.1:0"]).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let addr = line.trim().strip_prefix("mmapd listening on ").unwrap_or_else(|| panic!("{line:?}")).to_owned();
    std::net::TcpStream::connect(&addr).unwrap();
    terminate(&child);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let mut told = String::new();
    child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    let state = home.path().join(".local/share/mmapd");
    for part in [addr.as_str(), state.to_str().unwrap(), "mmapctl --server", "grpcurl -plaintext"] {
        assert!(told.contains(part), "{part} is not in {told}");
    }
    assert!(state.join("files").is_dir());
}

#[test]
fn a_wrong_configuration_is_one_sentence_and_code_2() {
    for (args, part) in [
        (&["--listen", "0.0.0.0:0"][..], "--insecure"),
        (&["--durability", "safe"], "memory, process, disk"),
        (&["--auth", "jwt"], "--jwt-keys"),
        (&["--auth", "jwt", "--jwt-keys", "/nowhere.json", "--jwt-audience", "a"], "/nowhere.json cannot be read"),
        (&["--memory", "plenty"], "`plenty` is not a size"),
        (&["--log", "mmap_server=loud"], "log filter"),
        (&["--config", "/nowhere.toml"], "cannot be read"),
        (&["--no-such-flag"], "--no-such-flag"),
    ] {
        let (code, told) = refused(args);
        assert_eq!(code, Some(2), "{args:?}: {told}");
        assert!(told.contains(part), "{args:?}: {told}");
    }
}

#[test]
fn a_port_in_use_is_named_with_the_way_out_and_code_1() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let (code, told) = refused(&["--listen", &addr]);
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains(&addr) && told.contains("--listen"), "{told}");
}

#[test]
fn help_and_version_are_answers_with_code_0() {
    let home = tempfile::tempdir().unwrap();
    for (flag, part) in [("--help", "Examples:"), ("--version", env!("CARGO_PKG_VERSION"))] {
        let output = mmapd(home.path(), &[flag]).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert!(String::from_utf8(output.stdout).unwrap().contains(part));
    }
}
