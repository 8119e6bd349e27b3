//! TLS over the wire: our client, mmapctl and a foreign program through it, and everybody who is to be refused.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use mmap_client::{AttachOptions, Client, ClientBuilder, ErrorKind, Process, Prot};
use mmap_tests::certs::{Authority, Pair, Valid};
use mmap_tests::mmapctl;
use mmap_tests::mmapd::{Mmapd, Setup};
use mmap_tests::require::available;
use mmap_tests::wire::{Caller, eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The server looks at its files every two seconds.
const RENEWED: Duration = Duration::from_secs(20);

fn server(pair: &Pair) -> Setup {
    Setup::new().args(pair.server_args())
}

fn trusting(authority: &Authority) -> ClientBuilder {
    Client::builder().ca_file(authority.ca()).unwrap()
}

async fn process(client: &Client) -> Process {
    client.attach(AttachOptions { name: "tls".to_owned(), pid: None }).await.unwrap()
}

fn host_and_port(server: &Mmapd) -> String {
    server.addr().strip_prefix("https://").expect("a server of TLS says so").to_owned()
}

/// Its connection is refused, or the first call on it is: with TLS 1.3 a client learns of it only then.
async fn refused(builder: ClientBuilder, addr: &str) -> String {
    let ping = async { builder.connect(addr).await?.ping().await };
    ping.await.expect_err("it has to be refused").message().to_owned()
}

#[tokio::test]
async fn bytes_small_and_large_go_through_tls_as_they_are() {
    let Some(authority) = available(Authority::new()) else { return };
    let server = server(&authority.issue("server", Valid::Days(30))).start();
    let client = trusting(&authority).connect(server.addr()).await.unwrap();
    let process = process(&client).await;
    let length: usize = 9 << 20;
    let mapping = process.map("/large").length(length as u64).prot(Prot::READ_WRITE).create().await.unwrap();
    let data: Vec<u8> = (0..length).map(|at| u8::try_from((at * 31 + at / 4096) % 251).unwrap()).collect();
    mapping.write_all(0, data.clone()).await.unwrap();
    assert!(mapping.read_all(0, length).await.unwrap() == data, "what was written is not what is read");
    let small = (0..500u64).map(|at| mapping.read(at * 4096, 10));
    for (at, read) in futures::future::join_all(small).await.into_iter().enumerate() {
        assert_eq!(read.unwrap(), data[at * 4096..at * 4096 + 10]);
    }
    mapping.unmap().await.unwrap();
    process.exit().await.unwrap();
}

#[test]
fn mmapctl_speaks_tls_by_flags_and_variables() {
    let Some(authority) = available(Authority::new()) else { return };
    let server = server(&authority.issue("server", Valid::Days(30))).start();
    let ca = authority.ca().display().to_string();
    let by_flag = mmapctl::run(&server, ["ping", "--tls-ca", &ca]);
    assert!(by_flag.status.success(), "{by_flag:?}");
    let by_name = mmapctl::run(&server, ["ping", "--tls-ca", &ca, "--tls-server-name", "localhost"]);
    assert!(by_name.status.success(), "{by_name:?}");
    let by_variable = mmapctl::command(&server).env("MMAPCTL_TLS_CA", &ca).arg("ping").output().unwrap();
    assert!(by_variable.status.success(), "{by_variable:?}");
    let without = mmapctl::run(&server, ["ping"]);
    assert_eq!(without.status.code(), Some(6), "{without:?}");
    assert!(String::from_utf8_lossy(&without.stderr).contains("authority"), "{without:?}");
    let half = mmapctl::run(&server, ["ping", "--tls-ca", &ca, "--tls-cert", &ca]);
    assert_eq!(half.status.code(), Some(2), "{half:?}");
}

#[tokio::test]
async fn of_the_clients_of_mutual_tls_only_those_with_a_right_certificate_come_in() {
    let (Some(authority), Some(other)) = (available(Authority::new()), available(Authority::new())) else { return };
    let setup = server(&authority.issue("server", Valid::Days(30)));
    let server = setup.args(["--tls-client-ca".to_owned(), authority.ca().display().to_string()]).start();
    let right = authority.issue("right", Valid::Days(30));
    let stranger = other.issue("stranger", Valid::Days(30));
    let expired = authority.issue("expired", Valid::Ended);
    let with = |pair: &Pair| trusting(&authority).identity_files(&pair.cert, &pair.key).unwrap();

    let client = with(&right).connect(server.addr()).await.unwrap();
    assert!(client.ping().await.unwrap().serving);
    for (who, builder) in [
        ("no certificate", trusting(&authority)),
        ("another authority's", with(&stranger)),
        ("an expired one", with(&expired)),
    ] {
        let told = refused(builder, server.addr()).await;
        assert!(!told.is_empty(), "{who}");
    }
    assert!(client.ping().await.unwrap().serving, "the others are served");
    let log = server.stderr();
    assert!(log.contains("it has no certificate, and --tls-client-ca wants one"), "{log}");
}

#[tokio::test]
async fn a_client_that_meets_the_wrong_server_says_what_to_do() {
    let (Some(authority), Some(other)) = (available(Authority::new()), available(Authority::new())) else { return };
    let secure = server(&authority.issue("server", Valid::Days(30))).start();
    let expired = server(&authority.issue("expired", Valid::Ended)).start();
    let plain = Setup::new().start();

    let stranger = trusting(&other).connect(secure.addr()).await.expect_err("it is not known");
    assert!(stranger.message().contains("authority"), "{stranger}");
    assert_eq!(stranger.kind(), ErrorKind::Connect);
    let named = trusting(&authority).server_name("elsewhere.example").connect(secure.addr()).await;
    let named = named.expect_err("it has another name");
    assert!(named.message().contains("name"), "{named}");
    let ended = trusting(&authority).connect(expired.addr()).await.expect_err("it has expired");
    assert!(ended.message().contains("expired"), "{ended}");
    let to_plain = trusting(&authority).connect(&format!("https://{}", plain.addr())).await;
    let to_plain = to_plain.expect_err("it speaks no TLS");
    assert!(to_plain.message().contains("without https://"), "{to_plain}");
    assert!(expired.stderr().contains("EXPIRED"), "{}", expired.stderr());
}

#[tokio::test]
async fn who_speaks_no_tls_to_a_port_of_tls_learns_nothing_and_fills_no_log() {
    let Some(authority) = available(Authority::new()) else { return };
    let server = server(&authority.issue("server", Valid::Days(30))).start();
    let attempts = 60;
    for attempt in 0..attempts {
        let mut tcp = TcpStream::connect(host_and_port(&server)).await.unwrap();
        let hello: &[u8] = match attempt % 3 {
            0 => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
            1 => b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
            _ => &[0xff; 64],
        };
        tcp.write_all(hello).await.unwrap();
        let mut answer = Vec::new();
        // It may be a reset, which is no answer either.
        let _ = tokio::time::timeout(Duration::from_secs(5), tcp.read_to_end(&mut answer)).await.expect("it is closed");
        // At most an alert of TLS: its type, a version, and two bytes.
        assert!(answer.is_empty() || (answer[0] == 0x15 && answer.len() == 7), "{answer:?}");
    }
    let told = server.stderr().lines().filter(|line| line.contains("a TLS connection was refused")).count();
    assert!((1..attempts / 3).contains(&told), "{told} lines for {attempts} clients");
    assert!(trusting(&authority).connect(server.addr()).await.unwrap().ping().await.unwrap().serving);
}

#[tokio::test]
async fn a_socket_file_beside_tls_stays_plain() {
    let Some(authority) = available(Authority::new()) else { return };
    let setup = server(&authority.issue("server", Valid::Days(30)));
    let socket = format!("unix:{}", setup.folder().join("m.sock").display());
    let server = setup.listen("127.0.0.1:0").listen(&socket).start();
    assert!(server.addrs()[0].starts_with("https://") && server.addrs()[1] == socket, "{:?}", server.addrs());
    assert!(Client::connect(&socket).await.unwrap().ping().await.unwrap().serving);
}

#[tokio::test]
async fn a_renewed_certificate_serves_without_a_restart_and_connections_live_on() {
    let (Some(old), Some(new)) = (available(Authority::new()), available(Authority::new())) else { return };
    let pair = old.issue("server", Valid::Days(30));
    let server = server(&pair).start();
    let standing = trusting(&old).connections(1).connect(server.addr()).await.unwrap();
    let process = process(&standing).await;
    let mapping = process.map("/live").length(4096).prot(Prot::READ_WRITE).create().await.unwrap();
    mapping.write(0, "before").await.unwrap();

    new.issue("server", Valid::Days(30)).replace(&pair);
    let renewed = async || trusting(&new).connect(server.addr()).await.ok();
    eventually("the new certificate", RENEWED, renewed).await;
    assert_eq!(mapping.read(0, 6).await.unwrap(), "before", "the connection that stood stands");

    // A key that does not fit, then no file at all: what serves goes on.
    std::fs::copy(old.issue("wrong", Valid::Days(30)).key, &pair.key).unwrap();
    let told = async || server.stderr().contains("does not belong to the certificate").then_some(());
    eventually("the mismatch is told", RENEWED, told).await;
    std::fs::remove_file(&pair.cert).unwrap();
    let told = async || server.stderr().contains("cannot be read").then_some(());
    eventually("the missing file is told", RENEWED, told).await;
    assert!(trusting(&new).connect(server.addr()).await.unwrap().ping().await.unwrap().serving);

    server.signal("HUP");
    let told = async || server.stderr().contains("read again: nothing has changed").then_some(());
    eventually("SIGHUP reads the files", RENEWED, told).await;
    old.issue("third", Valid::Days(30)).replace(&pair);
    eventually("a right pair again", RENEWED, async || trusting(&old).connect(server.addr()).await.ok()).await;
    assert_eq!(mapping.read(0, 6).await.unwrap(), "before");
}

#[test]
fn files_that_do_not_fit_keep_the_server_from_starting() {
    let Some(authority) = available(Authority::new()) else { return };
    let (one, two) = (authority.issue("one", Valid::Days(30)), authority.issue("two", Valid::Days(3)));
    let text = |path: &std::path::Path| path.display().to_string();
    for (cert, key, sentence) in [
        (text(&one.cert), text(&two.key), "does not belong to the certificate"),
        (text(&one.key), text(&one.key), "holds no certificate"),
        (text(&one.cert), text(&one.cert), "holds no private key"),
        ("/nowhere.pem".to_owned(), text(&one.key), "/nowhere.pem cannot be read"),
    ] {
        let setup = Setup::new().args(["--tls-cert".to_owned(), cert, "--tls-key".to_owned(), key]);
        let ended = setup.run_to_end(Duration::from_secs(30));
        assert_eq!(ended.status.code(), Some(2), "{ended:?}");
        assert!(ended.stderr.contains(sentence), "{sentence}: {ended:?}");
    }
    std::fs::set_permissions(&two.key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let server = server(&two).start();
    let log = server.stderr();
    assert!(log.contains("expires in") && log.contains("chmod 600"), "{log}");
}

#[tokio::test]
async fn a_wire_caller_without_tls_is_not_served_by_a_server_of_tls() {
    let Some(authority) = available(Authority::new()) else { return };
    let server = server(&authority.issue("server", Valid::Days(30))).start();
    let plain = Client::connect(&host_and_port(&server)).await;
    let failed = match plain {
        Ok(client) => client.with_deadline(Duration::from_secs(5)).ping().await.map(|_| ()),
        Err(error) => Err(error),
    };
    assert!(failed.is_err());
    // The same caller through a plain server, to show that it would be served.
    let other = Setup::new().start();
    assert!(Caller::connect(other.addr(), 1).await.map_shared("/plain", 4096).await > 0);
}
