//! Cold reads: files in `rclone serve s3` that nothing is in memory of, beside object_store's own ranged GETs to the
//! same server with the same client. `cargo bench -p mmap-benches --bench cold`.
//!
//! - a scan of 1 GiB, beside the best that parallel ranged GETs reach over sizes and concurrency;
//! - the same through a store that answers late;
//! - random reads of 4 KiB, beside a bare GET of the 64 KiB around them.
//!
//! Peers run in turn, several rounds; medians and their ratio are printed.
#![allow(clippy::unwrap_used, missing_docs, reason = "a measurement that fails has to say so and end")]

mod machine;

use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::StreamExt as _;
use mmap_core::flags::{MapFlags, ProtFlags};
use mmap_core::limits::Limits;
use mmap_core::manager::{MmapId, MmapManager};
use mmap_core::state::StateDir;
use mmap_core::vfs::object::{ObjectLayout, ObjectOptions};
use mmap_core::vfs::{Mount, Vfs};
use mmap_tests::rclone::Rclone;
use object_store::aws::AmazonS3Builder;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStore, ObjectStoreExt as _};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const BLOCK: u64 = 64 * KIB;
const NAME: &str = "big";

/// What the command line asks for.
struct Options {
    file: u64,
    rounds: usize,
    gets: usize,
    late: Vec<u64>,
}

/// Answers a ranged GET as partial content, as the server means it, and late.
#[derive(Debug)]
struct Late {
    inner: ReqwestConnector,
    by: Duration,
}

#[derive(Debug)]
struct LateClient {
    inner: HttpClient,
    by: Duration,
}

impl HttpConnector for Late {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(LateClient { inner: self.inner.connect(options)?, by: self.by }))
    }
}

#[async_trait]
impl HttpService for LateClient {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        if !self.by.is_zero() {
            tokio::time::sleep(self.by).await;
        }
        let mut response = self.inner.execute(request).await?;
        if response.headers().contains_key("content-range") {
            *response.status_mut() = 206.try_into().unwrap();
        }
        Ok(response)
    }
}

/// The client of the server, whose answers come so much later.
fn client(server: &Rclone, by: Duration) -> Arc<dyn ObjectStore> {
    let [(_, key), (_, secret)] = Rclone::ENV;
    let builder = AmazonS3Builder::new().with_bucket_name(Rclone::BUCKET).with_endpoint(server.endpoint());
    let builder = builder.with_access_key_id(key).with_secret_access_key(secret).with_region("us-east-1");
    let builder = builder.with_allow_http(true).with_http_connector(Late { inner: ReqwestConnector::default(), by });
    Arc::new(builder.build().unwrap())
}

/// A manager that has nothing in memory, and the whole file mapped.
async fn mapped(client: &Arc<dyn ObjectStore>, file: u64, read_ahead: u64) -> (Arc<MmapManager>, MmapId) {
    let store = Arc::new(ObjectLayout::new(Arc::clone(client), Path::ROOT, ObjectOptions::default()));
    let vfs = Vfs::new(vec![Mount::with_store("/", store).unwrap()]).unwrap();
    let limits = Limits { read_ahead, ..Limits::default() };
    let manager = MmapManager::open(vfs, StateDir::none(), limits).unwrap();
    let id = manager.mmap(1, format!("/{NAME}"), 0, file, ProtFlags::PROT_READ, MapFlags::Shared).await.unwrap();
    (manager, id)
}

/// Parallel ranged GETs over the whole file; each is taken in order, as a reader of the file would.
async fn bare_scan(client: Arc<dyn ObjectStore>, file: u64, size: u64, at_once: usize) {
    let path = Path::from(NAME);
    let gets = (0..file / size).map(|number| {
        let (client, path) = (&client, &path);
        async move { client.get_range(path, number * size..(number + 1) * size).await.unwrap() }
    });
    let bytes: u64 = futures::stream::iter(gets)
        .buffered(at_once)
        .map(|got| got.len() as u64)
        .collect::<Vec<_>>()
        .await
        .iter()
        .sum();
    assert_eq!(bytes, file);
}

/// One reader from the first byte to the last.
async fn scan(client: Arc<dyn ObjectStore>, file: u64, chunk: u64, hinted: bool) -> String {
    let (manager, id) = mapped(&client, file, Limits::default().read_ahead).await;
    if hinted {
        manager.will_read(1, id, 0, file).unwrap();
    }
    for offset in (0..file).step_by(usize::try_from(chunk).unwrap()) {
        assert_eq!(manager.read(1, id, offset, chunk).await.unwrap().len() as u64, chunk);
    }
    let (used, stats) = (manager.read_ahead_use(), manager.stats(1, id).unwrap());
    manager.munmap(1, id).await.unwrap();
    let wasted = manager.read_ahead_use().wasted;
    format!(
        "waited for {} of {} blocks; used {}, wasted {} MiB",
        stats.major_faults,
        file / BLOCK,
        used.used / MIB,
        wasted / MIB
    )
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[allow(clippy::cast_precision_loss, reason = "a measurement of some digits")]
fn rate(file: u64, took: Duration) -> f64 {
    file as f64 / MIB as f64 / took.as_secs_f64()
}

type Row = (String, bool, Box<dyn Fn() -> futures::future::BoxFuture<'static, String>>);

/// MiB a second of each row, all in turn.
async fn scans(options: &Options, server: &Rclone, late: u64, sizes: &[(u64, usize)]) {
    let (client, file) = (client(server, Duration::from_millis(late)), options.file);
    let mut rows: Vec<Row> = Vec::new();
    for &(size, at_once) in sizes {
        let client = Arc::clone(&client);
        let run = move || -> futures::future::BoxFuture<'static, String> {
            let client = Arc::clone(&client);
            Box::pin(async move {
                bare_scan(client, file, size, at_once).await;
                String::new()
            })
        };
        rows.push((format!("object_store, {at_once} GETs of {} KiB", size / KIB), true, Box::new(run)));
    }
    for (chunk, hinted) in [(64 * KIB, false), (256 * KIB, false), (MIB, false), (MIB, true)] {
        let client = Arc::clone(&client);
        let run = move || -> futures::future::BoxFuture<'static, String> {
            Box::pin(scan(Arc::clone(&client), file, chunk, hinted))
        };
        let hint = if hinted { ", will_read" } else { "" };
        rows.push((format!("mmapd's core, reads of {} KiB{hint}", chunk / KIB), false, Box::new(run)));
    }
    let mut rates = vec![Vec::new(); rows.len()];
    let mut notes = vec![String::new(); rows.len()];
    for round in 0..=options.rounds {
        for (number, (_, _, run)) in rows.iter().enumerate() {
            let started = Instant::now();
            notes[number] = tokio::spawn(run()).await.unwrap();
            // The first round finds the server's file cache cold.
            if round > 0 {
                rates[number].push(rate(file, started.elapsed()));
            }
        }
    }
    let medians: Vec<f64> = rates.into_iter().map(median).collect();
    let best = rows.iter().zip(&medians).filter(|((_, bare, _), _)| *bare).map(|(_, rate)| *rate).fold(0.0, f64::max);
    println!(
        "\n### Scan of {} MiB, {late} ms late\n\n| who | MiB/s | of the best GETs | |\n|---|--:|--:|---|",
        file / MIB
    );
    for (((name, _, _), rate), note) in rows.iter().zip(&medians).zip(&notes) {
        println!("| {name} | {rate:.0} | {:.2} | {note} |", rate / best);
    }
}

/// Microseconds of a random read and of a bare GET, call by call in turn.
async fn random(options: &Options, server: &Rclone) {
    let client = client(server, Duration::ZERO);
    let (manager, id) = mapped(&client, options.file, Limits::default().read_ahead).await;
    let (path, blocks) = (Path::from(NAME), options.file / BLOCK);
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for number in 0..options.gets as u64 {
        // Mixed twice: the multiples of a number alone are a stride, which read-ahead would find.
        let mixed = (number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let block = ((mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 20) % blocks;
        let started = Instant::now();
        manager.read(1, id, block * BLOCK + 8192, 4096).await.unwrap();
        ours.push(started.elapsed().as_secs_f64() * 1e6);
        let other = (block + blocks / 2) % blocks;
        let started = Instant::now();
        client.get_range(&path, other * BLOCK..(other + 1) * BLOCK).await.unwrap();
        bare.push(started.elapsed().as_secs_f64() * 1e6);
    }
    let ahead = manager.read_ahead_use().brought / BLOCK;
    let faults = manager.stats(1, id).unwrap().major_faults;
    let p99 = |values: &[f64]| {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() * 99 / 100]
    };
    let (our_p99, bare_p99) = (p99(&ours), p99(&bare));
    let (ours, bare) = (median(ours), median(bare));
    println!("\n### Random reads\n\n| who | p50 µs | p99 µs | |\n|---|--:|--:|---|");
    println!("| object_store, GET of 64 KiB | {bare:.0} | {bare_p99:.0} | |");
    println!(
        "| mmapd's core, cold read of 4 KiB | {ours:.0} | {our_p99:.0} | {:.2} of it; {faults} blocks waited for, {ahead} read ahead |",
        ours / bare
    );
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn main() {
    let options = Options {
        file: number("COLD_MIB", 1024) * MIB,
        rounds: usize::try_from(number("COLD_ROUNDS", 5)).unwrap(),
        gets: usize::try_from(number("COLD_GETS", 3000)).unwrap(),
        late: std::env::var("COLD_LATE")
            .map_or(vec![10, 50], |text| text.split(',').filter_map(|ms| ms.parse().ok()).collect()),
    };
    let folder = tempfile::tempdir().unwrap();
    let bucket = folder.path().join(Rclone::BUCKET);
    std::fs::create_dir_all(&bucket).unwrap();
    let mut file = std::fs::File::create(bucket.join(NAME)).unwrap();
    let piece: Vec<u8> = (0..MIB).map(|at| u8::try_from(at % 251).unwrap()).collect();
    (0..options.file / MIB).for_each(|_| file.write_all(&piece).unwrap());
    drop(file);
    let server = match Rclone::start(folder.path()) {
        Ok(server) => server,
        Err(missing) => return println!("not run: {missing:?}"),
    };
    println!("{}", machine::describe(folder.path()));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (options, server) = (&options, &server);
        let sizes = [
            (256 * KIB, 8),
            (MIB, 4),
            (MIB, 8),
            (4 * MIB, 2),
            (4 * MIB, 4),
            (4 * MIB, 8),
            (16 * MIB, 2),
            (16 * MIB, 4),
        ];
        scans(options, server, 0, &sizes).await;
        for late in &options.late {
            scans(options, server, *late, &[(MIB, 16), (4 * MIB, 8), (8 * MIB, 8), (8 * MIB, 16)]).await;
        }
        random(options, server).await;
    });
}
