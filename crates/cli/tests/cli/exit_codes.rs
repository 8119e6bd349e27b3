//! Exit codes and error messages: each code of `--help` by a call that ends with it.

use std::time::{Duration, Instant};

use crate::bench::Bench;
use mmap_client::Reason;
use mmap_fake::fault::Fault;

#[test]
fn every_reason_ends_with_its_code_and_is_named() {
    let bench = Bench::new();
    bench.fake.put_file("/a", *b"x");
    for reason in Reason::ALL {
        bench.fake.plan("RemoveFile", Fault::Refuse(*reason, Duration::ZERO));
        let rm = bench.run(&["rm", "/a"]);
        let expected = match reason {
            Reason::Inval => 2,
            Reason::NoEnt | Reason::BadF | Reason::Srch => 3,
            Reason::Acces | Reason::RoFs | Reason::UnAuth | Reason::SegvAccErr => 4,
            Reason::Stale | Reason::Exist | Reason::Busy => 5,
            Reason::Io | Reason::TimedOut => 6,
            Reason::SegvMapErr
            | Reason::SigBus
            | Reason::NoMem
            | Reason::DQuot
            | Reason::UClean
            | Reason::NotSup
            | Reason::Fault => 1,
        };
        assert_eq!(rm.code, expected, "{reason}: {}", rm.stderr);
        assert!(rm.stderr.contains(&format!("planned {reason} ({reason})")), "{}", rm.stderr);
    }
    assert!(bench.fake.stored("/a").is_some(), "a remove is never repeated by itself");
}

#[test]
fn the_wrong_arguments_are_code_2() {
    let bench = Bench::new();
    for arguments in [
        &[][..],
        &["frobnicate"],
        &["stat"],
        &["truncate", "/a", "lots"],
        &["--timeout", "0s", "ping"],
        &["--server", "nonsense", "ping"],
    ] {
        assert_eq!(bench.run(arguments).code, 2, "{arguments:?}");
    }
}

#[test]
fn a_server_that_is_not_there_is_code_6_with_what_to_do() {
    let mut bench = Bench::new();
    bench.fake.stop();
    let ping = bench.run(&["ping"]);
    assert_eq!(ping.code, 6);
    assert!(ping.stderr.contains(&format!("cannot reach {}", bench.fake.address())), "{}", ping.stderr);
    assert!(ping.stderr.contains("`mmapd`") && ping.stderr.contains("--server"), "{}", ping.stderr);
}

#[test]
fn a_server_that_does_not_answer_is_code_6_after_the_timeout() {
    let bench = Bench::new();
    bench.fake.plan("StatFile", Fault::Hang);
    let start = Instant::now();
    let stat = bench.run(&["--timeout", "300ms", "stat", "/a"]);
    assert_eq!(stat.code, 6, "{}", stat.stderr);
    assert!(stat.stderr.contains("--timeout"), "{}", stat.stderr);
    assert!((Duration::from_millis(300)..Duration::from_secs(10)).contains(&start.elapsed()));
}

#[test]
fn an_error_is_one_json_document_with_json() {
    let bench = Bench::new();
    let stat = bench.run(&["--json", "stat", "/missing"]);
    assert_eq!((stat.code, stat.text()), (3, ""));
    let error: serde_json::Value = serde_json::from_str(&stat.stderr).expect("JSON");
    assert_eq!(error["error"]["reason"], "ENOENT");
    assert_eq!(error["error"]["code"], "NOT_FOUND");
    assert_eq!(error["error"]["metadata"]["path"], "/missing");
}

#[test]
fn help_lists_the_exit_codes() {
    let bench = Bench::new();
    let help = bench.run(&["--help"]);
    assert_eq!(help.code, 0);
    assert!(help.text().contains("Exit codes:") && help.text().contains("ESTALE"), "{}", help.text());
}

#[test]
fn a_unix_socket_is_a_server_too() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let fake = mmap_fake::Fake::start_unix(&folder.path().join("socket")).expect("a socket");
    let bench = Bench::new();
    let ping = bench.run(&["--server", fake.address(), "ping"]);
    assert_eq!(ping.code, 0, "{}", ping.stderr);
    let gone = bench.run(&["--server", "unix:/nowhere/at/all", "ping"]);
    assert_eq!(gone.code, 6, "{}", gone.stderr);
}
