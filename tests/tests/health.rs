//! `mmapd health`: what a container's health check and an exec probe ask.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use mmap_tests::binaries;
use mmap_tests::certs::{Authority, Valid};
use mmap_tests::mmapd::Setup;
use mmap_tests::require::available;

fn health(args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(binaries::binary("mmapd"));
    command.env_clear().arg("health").args(args).envs(env.iter().copied()).output().unwrap()
}

fn code_and_sentence(output: &Output) -> (Option<i32>, String) {
    let told = [&output.stdout[..], &output.stderr[..]].concat();
    let told = String::from_utf8(told).unwrap();
    assert_eq!(told.lines().count(), 1, "one sentence: {told}");
    (output.status.code(), told)
}

#[test]
fn a_server_that_serves_is_healthy_and_one_that_is_gone_is_not() {
    let server = Setup::new().start();
    let addr = server.addr().to_owned();
    let (code, told) = code_and_sentence(&health(&["--server", &addr], &[]));
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("is serving"), "{told}");
    for service in ["mmap.v1.stores", "mmap.v1.MmapService"] {
        let (code, told) = code_and_sentence(&health(&["--server", &addr, "--service", service], &[]));
        assert_eq!(code, Some(0), "{told}");
    }
    let (code, told) = code_and_sentence(&health(&["--server", &addr, "--service", "nobody"], &[]));
    assert!(code == Some(1) && told.contains("nobody"), "{told}");
    server.sigterm();
    let (code, told) = code_and_sentence(&health(&["--server", &addr], &[]));
    assert!(code == Some(1) && told.contains("cannot be reached"), "{told}");
}

#[test]
fn without_arguments_it_asks_the_first_address_of_the_same_configuration() {
    let setup = Setup::new();
    let socket = format!("unix:{}", setup.folder().join("m.sock").display());
    let server = setup.listen("127.0.0.1:0").listen(&socket).start();
    let port = server.addr().rsplit_once(':').unwrap().1;
    for listen in [server.addr().to_owned(), format!("0.0.0.0:{port} {socket}"), format!("{socket} 127.0.0.1:1")] {
        let (code, told) = code_and_sentence(&health(&[], &[("MMAPD_LISTEN", &listen)]));
        assert_eq!(code, Some(0), "{listen}: {told}");
    }
    let file = server.folder().join("mmapd.toml");
    std::fs::write(&file, format!("listen = [\"{}\"]\n", server.addr())).unwrap();
    let (code, told) = code_and_sentence(&health(&["--config", file.to_str().unwrap()], &[]));
    assert_eq!(code, Some(0), "{told}");
}

#[test]
fn a_server_of_tls_is_asked_over_tls() {
    let (Some(authority), Some(other)) = (available(Authority::new()), available(Authority::new())) else { return };
    let pair = authority.issue("server", Valid::Days(30));
    let ca = authority.ca().display().to_string();
    let (cert, key) = (pair.cert.display().to_string(), pair.key.display().to_string());
    let server = Setup::new().args(pair.server_args()).args(["--tls-client-ca", &ca]).start();
    let addr = server.addr();
    let listen = addr.strip_prefix("https://").unwrap();
    // The very environment of the server: nothing has to be said.
    let env = [
        ("MMAPD_LISTEN", listen),
        ("MMAPD_TLS_CERT", cert.as_str()),
        ("MMAPD_TLS_KEY", key.as_str()),
        ("MMAPD_TLS_CLIENT_CA", ca.as_str()),
    ];
    let (code, told) = code_and_sentence(&health(&[], &env));
    assert_eq!(code, Some(0), "{told}");
    let (code, told) =
        code_and_sentence(&health(&["--server", addr, "--tls-ca", &ca, "--tls-cert", &cert, "--tls-key", &key], &[]));
    assert_eq!(code, Some(0), "{told}");
    // Who has no certificate is refused, and so is a server of another authority.
    let (code, told) = code_and_sentence(&health(&["--server", addr, "--tls-ca", &ca], &[]));
    assert_eq!(code, Some(1), "{told}");
    let stranger = other.ca().display().to_string();
    let (code, told) = code_and_sentence(&health(&["--server", addr, "--tls-ca", &stranger], &[]));
    assert_eq!(code, Some(1), "{told}");
    let (code, told) = code_and_sentence(&health(&["--server", addr], &[]));
    assert!(code == Some(2) && told.contains("--tls-ca"), "{told}");
}

#[test]
fn a_server_that_does_not_answer_is_given_up_in_time() {
    // Built first: that is not what is measured.
    binaries::binary("mmapd");
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = silent.local_addr().unwrap().to_string();
    let start = Instant::now();
    let (code, told) = code_and_sentence(&health(&["--server", &addr, "--timeout", "500ms"], &[]));
    assert!(code == Some(1) && told.contains("does not answer"), "{told}");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}
