//! Bytes that come faster than stores take them: memory stays in its budget, no write is lost, writers wait in
//! line, and what waits is told. How fast readers are meanwhile is measured in benches/, not here.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod throttle;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mmap_core::flags::{MapFlags, ProtFlags};
use mmap_core::limits::Limits;
use mmap_core::manager::{Caller as Process, Create, MmapManager};
use mmap_core::state::StateDir;
use mmap_core::units::ByteRange;
use mmap_core::vfs::object::ObjectLayout;
use mmap_core::vfs::{FileStore, Mount, Vfs};
use mmap_proto::reason::Reason;
use mmap_proto::v1;
use mmap_tests::failure::expect;
use mmap_tests::mmapd::Setup;
use mmap_tests::moto::Moto;
use mmap_tests::require::available;
use mmap_tests::wire::{Caller, eventually, map_request};
use throttle::{SlowProxy, SlowStore};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const CLIENTS: u64 = 100;
/// Clients that share a file, each with a part of its own.
const SHARING: u64 = 5;
const PIECE: u64 = 16 * KIB;

/// What a client writes at a place: every piece of every client differs.
fn piece(client: u64, number: u64) -> Vec<u8> {
    let mark = client * 1_000_003 + number * 7 + 1;
    mark.to_le_bytes().iter().copied().cycle().take(usize::try_from(PIECE).unwrap()).collect()
}

/// The file that `client` writes to, and where its part of `pieces` pieces begins.
fn place(client: u64, pieces: u64) -> (u64, u64) {
    (client / SHARING, client % SHARING * pieces * PIECE)
}

/// The bytes of file `number` when all is written.
fn whole(number: u64, pieces: u64) -> Vec<u8> {
    let clients = number * SHARING..(number + 1) * SHARING;
    clients.flat_map(|client| (0..pieces).flat_map(move |number| piece(client, number))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_writers_over_a_slow_store_stay_in_budget_lose_nothing_and_wait_in_line() {
    const PIECES: u64 = 48;
    let files = CLIENTS / SHARING;
    let inner: Arc<dyn FileStore> = Arc::new(ObjectLayout::in_memory());
    let store = Arc::new(SlowStore::new(Arc::clone(&inner), 24 * MIB));
    let mount = Mount::with_store("/", Arc::clone(&store) as Arc<dyn FileStore>).unwrap();
    let limits = Limits { max_message: MIB, ..Limits::with_memory(32 * MIB) };
    let manager = MmapManager::open(Vfs::new(vec![mount]).unwrap(), StateDir::none(), limits.clone()).unwrap();
    for file in 0..files {
        let size = SHARING * PIECES * PIECE;
        manager.truncate_file(1, &format!("/{file}"), size, Create::IfMissing).await.unwrap();
    }
    let counts: Arc<Vec<AtomicU64>> = Arc::new((0..CLIENTS).map(|_| AtomicU64::new(0)).collect());
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (manager, counts) = (Arc::clone(&manager), Arc::clone(&counts));
            tokio::spawn(async move {
                let pid = u32::try_from(client + 1).unwrap();
                let (file, start) = place(client, PIECES);
                let (path, length) = (format!("/{file}"), PIECES * PIECE);
                let id = manager.mmap(pid, path, start, length, ProtFlags::read_write(), MapFlags::Shared).await?;
                for number in 0..PIECES {
                    let deadline = Some(tokio::time::Instant::now() + Duration::from_secs(60));
                    let process = Process { deadline, ..Process::from(pid) };
                    manager.write(process, id, number * PIECE, &piece(client, number)).await?;
                    counts[usize::try_from(client).unwrap()].fetch_add(1, Ordering::Relaxed);
                    // A write that need not wait does not yield, and the first clients would be through at once.
                    tokio::task::yield_now().await;
                }
                // How far the others were when this one was through.
                let least = counts.iter().map(|count| count.load(Ordering::Relaxed)).min().unwrap();
                manager.msync(pid, id).await?;
                Ok::<u64, mmap_core::error::Error>(least)
            })
        })
        .collect();
    let most = Arc::new(AtomicU64::new(0));
    let watch = {
        let (manager, limits, most) = (Arc::clone(&manager), limits.clone(), Arc::clone(&most));
        tokio::spawn(async move {
            loop {
                let now = manager.memory_use();
                assert!(now.dirty <= limits.dirty_bytes() && now.write_back <= limits.write_back_bytes(), "{now:?}");
                assert!(now.total() <= limits.memory, "{now:?}");
                most.fetch_max(now.dirty, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
    };
    let mut first_through = u64::MAX;
    for client in clients {
        first_through = first_through.min(client.await.unwrap().expect("every write is taken in time"));
    }
    assert!(!watch.is_finished(), "memory went over its budget");
    watch.abort();
    let most = most.load(Ordering::Relaxed);
    assert!(most + MIB > limits.dirty_bytes(), "{most}: the writers were never held at the hard limit");
    // Nobody starves. How far apart they are is the scheduler's affair as well: 8 and more of 48 were seen.
    assert!(first_through >= PIECES / 16, "one was through when another had only {first_through} of {PIECES} pieces");
    for file in 0..files {
        let name = file.to_string();
        let stat = inner.stat(&name).await.unwrap();
        let stored = inner.read(&name, &stat.version, ByteRange::new(0, stat.size)).await.unwrap().concat();
        assert!(stored == whole(file, PIECES), "file {file} is not what was written");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_clients_of_a_server_with_a_slow_s3_lose_nothing_and_its_memory_stays_in_budget() {
    const PIECES: u64 = 16;
    /// As in memory.rs: code, stacks, windows, messages under way, what the allocator holds back.
    const OVERHEAD: u64 = 48 * MIB;
    let Some(moto) = available(Moto::start()) else { return };
    let proxy = SlowProxy::start(moto.endpoint(), 16 * MIB).await;
    let url = format!("s3://{}/slow?endpoint=http://{}&region=us-east-1&allow_http", Moto::BUCKET, proxy.addr());
    let server = Setup::new().mount("/", &url).envs(Moto::ENV).args(["--memory", "64MiB"]).start();
    let files = CLIENTS / SHARING;
    let connections = [connect(&server).await, connect(&server).await, connect(&server).await, connect(&server).await];
    for file in 0..files {
        let size = SHARING * PIECES * PIECE;
        let request = v1::TruncateFileRequest { path: format!("/{file}"), size, create: true, exclusive: false };
        connections[0].file_service().truncate_file(connections[0].request(request)).await.unwrap();
    }
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let caller = connections[usize::try_from(client % 4).unwrap()].with_pid(u32::try_from(client + 1).unwrap());
            tokio::spawn(async move {
                let (file, start) = place(client, PIECES);
                let request = v1::MmapRequest { offset: start, ..map_request(&format!("/{file}"), PIECES * PIECE) };
                let id = caller.mmap(request).await.unwrap().mmap_id;
                for number in 0..PIECES {
                    write_until_taken(&caller, id, number * PIECE, &piece(client, number)).await;
                }
                caller.munmap(id).await.unwrap();
            })
        })
        .collect();
    let mut most = 0;
    for client in clients {
        while !client.is_finished() {
            most = most.max(server.resident_bytes());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        client.await.unwrap();
    }
    eprintln!("resident: {most} at most");
    assert!(most < 64 * MIB + OVERHEAD, "{} MiB", most / MIB);
    for file in 0..files {
        assert!(moto.object(&format!("slow/{file}")) == whole(file, PIECES), "file {file} is not what was written");
    }
}

async fn connect(server: &mmap_tests::mmapd::Mmapd) -> Caller {
    Caller::connect(server.addr(), 1).await
}

/// A client that is told EDQUOT tries again: back-pressure, and no loss.
async fn write_until_taken(caller: &Caller, id: u64, offset: u64, data: &[u8]) {
    for _ in 0..20 {
        match caller.write(id, offset, data.to_vec()).await {
            Ok(_) => return,
            Err(status) => {
                expect::<()>(Reason::DQuot, Err(status));
            }
        }
    }
    panic!("no write is taken");
}

#[tokio::test]
async fn private_pages_over_their_budget_go_to_the_disk_and_come_back() {
    const SIZE: u64 = 64 * MIB;
    // Without the journal, whose buffers are not what is counted here.
    let args = ["--memory", "64MiB", "--private-spill", "64MiB", "--durability", "memory"];
    let server = Setup::new().args(args).start();
    let caller = Caller::connect(server.addr(), 1).await;
    caller.map_shared("/file", SIZE).await;
    let id = caller.mmap(v1::MmapRequest { shared: false, ..map_request("/file", SIZE) }).await.unwrap().mmap_id;
    for number in 0..SIZE / MIB {
        let data = vec![u8::try_from(number + 1).unwrap(); 1 << 20];
        caller.write(id, number * MIB, data).await.unwrap();
    }
    // A part of a page that was spilled long ago.
    caller.write(id, 100, vec![255; 10]).await.unwrap();
    let stats = caller.stats(id).await.unwrap();
    assert_eq!(stats.private_bytes, SIZE, "{stats:?}");
    for number in 0..SIZE / MIB {
        let mut expected = vec![u8::try_from(number + 1).unwrap(); 1 << 20];
        if number == 0 {
            expected[100..110].fill(255);
        }
        assert!(caller.read(id, number * MIB, MIB).await.unwrap() == expected, "MiB {number}");
    }
    let resident = server.resident_bytes();
    eprintln!("resident: {resident}");
    // Eight of the 64 MiB of private pages are in memory, nothing is cached: without a spill file it would be 64.
    assert!(resident < 64 * MIB, "{} MiB", resident / MIB);
    assert!(!server.state_dir().join("spill").exists(), "the spill file has no name");
}

#[tokio::test]
async fn private_pages_over_their_budget_are_refused_where_no_disk_is_given() {
    let server = Setup::new().args(["--memory", "64MiB"]).start();
    let caller = Caller::connect(server.addr(), 1).await;
    caller.map_shared("/file", 16 * MIB).await;
    let id = caller.mmap(v1::MmapRequest { shared: false, ..map_request("/file", 16 * MIB) }).await.unwrap().mmap_id;
    for number in 0..8 {
        caller.write(id, number * MIB, vec![7; 1 << 20]).await.unwrap();
    }
    let refused = caller.write(id, 8 * MIB, vec![7; 1 << 20]).await;
    let failure = expect(Reason::NoMem, refused);
    assert!(format!("{failure:?}").contains("--private-spill"), "{failure:?}");
    assert_eq!(caller.read(id, 8 * MIB - 1, 2).await.unwrap(), vec![7, 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_store_in_trouble_is_told_until_it_is_stored() {
    const SOON: Duration = Duration::from_secs(60);
    let Some(moto) = available(Moto::start()) else { return };
    let setup = Setup::new().mount("/data", &moto.mount_url("files")).envs(Moto::ENV);
    let server = setup.args(["--store-timeout", "2s", "--process-grace", "100ms"]).start();
    let caller = Caller::connect(server.addr(), 1).await;
    let id = caller.map_shared("/data/late", 8192).await;
    caller.write(id, 0, &b"late but stored"[..]).await.unwrap();
    let waiting = || async {
        let request = caller.request(v1::ListWaitingRequest::default());
        caller.file_service().list_waiting(request).await.unwrap().into_inner().files
    };
    let [file] = &waiting().await[..] else { panic!("one file waits") };
    assert_eq!((file.path.as_str(), file.dirty_bytes, file.last_error.as_str()), ("/data/late", 4096, ""));
    moto.pause();
    expect(Reason::Io, caller.msync(id).await);
    let [file] = &waiting().await[..] else { panic!("one file waits") };
    assert!(file.waiting_ms >= 2000 && !file.last_error.is_empty(), "{file:?}");
    assert!(server.stderr().contains("what is to be stored waits for the store"), "{}", server.stderr());
    moto.resume();
    eventually("it can be synced", SOON, async || caller.msync(id).await.ok()).await;
    assert_eq!(waiting().await, []);
    assert!(server.stderr().contains("nothing waits for the store any more"), "{}", server.stderr());
    let plain = caller.with_capabilities("FileRead");
    expect(Reason::Acces, plain.file_service().list_waiting(plain.request(v1::ListWaitingRequest::default())).await);
}
