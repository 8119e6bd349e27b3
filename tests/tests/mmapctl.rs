//! `mmapctl` against a real `mmapd`: what goes in comes out, and the exit codes mean what its help says.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::process::{Command, Output};

use mmap_tests::binaries::binary;
use mmap_tests::mmapctl::run;
use mmap_tests::mmapd::Setup;
use mmap_tests::random::Random;
use serde_json::Value;

const USAGE: i32 = 2;
const NOT_FOUND: i32 = 3;
const REFUSED: i32 = 4;
const CONFLICT: i32 = 5;
const UNAVAILABLE: i32 = 6;

#[track_caller]
fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
fn failed(output: &Output, code: i32, needed: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(said.contains(needed) && !said.contains("panicked"), "{said}");
}

#[test]
fn a_file_of_several_messages_comes_back_as_it_went() {
    let server = Setup::new().start();
    let local = server.folder().join("local");
    let content = Random::seeded(7).bytes((9 << 20) + 123);
    std::fs::write(&local, &content).unwrap();
    succeeded(&run(&server, ["put", local.to_str().unwrap(), "/a/file"]));
    assert!(std::fs::read(server.default_files().join("a/file")).unwrap() == content, "put reports before it synced");
    let back = server.folder().join("back");
    succeeded(&run(&server, ["get", "/a/file", back.to_str().unwrap()]));
    assert!(std::fs::read(back).unwrap() == content, "get brings other bytes");
    let part = run(&server, ["cat", "/a/file", "--offset", "5000000", "--length", "10"]);
    assert!(part.status.success() && part.stdout == content[5_000_000..5_000_010]);

    // No silent overwrite, on neither side.
    failed(&run(&server, ["put", local.to_str().unwrap(), "/a/file"]), CONFLICT, "--force");
    succeeded(&run(&server, ["poke", "/a/file", "--offset", "4095", "--hex", "de ad be ef"]));
    let on_disk = std::fs::read(server.default_files().join("a/file")).unwrap();
    assert_eq!(on_disk[4095..4099], [0xde, 0xad, 0xbe, 0xef]);
    assert_eq!(on_disk.len(), content.len());

    let stat: Value = serde_json::from_str(&succeeded(&run(&server, ["--json", "stat", "/a/file"]))).unwrap();
    assert_eq!(stat["path"], "/a/file", "{stat}");
    assert!(succeeded(&run(&server, ["ls"])).contains("/a/file"));
    succeeded(&run(&server, ["truncate", "/a/file", "10"]));
    assert_eq!(std::fs::metadata(server.default_files().join("a/file")).unwrap().len(), 10);
    succeeded(&run(&server, ["rm", "/a/file"]));
    assert!(!succeeded(&run(&server, ["ls"])).contains("/a/file"));
    let processes = succeeded(&run(&server, ["ps"]));
    assert!(!processes.contains("mmapctl"), "a command's process outlives it: {processes}");
}

#[test]
fn exit_codes_say_what_kind_of_failure_it_was() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), b"fixed").unwrap();
    let server = Setup::new().mount("/ro", &format!("file://{}?ro", folder.path().display())).start();
    failed(&run(&server, ["stat", "/ro/missing"]), NOT_FOUND, "/ro/missing");
    failed(&run(&server, ["cat", "/elsewhere"]), NOT_FOUND, "/elsewhere");
    failed(&run(&server, ["poke", "/ro/file", "--offset", "0", "x"]), REFUSED, "read-only");
    failed(&run(&server, ["rm", "/ro/file"]), REFUSED, "read-only");
    failed(&run(&server, ["stat", "../file"]), USAGE, "../file");
    failed(&run(&server, ["frobnicate"]), USAGE, "frobnicate");
    assert_eq!(std::fs::read(folder.path().join("file")).unwrap(), b"fixed");
    succeeded(&run(&server, ["ping"]));
}

#[test]
fn a_server_that_is_not_there_is_named_with_what_to_do() {
    // A port that was free a moment ago, and is not given to anybody so soon.
    let addr = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let output = Command::new(binary("mmapctl")).args(["--server", &addr, "ping"]).output().unwrap();
    failed(&output, UNAVAILABLE, &addr);
    failed(&output, UNAVAILABLE, "mmapd");
}
