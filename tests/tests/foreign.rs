//! Programs that are not ours: Python through generated stubs, boto3 as a reader of the store, `buf curl`
//! through reflection. What README.md shows of them is run as it stands there.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::path::Path;
use std::process::Command;

use mmap_tests::certs::{Authority, Valid};
use mmap_tests::mmapd::{Mmapd, Setup};
use mmap_tests::moto::Moto;
use mmap_tests::paths;
use mmap_tests::readme::{self, Step};
use mmap_tests::require::available;
use mmap_tests::venv::Venv;
use serde_json::Value;

/// The address that README.md uses: the default.
const README_ADDR: &str = "localhost:50051";

/// The standard output of a command that has to succeed.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{stderr}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

fn run_foreign(venv: &Venv, stubs: &Path, server: &Mmapd, path: &str) {
    let script = paths::workspace().join("tests/python/foreign.py");
    let mut command = venv.command("python");
    command.env("PYTHONPATH", stubs).env("PYTHONDONTWRITEBYTECODE", "1").arg(script).arg(server.addr()).arg(path);
    assert_eq!(run(&mut command), "all as the contract says\n");
}

/// What foreign.py leaves behind in its file.
fn foreign_content() -> Vec<u8> {
    let mut bytes = vec![0; 10_000];
    for (index, byte) in bytes[4000..8096].iter_mut().enumerate() {
        *byte = u8::try_from(index % 256).unwrap();
    }
    bytes[0] = b'!';
    bytes
}

#[test]
fn python_shares_a_file_and_decodes_errors_through_generated_stubs() {
    let Some(venv) = available(Venv::get()) else { return };
    let stubs = venv.stubs();
    let server = Setup::new().start();
    run_foreign(&venv, stubs.path(), &server, "/python/shared.bin");
    let file = server.default_files().join("python/shared.bin");
    assert_eq!(std::fs::read(file).unwrap(), foreign_content());
}

#[test]
fn python_does_the_same_over_tls() {
    let (Some(venv), Some(authority)) = (available(Venv::get()), available(Authority::new())) else { return };
    let stubs = venv.stubs();
    let server = Setup::new().args(authority.issue("server", Valid::Days(30)).server_args()).start();
    let script = paths::workspace().join("tests/python/foreign.py");
    let addr = server.addr().strip_prefix("https://").unwrap();
    let mut command = venv.command("python");
    command.env("PYTHONPATH", stubs.path()).env("PYTHONDONTWRITEBYTECODE", "1");
    command.arg(script).args([addr, "/python/shared.bin"]).arg(authority.ca());
    assert_eq!(run(&mut command), "all as the contract says\n");
    assert_eq!(std::fs::read(server.default_files().join("python/shared.bin")).unwrap(), foreign_content());
}

#[test]
fn boto3_reads_from_s3_what_python_wrote_through_a_mapping() {
    let (Some(venv), Some(moto)) = (available(Venv::get()), available(Moto::start())) else { return };
    let stubs = venv.stubs();
    let server = Setup::new().mount("/s3", &moto.mount_url("python")).envs(Moto::ENV).start();
    run_foreign(&venv, stubs.path(), &server, "/s3/shared.bin");
    assert_eq!(moto.object("python/shared.bin"), foreign_content());
}

#[test]
fn the_python_program_of_the_readme_does_what_it_says() {
    let Some(venv) = available(Venv::get()) else { return };
    let program = readme::block("python").unwrap();
    let lines = program.lines().filter(|line| !line.trim().is_empty()).count();
    assert!(lines <= 15, "README.md promises fifteen lines, and shows {lines}");
    assert!(program.contains(README_ADDR), "the program has to name the default address");
    let stubs = venv.stubs();
    let server = Setup::new().start();
    let mut command = venv.command("python");
    command.env("PYTHONPATH", stubs.path()).current_dir(stubs.path());
    let printed = run(command.arg("-c").arg(program.replace(README_ADDR, server.addr())));
    assert!(!printed.is_empty(), "the program shows nothing");
}

/// `buf curl` with the arguments of a `grpcurl` command, at `server`.
fn as_buf_curl(venv: &Venv, step: &Step, server: &Mmapd) -> Command {
    let mut command = venv.command("buf");
    command.args(["curl", "--http2-prior-knowledge", "--protocol", "grpc"]);
    let mut words = step.words.iter();
    assert_eq!(words.next().map(String::as_str), Some("grpcurl"), "{step:?}");
    while let Some(word) = words.next() {
        match word.as_str() {
            "-plaintext" => {}
            "-H" | "-d" => {
                let option = if word == "-H" { "--header" } else { "--data" };
                command.arg(option).arg(words.next().unwrap());
            }
            README_ADDR => {
                command.arg(format!("http://{}/{}", server.addr(), words.next().unwrap()));
            }
            other => panic!("{other:?} is not known to this test: {step:?}"),
        }
    }
    command
}

/// Whether both say the same, where what differs from run to run only has to be there.
fn same(shown: &Value, printed: &Value) -> bool {
    match (shown, printed) {
        (Value::Object(shown), Value::Object(printed)) => {
            shown.keys().eq(printed.keys())
                && shown.iter().all(|(key, value)| {
                    let varies = ["version", "modified", "idleMs", "graceMs"].contains(&key.as_str());
                    varies || same(value, &printed[key])
                })
        }
        (Value::Array(shown), Value::Array(printed)) => {
            shown.len() == printed.len() && shown.iter().zip(printed).all(|(shown, printed)| same(shown, printed))
        }
        _ => shown == printed,
    }
}

#[test]
fn the_grpcurl_session_of_the_readme_prints_what_it_shows() {
    let Some(venv) = available(Venv::get()) else { return };
    let steps = readme::session(&readme::block("grpcurl").unwrap());
    let server = Setup::new().start();
    let mut called = Vec::new();
    for step in &steps {
        called.push(step.words.last().unwrap().rsplit('/').next().unwrap());
        let printed: Value = serde_json::from_str(&run(&mut as_buf_curl(&venv, step, &server))).unwrap();
        let shown: Value = serde_json::from_str(&step.output).unwrap_or_else(|error| panic!("{step:?}: {error}"));
        assert!(same(&shown, &printed), "README.md shows\n{shown:#}\nfor {:?}, but it is\n{printed:#}", step.words);
    }
    for syscall in ["Mmap", "MmapRead", "MmapWrite", "Msync", "Munmap", "MmapStats"] {
        assert!(called.contains(&syscall), "README.md does not show {syscall}");
    }
}

#[test]
fn the_comparison_with_the_readme_can_fail() {
    let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let shown = parse(r#"{"mmapId": "1", "version": "a", "list": [{"size": "3"}]}"#);
    assert!(same(&shown, &parse(r#"{"mmapId": "1", "version": "b", "list": [{"size": "3"}]}"#)));
    assert!(!same(&shown, &parse(r#"{"mmapId": "2", "version": "a", "list": [{"size": "3"}]}"#)));
    assert!(!same(&shown, &parse(r#"{"mmapId": "1", "list": [{"size": "3"}]}"#)));
    assert!(!same(&shown, &parse(r#"{"mmapId": "1", "version": "a", "list": []}"#)));
}
