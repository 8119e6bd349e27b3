//! Operators and foreign programs: keys and tokens by `mmapctl`, and calls with them by `buf curl`.

use std::process::{Command, Output};

use mmap_tests::mmapd::Setup;
use mmap_tests::require::available;
use mmap_tests::venv::Venv;
use mmap_tests::{binaries, mmapctl};

fn text(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{text}");
    text
}

fn tool(args: &[&str]) -> Output {
    Command::new(binaries::binary("mmapctl")).args(args).output().unwrap()
}

#[test]
fn an_operator_makes_a_key_and_a_token_and_lists_files_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (key, keys, file) = (path("key.pem"), path("keys.json"), path("token"));
    text(&tool(&["token", "keygen", &key, "--jwks", &keys]));
    text(&tool(&["token", "keygen", &path("next.pem"), "--jwks", &keys, "--kid", "next"]));
    assert_eq!(tool(&["token", "keygen", &key]).status.code(), Some(1), "a key is never written over");
    assert_eq!(tool(&["token", "keygen", &path("x.pem"), "--jwks", &keys, "--kid", "next"]).status.code(), Some(5));
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&key).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);

    let mint = ["token", "mint", "--key", &key, "--subject", "alice", "--audience", "mmapd", "--path", "/data:r"];
    let token = text(&tool(&mint));
    std::fs::write(&file, &token).unwrap();
    let shown = text(&tool(&["token", "show", &file, "--jwt-keys", &keys]));
    for part in ["alice", "FileRead, FileWrite", "/data and below: look", "Z, in ", "mmapd", "right, by one of"] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
    assert!(text(&tool(&["token", "show", &file])).contains("not checked"));
    std::fs::write(path("others.json"), text(&tool(&["token", "keygen", &path("other.pem")]))).unwrap();
    let refused = tool(&["token", "show", &file, "--jwt-keys", &path("others.json")]);
    assert_eq!(refused.status.code(), Some(1));

    let server = Setup::new().args(["--auth", "jwt", "--jwt-audience", "mmapd", "--jwt-keys", &keys]).start();
    std::fs::create_dir_all(server.default_files().join("data")).unwrap();
    std::fs::write(server.default_files().join("data/x"), "hello").unwrap();
    let with_file = mmapctl::command(&server).args(["--token-file", &file, "cat", "/data/x"]).output().unwrap();
    assert_eq!(text(&with_file), "hello");
    let by_variable = mmapctl::command(&server).env("MMAPCTL_TOKEN", &token).args(["ls", "/"]).output().unwrap();
    assert!(text(&by_variable).contains("/data/x"));
    for (args, what) in [(&["ls", "/"][..], "no token"), (&["--token-file", &file, "rm", "/data/x"], "/data/x")] {
        let output = mmapctl::command(&server).args(args).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(4) && told.contains(what), "{args:?}: {told}");
        assert!(!told.contains(token.trim()));
    }
    assert!(text(&mmapctl::command(&server).arg("ping").output().unwrap()).contains("serves"), "health needs no token");
}

#[test]
fn a_foreign_client_calls_with_a_token_and_reflection_needs_none() {
    let Some(venv) = available(Venv::get()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (key, keys) = (path("key.pem"), path("keys.json"));
    text(&tool(&["token", "keygen", &key, "--jwks", &keys]));
    let token = text(&tool(&["token", "mint", "--key", &key, "--subject", "curl", "--audience", "mmapd"]));
    let server = Setup::new().args(["--auth", "jwt", "--jwt-audience", "mmapd", "--jwt-keys", &keys]).start();
    let call = |authorization: &str| {
        let url = format!("http://{}/mmap.v1.FileService/TruncateFile", server.addr());
        let data = r#"{"path": "/by/curl", "size": 3, "create": true}"#;
        let mut command = venv.command("buf");
        command.args(["curl", "--http2-prior-knowledge", "--protocol", "grpc", "--data", data]);
        command.args(["--header", &format!("authorization: {authorization}"), &url]).output().unwrap()
    };
    assert!(text(&call(&format!("Bearer {}", token.trim()))).contains("\"size\": \"3\""));
    assert_eq!(std::fs::read(server.default_files().join("by/curl")).unwrap(), [0; 3]);
    let refused = call("Bearer garbage");
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && told.contains("unauthenticated"), "{told}");
}
