//! What a hot call costs the server in allocations, and that it does not gather its data on the way: bounds on the
//! bytes allocated a call, which any copy of the data into a buffer of its own would break.
//!
//! The server has one thread, whose allocations are counted; the client has another, whose are not.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::ffi::OsString;
use std::path::Path;
use std::thread;

use allocation_counter::AllocationInfo;
use bytes::Bytes;
use mmap_proto::v1;
use mmap_proto::v1::mmap_service_client::MmapServiceClient;
use mmap_server::config::Config;
use mmap_server::server::Server;
use mmap_token::{Audience, Claims, PathClaim, PrivateKey};
use tokio::runtime::{Builder, Runtime};
use tonic::Request;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};

const FILE: u64 = 8 << 20;
const WARM: u64 = 20;
const CALLS: u64 = 100;

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// How a caller says what it may do.
#[derive(Clone, Debug)]
enum Rights {
    Claimed,
    Token(String),
}

fn request<T>(message: T, rights: &Rights) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("mmap-pid", MetadataValue::from_static("1"));
    match rights {
        Rights::Claimed => {
            let value = MetadataValue::from_static("FileRead,FileWrite");
            request.metadata_mut().insert("mmap-capabilities", value);
        }
        Rights::Token(token) => {
            let value = MetadataValue::try_from(format!("Bearer {token}")).unwrap();
            request.metadata_mut().insert("authorization", value);
        }
    }
    request
}

/// A key's file in `dir`, and a token by it.
fn token(dir: &Path) -> String {
    let (key, _) = PrivateKey::generate().unwrap();
    std::fs::write(dir.join("key.pem"), key.public_pem().unwrap()).unwrap();
    let claims = Claims {
        sub: "alice".into(),
        capabilities: vec!["FileRead".into(), "FileWrite".into()],
        paths: Some(vec![PathClaim { prefix: "/".into(), rights: mmap_token::Rights::Rw }]),
        aud: Some(Audience::One("a".into())),
        iss: None,
        exp: mmap_token::now() + 600,
        nbf: None,
        iat: None,
    };
    key.mint(None, &claims).unwrap()
}

/// The client's thread: it says when the server is to be counted.
struct Client {
    stub: MmapServiceClient<Channel>,
    id: u64,
    rights: Rights,
}

impl Client {
    async fn connect(addr: String, rights: Rights) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{addr}")).unwrap();
        // As large as the server takes them, and the answers in frames as large as they come.
        let endpoint = endpoint.initial_stream_window_size(4 << 20).initial_connection_window_size(4 << 20);
        let channel = endpoint.connect().await.unwrap();
        let mut stub = MmapServiceClient::new(channel).max_decoding_message_size(64 << 20);
        let map = v1::MmapRequest {
            path: "/copies".into(),
            length: Some(FILE),
            prot: 3,
            shared: true,
            create: true,
            populate: true,
            ..Default::default()
        };
        let id = stub.mmap(request(map, &rights)).await.unwrap().into_inner().mmap_id;
        Self { stub, id, rights }
    }

    async fn call(&mut self, kind: Kind, length: u64) {
        match kind {
            Kind::Read => {
                let message = v1::MmapReadRequest { mmap_id: self.id, offset: 4096, length };
                let data = self.stub.mmap_read(request(message, &self.rights)).await.unwrap().into_inner().data;
                assert_eq!(data.len() as u64, length);
            }
            Kind::Write => {
                let data = Bytes::from(vec![7; usize::try_from(length).unwrap()]);
                let message = v1::MmapWriteRequest { mmap_id: self.id, offset: 4096, data };
                assert_eq!(
                    self.stub.mmap_write(request(message, &self.rights)).await.unwrap().into_inner().written,
                    length
                );
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Read,
    Write,
}

/// What the server's thread allocates in [`CALLS`] calls, one after the other.
fn counted(kind: Kind, length: u64, with_token: bool) -> AllocationInfo {
    let dir = tempfile::tempdir().unwrap();
    let args =
        ["mmapd", "--listen", "127.0.0.1:0", "--mount", "/=memory:", "--durability", "memory", "--memory", "256MiB"];
    let mut args: Vec<OsString> =
        args.into_iter().chain(["--state-dir"]).map(OsString::from).chain([dir.path().into()]).collect();
    let rights = if with_token { Rights::Token(token(dir.path())) } else { Rights::Claimed };
    if with_token {
        args.extend(["--auth", "jwt", "--jwt-audience", "a", "--jwt-keys"].map(OsString::from));
        args.push(dir.path().join("key.pem").into());
    }
    let server_runtime = runtime();
    let server = server_runtime.block_on(Server::bind(Config::read(args, &|_| None).unwrap())).unwrap();
    let addr = server.addrs()[0].clone();
    let (stop, asked) = futures::channel::mpsc::unbounded();
    let serving = server_runtime.spawn(server.serve(asked));
    let (warm, is_warm) = tokio::sync::oneshot::channel();
    let (done, is_done) = tokio::sync::oneshot::channel();
    let client = thread::spawn(move || {
        runtime().block_on(async {
            let mut client = Client::connect(addr, rights).await;
            for _ in 0..WARM {
                client.call(kind, length).await;
            }
            warm.send(()).unwrap();
            for _ in 0..CALLS {
                client.call(kind, length).await;
            }
            done.send(()).unwrap();
        });
    });
    server_runtime.block_on(is_warm).unwrap();
    let info = allocation_counter::measure(|| server_runtime.block_on(is_done).unwrap());
    client.join().unwrap();
    stop.unbounded_send(()).unwrap();
    server_runtime.block_on(serving).unwrap().unwrap();
    info
}

/// At most so many allocations a call, and so many bytes.
fn check(kind: Kind, length: u64, count_max: u64, bytes_max: u64) {
    check_as(false, kind, length, count_max, bytes_max);
}

fn check_as(with_token: bool, kind: Kind, length: u64, count_max: u64, bytes_max: u64) {
    let info = counted(kind, length, with_token);
    let (count, bytes) = (info.count_total / CALLS, info.bytes_total / CALLS);
    println!("{kind:?} of {length} bytes: {count} allocations, {bytes} bytes a call");
    assert!(
        count <= count_max && bytes <= bytes_max,
        "{kind:?} of {length}: {count} allocations, {bytes} bytes a call"
    );
}

#[test]
fn a_read_of_a_page_makes_little_and_no_copy() {
    check(Kind::Read, 4096, 12, 4000);
}

#[test]
fn a_read_with_a_token_makes_no_more_than_one_without() {
    // The token's header is the transport's: its text comes compressed, and stays in the table of headers.
    check_as(true, Kind::Read, 4096, 12, 4000);
}

#[test]
fn a_read_over_many_blocks_gathers_nothing() {
    check(Kind::Read, 1 << 20, 30, 64 << 10);
}

#[test]
fn a_write_of_a_page_makes_little() {
    check(Kind::Write, 4096, 12, 4000);
}

#[test]
fn a_write_over_many_blocks_is_not_gathered() {
    // The frames that it is received in, and no second time.
    check(Kind::Write, 1 << 20, 30, (1 << 20) * 5 / 4);
}
