//! Hot 4 KiB reads and writes: in the core beside memcpy, over the wire beside a bare tonic service that
//! answers from a constant. `cargo bench -p mmap-benches`.
//!
//! Peers run in turn, several rounds; the medians and their ratio are printed. Server and client have a
//! runtime of one worker each, as two processes on two cores would.
#![allow(clippy::unwrap_used, missing_docs, reason = "a measurement that fails has to say so and end")]

mod bare;

use std::ffi::OsString;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt as _;
use mmap_core::flags::{MapFlags, ProtFlags};
use mmap_core::limits::Limits;
use mmap_core::manager::{Create, MapRequest, MmapId, MmapManager, Populate};
use mmap_core::state::StateDir;
use mmap_core::vfs::{MountSpec, Vfs};
use mmap_proto::v1;
use mmap_proto::v1::mmap_service_client::MmapServiceClient;
use mmap_server::config::Config;
use mmap_server::server::Server;
use tokio::runtime::{Builder, Runtime};
use tonic::Request;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 7;
const LENGTH: u64 = 4096;
const FILE_SIZE: u64 = 16 << 20;
const IN_FLIGHT: u64 = 64;
const CALLS: u64 = 20_000;
const CORE_CALLS: u64 = 200_000;
const LEVELS: [&str; 3] = ["memory", "process", "disk"];

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn one_worker() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// Offsets that walk over the file without a pattern that a cache line would like.
fn offset(call: u64) -> u64 {
    call.wrapping_mul(0x9E37_79B9_7F4A_7C15) % (FILE_SIZE / LENGTH) * LENGTH
}

/// The three in turn, `ROUNDS` times: nanoseconds an operation.
fn core_rows() {
    let runtime = one_worker();
    let _context = runtime.enter();
    let limits = Limits::default();
    let vfs = Vfs::open(&[MountSpec::parse("/=memory:").unwrap()], &limits).unwrap();
    let manager = MmapManager::open(vfs, StateDir::none(), limits).unwrap();
    let id = runtime.block_on(map(&manager));
    let source = vec![7u8; usize::try_from(FILE_SIZE).unwrap()];
    let mut page = vec![0u8; 4096];
    let (mut copies, mut reads, mut writes) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        copies.push(each(CORE_CALLS, |call| {
            let start = usize::try_from(offset(call)).unwrap();
            page.copy_from_slice(black_box(&source[start..start + 4096]));
            black_box(&page);
        }));
        reads.push(each(CORE_CALLS, |call| {
            // A hot access never waits: the first poll answers.
            let bytes = manager.read(1, id, offset(call), LENGTH).now_or_never().unwrap().unwrap();
            black_box(bytes);
        }));
        writes.push(each(CORE_CALLS, |call| {
            manager.write(1, id, offset(call), &page).now_or_never().unwrap().unwrap();
        }));
    }
    let (copy, read, write) = (median(copies), median(reads), median(writes));
    println!("memcpy of 4 KiB                        {copy:>8.0} ns");
    println!("core, hot read of 4 KiB, referenced    {read:>8.0} ns   {:>6.2} x memcpy", read / copy);
    println!("core, hot write of 4 KiB               {write:>8.0} ns   {:>6.2} x memcpy", write / copy);
}

async fn map(manager: &Arc<MmapManager>) -> MmapId {
    let request = MapRequest {
        path: "/hot".to_owned(),
        offset: 0,
        length: Some(FILE_SIZE),
        prot: ProtFlags::read_write(),
        flags: MapFlags::Shared,
        create: Create::IfMissing,
        populate: Populate::Now,
    };
    manager.map(1, request).await.unwrap().id
}

fn each(calls: u64, mut call: impl FnMut(u64)) -> f64 {
    let started = Instant::now();
    (0..calls).for_each(&mut call);
    started.elapsed().as_secs_f64() * 1e9 / f64::from(u32::try_from(calls).unwrap())
}

/// What a call of the wire is.
#[derive(Clone, Copy)]
enum Kind {
    Read,
    Write,
}

fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("mmap-pid", MetadataValue::from_static("1"));
    request.metadata_mut().insert("mmap-capabilities", MetadataValue::from_static("FileRead,FileWrite"));
    request
}

/// Calls a second with `IN_FLIGHT` under way on one connection.
fn wire_round(client: &Runtime, channel: &Channel, id: u64, kind: Kind) -> f64 {
    let started = Instant::now();
    client.block_on(async {
        let callers = (0..IN_FLIGHT).map(|caller| {
            let mut stub = MmapServiceClient::new(channel.clone());
            tokio::spawn(async move {
                let data = Bytes::from(vec![3; 4096]);
                for call in 0..CALLS / IN_FLIGHT {
                    let offset = offset(caller * CALLS + call);
                    match kind {
                        Kind::Read => {
                            let message = v1::MmapReadRequest { mmap_id: id, offset, length: LENGTH };
                            black_box(stub.mmap_read(request(message)).await.unwrap());
                        }
                        Kind::Write => {
                            let message = v1::MmapWriteRequest { mmap_id: id, offset, data: data.clone() };
                            black_box(stub.mmap_write(request(message)).await.unwrap());
                        }
                    }
                }
            })
        });
        for caller in callers.collect::<Vec<_>>() {
            caller.await.unwrap();
        }
    });
    f64::from(u32::try_from(CALLS).unwrap()) / started.elapsed().as_secs_f64()
}

fn connect(client: &Runtime, addr: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{addr}")).unwrap().tcp_nodelay(true);
    client.block_on(endpoint.connect()).unwrap()
}

/// A server of ours on a runtime of its own, with a mapped file.
struct Ours {
    runtime: Runtime,
    channel: Channel,
    id: u64,
    stop: futures::channel::mpsc::UnboundedSender<()>,
    serving: tokio::task::JoinHandle<()>,
    /// Holds its journal.
    _state: tempfile::TempDir,
}

impl Ours {
    fn start(client: &Runtime, durability: &str) -> Self {
        let (runtime, state) = (one_worker(), tempfile::tempdir().unwrap());
        let args = ["mmapd", "--listen", "127.0.0.1:0", "--mount", "/=memory:", "--memory", "512MiB", "--durability"];
        let args = args.into_iter().chain([durability, "--state-dir"]).map(OsString::from).chain([state.path().into()]);
        let server = runtime.block_on(Server::bind(Config::read(args, &|_| None).unwrap())).unwrap();
        let channel = connect(client, &server.addrs()[0]);
        let (stop, asked) = futures::channel::mpsc::unbounded();
        let serving = runtime.spawn(async move {
            server.serve(asked).await.unwrap();
        });
        let message = v1::MmapRequest {
            path: "/hot".into(),
            length: Some(FILE_SIZE),
            prot: 3,
            shared: true,
            create: true,
            populate: true,
            ..Default::default()
        };
        let mut stub = MmapServiceClient::new(channel.clone());
        let id = client.block_on(stub.mmap(request(message))).unwrap().into_inner().mmap_id;
        Self { runtime, channel, id, stop, serving, _state: state }
    }

    fn round(&self, client: &Runtime, kind: Kind) -> f64 {
        wire_round(client, &self.channel, self.id, kind)
    }

    fn end(self) {
        self.stop.unbounded_send(()).unwrap();
        let serving = self.serving;
        let ended = self.runtime.block_on(async { tokio::time::timeout(Duration::from_secs(30), serving).await });
        ended.unwrap().unwrap();
    }
}

fn wire_rows() {
    let (client, bare) = (one_worker(), one_worker());
    let listener = bare.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let bare_addr = listener.local_addr().unwrap().to_string();
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    let echo = bare::Bare::serving(Bytes::from(vec![7; 4096]));
    bare.spawn(tonic::transport::Server::builder().add_service(echo).serve_with_incoming(incoming));
    let bare_channel = connect(&client, &bare_addr);

    let server = Ours::start(&client, "memory");
    for (name, kind) in [("read", Kind::Read), ("write", Kind::Write)] {
        let (mut bares, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            bares.push(wire_round(&client, &bare_channel, server.id, kind));
            ours.push(server.round(&client, kind));
        }
        let (bare, ours) = (median(bares), median(ours));
        println!("bare tonic, unary {name} of 4 KiB, {IN_FLIGHT} in flight   {bare:>9.0} calls/s");
        println!("mmapd, the same, level memory            {ours:>9.0} calls/s   {:>6.2} of bare", ours / bare);
    }
    server.end();
}

/// What each level of durability costs a writer.
fn level_rows() {
    let client = one_worker();
    let servers = LEVELS.map(|level| Ours::start(&client, level));
    let mut rates = LEVELS.map(|_| Vec::new());
    for _ in 0..ROUNDS {
        for (server, rates) in servers.iter().zip(&mut rates) {
            rates.push(server.round(&client, Kind::Write));
        }
    }
    let rates = rates.map(median);
    for (level, rate) in LEVELS.iter().zip(rates) {
        let part = rate / rates[0];
        println!("mmapd, unary write of 4 KiB, level {level:<8} {rate:>7.0} calls/s   {part:>6.2} of memory");
    }
    servers.into_iter().for_each(Ours::end);
}

fn main() {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!("{cores} cores, {}, {ROUNDS} rounds, medians", std::env::consts::ARCH);
    core_rows();
    wire_rows();
    level_rows();
}
