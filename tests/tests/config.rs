//! `mmapd config check` as a program: what it prints, what it refuses, and that it touches nothing.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::path::Path;
use std::process::{Command, Output};

use mmap_tests::binaries;
use mmap_tests::certs::{Authority, Valid};
use mmap_tests::require::available;

fn check(home: &Path, args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(binaries::binary("mmapd"));
    command.env_clear().env("HOME", home).envs(env.iter().copied()).args(["config", "check"]).args(args);
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn the_effective_configuration_says_where_each_value_came_from() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("mmapd.toml");
    std::fs::write(&file, "memory = \"100MiB\"\nmax-calls = 7\nnode = \"file\"\n").unwrap();
    let file = file.to_str().unwrap();
    let env = [("MMAPD_CONFIG", file), ("MMAPD_NODE", "variable"), ("MMAPD_MOUNT", "/a=memory: /b=s3://bucket?ro")];
    let checked = check(home.path(), &["--memory", "200MiB"], &env);
    assert_eq!(checked.status.code(), Some(0), "{checked:?}");
    let printed = text(&checked.stdout);
    for line in [
        "memory = \"200MiB\" # --memory",
        "node = \"variable\" # MMAPD_NODE",
        "mount = [\"/a=memory:\", \"/b=s3://bucket?ro\"] # MMAPD_MOUNT",
        &format!("max-calls = 7 # max-calls in {file}"),
        "process-grace = \"10s\" # default",
        "insecure = false # default",
        "# tls-cert is not set",
    ] {
        assert!(printed.lines().any(|printed| printed == line), "{line} is not in\n{printed}");
    }
    // What is printed is a file that says the same.
    let again = home.path().join("again.toml");
    std::fs::write(&again, printed).unwrap();
    let second = check(home.path(), &["--config", again.to_str().unwrap()], &[]);
    let values = |text: &str| -> Vec<String> {
        text.lines().map(|line| line.rsplit_once(" # ").map_or(line, |(value, _)| value).to_owned()).collect()
    };
    assert_eq!(values(text(&second.stdout)), values(printed), "{second:?}");
    let left: Vec<_> = std::fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "it made something: {left:?}");
}

#[test]
fn a_wrong_configuration_is_refused_with_code_2_before_any_start() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("mmapd.toml");
    std::fs::write(&file, "memroy = 1\n").unwrap();
    for (args, sentence) in [
        (&["--config", file.to_str().unwrap()][..], "did you mean `memory`"),
        (&["--memory", "plenty"], "not a size"),
        (&["--log", "mmap_server=loud"], "log filter"),
        (&["--tls-cert", "/nowhere.pem"], "--tls-key"),
        (&["--tls-cert", "/nowhere.pem", "--tls-key", "/nowhere.key"], "/nowhere.pem cannot be read"),
        (&["--listen", "0.0.0.0:0"], "--insecure"),
    ] {
        let checked = check(home.path(), args, &[]);
        assert_eq!(checked.status.code(), Some(2), "{args:?}: {checked:?}");
        assert!(text(&checked.stderr).contains(sentence) && checked.stdout.is_empty(), "{args:?}: {checked:?}");
    }
}

#[test]
fn secrets_are_not_shown_even_where_they_do_not_belong() {
    let home = tempfile::tempdir().unwrap();
    let checked = check(home.path(), &["--mount", "/=s3://key:hunter2@bucket"], &[]);
    assert_eq!(checked.status.code(), Some(2), "{checked:?}");
    assert!(!text(&checked.stderr).contains("hunter2") && !text(&checked.stdout).contains("hunter2"), "{checked:?}");
    let keys = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "hunter2")];
    let checked = check(home.path(), &["--mount", "/=s3://bucket"], &keys);
    assert!(checked.status.success() && !text(&checked.stdout).contains("hunter2"), "{checked:?}");
}

#[test]
fn a_misspelt_variable_is_told_and_those_of_kubernetes_are_not() {
    let home = tempfile::tempdir().unwrap();
    let env = [
        ("MMAPD_MEMROY", "64MiB"),
        ("MMAPD_SERVICE_HOST", "10.0.0.1"),
        ("MMAPD_PORT_50051_TCP_ADDR", "10.0.0.1"),
        ("MMAPD_PORT", "tcp://10.0.0.1:50051"),
    ];
    let checked = check(home.path(), &[], &env);
    assert!(checked.status.success(), "{checked:?}");
    let told = text(&checked.stderr);
    assert!(told.contains("MMAPD_MEMROY") && told.contains("MMAPD_MEMORY"), "{told}");
    assert_eq!(told.lines().count(), 1, "{told}");
}

#[test]
fn the_files_of_tls_are_read_and_what_is_doubtful_is_told() {
    let Some(authority) = available(Authority::new()) else { return };
    let home = tempfile::tempdir().unwrap();
    let (one, two) = (authority.issue("one", Valid::Days(30)), authority.issue("ended", Valid::Ended));
    let with = |cert: &Path, key: &Path| {
        check(home.path(), &["--tls-cert", cert.to_str().unwrap(), "--tls-key", key.to_str().unwrap()], &[])
    };
    let right = with(&one.cert, &one.key);
    assert!(right.status.success() && !text(&right.stderr).contains("EXPIRED"), "{right:?}");
    let mixed = with(&one.cert, &two.key);
    assert_eq!(mixed.status.code(), Some(2), "{mixed:?}");
    let ended = with(&two.cert, &two.key);
    assert!(ended.status.success() && text(&ended.stderr).contains("EXPIRED"), "{ended:?}");
}
