//! mmapd beside going to the store directly: ranged GETs by object_store, to one `rclone serve s3` and to one folder,
//! against reads through mmapd, cold and warm. `cargo bench -p mmap-benches --bench store`.
//!
//! What the core alone does with a store is the topic `cold`. Client, mmapd and store share one machine here, so that
//! a scan through mmapd moves every byte once more than the direct one.
#![allow(missing_docs, reason = "a bench target has no users")]

use std::path::Path as Folder;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use http::StatusCode;
use mmap_benches::bucket::Bucket;
use mmap_benches::load::offset;
use mmap_benches::measure::measure;
use mmap_benches::peers::settings::Settings;
use mmap_benches::rows::{Sample, Table, Target, Unit, Who};
use mmap_benches::s3::S3;
use mmap_benches::side::within;
use mmap_benches::stats::quantile;
use mmap_benches::topic::{self, Topic};
use object_store::aws::AmazonS3Builder;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStore, ObjectStoreExt as _};
use tokio::runtime::Runtime;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const FILE: &str = "big";
const WARM: &str = "warm";
const MIB: u64 = 1 << 20;
/// Sizes of a GET in MiB and how many are under way: the best of them is the row.
const SHAPES: [(u64, usize); 6] = [(1, 8), (1, 32), (4, 8), (4, 16), (8, 8), (16, 4)];

/// rclone answers a ranged GET with status 200 and the range's header. Both sides take that for the partial content
/// that it is: mmapd by itself, object_store's client by this.
#[derive(Debug, Default)]
struct Partial(ReqwestConnector);

#[derive(Debug)]
struct PartialClient(HttpClient);

impl HttpConnector for Partial {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(PartialClient(self.0.connect(options)?)))
    }
}

#[async_trait]
impl HttpService for PartialClient {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let mut response = self.0.execute(request).await?;
        if response.headers().contains_key("content-range") {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        Ok(response)
    }
}

/// A store that is asked directly.
struct Direct {
    store: Arc<dyn ObjectStore>,
    pids: Vec<u32>,
    size: u64,
    runtime: Runtime,
}

impl Direct {
    fn s3(s3: &S3, size: u64) -> Result<Self, String> {
        let [endpoint, bucket, key, secret] = s3.access();
        let builder = AmazonS3Builder::new().with_endpoint(endpoint).with_bucket_name(bucket).with_allow_http(true);
        let builder = builder.with_region("us-east-1").with_access_key_id(key).with_secret_access_key(secret);
        let store = builder.with_http_connector(Partial::default()).build().map_err(|error| error.to_string())?;
        Ok(Self { store: Arc::new(store), pids: vec![s3.pid()], size, runtime: Settings::TUNED.runtime()? })
    }

    fn folder(folder: &Folder, size: u64) -> Result<Self, String> {
        let store = LocalFileSystem::new_with_prefix(folder).map_err(|error| error.to_string())?;
        Ok(Self { store: Arc::new(store), pids: Vec::new(), size, runtime: Settings::TUNED.runtime()? })
    }

    /// Every byte, by GETs of `mib` with `parallel` under way.
    fn scan(&self, (mib, parallel): (u64, usize)) -> Result<Sample, String> {
        let (path, piece) = (Path::from(FILE), mib * MIB);
        let gets = (0..self.size.div_ceil(piece)).map(|number| {
            let start = number * piece;
            self.store.get_range(&path, start..(start + piece).min(self.size))
        });
        measure(Unit::GibPerSecond, &self.pids, || {
            within(&self.runtime, async {
                let all = stream::iter(gets).buffered(parallel).map_ok(|_| ());
                all.try_for_each(|()| async { Ok(()) }).await.map_err(|error| error.to_string())?;
                Ok(u32::try_from(self.size / MIB).map_or(f64::NAN, f64::from))
            })
        })
    }

    /// The shape of GETs that is fastest now.
    fn best(&self) -> (u64, usize) {
        let rate = |shape| self.scan(shape).map_or(0.0, |sample| sample.value);
        let rates = SHAPES.map(|shape| (shape, rate(shape)));
        rates.into_iter().max_by(|left, right| left.1.total_cmp(&right.1)).map_or(SHAPES[0], |(shape, _)| shape)
    }

    /// GETs of `length` at random places, one after the other: the median in microseconds.
    fn random(&self, length: u64, reads: u32, round: u64) -> Result<Sample, String> {
        let (mut times, path) = (Vec::with_capacity(reads as usize), Path::from(FILE));
        let sample = measure(Unit::Microseconds, &self.pids, || {
            within(&self.runtime, async {
                for number in 0..reads {
                    let start = offset(round << 20 | u64::from(number), length, self.size);
                    let asked = Instant::now();
                    let got = self.store.get_range(&path, start..start + length).await;
                    got.map_err(|error| error.to_string())?;
                    times.push(asked.elapsed().as_secs_f64() * 1e6);
                }
                Ok(f64::from(reads))
            })
        })?;
        Ok(Sample { value: quantile(&mut times, 500).unwrap_or(f64::NAN), ..sample })
    }
}

fn main() -> ExitCode {
    topic::run("store", "The store: mmapd beside asking it directly", |topic| {
        let size = if topic.options().is_quick { 64 * MIB } else { 1024 * MIB };
        let s3 = S3::start().and_then(|s3| s3.put(FILE, size).and_then(|()| s3.put(WARM, size)).map(|()| s3));
        if let Some(version) = s3.as_ref().ok().and_then(S3::version) {
            topic.version("rclone", &version);
        }
        let failed = |s3: &Result<S3, String>| s3.as_ref().err().cloned().unwrap_or_default();
        let of_s3 = |name| s3.as_ref().map_err(Clone::clone).and_then(|s3| Bucket::open(s3, name));
        let direct = s3.as_ref().map_err(Clone::clone).and_then(|s3| Direct::s3(s3, size));
        if topic.wants_any(&["s3-scan", "s3-random"]) {
            let ours = Ours { cold: of_s3(FILE), warm: of_s3(WARM).and_then(warmed) };
            tables(topic, "s3", "S3 (rclone)", &ours, &direct);
        }
        if topic.wants_any(&["folder-scan", "folder-random"]) {
            let of_folder = |name| match &s3 {
                Ok(s3) => Bucket::folder(&s3.objects(), name),
                Err(_) => Err(failed(&s3)),
            };
            let ours = Ours { cold: of_folder(FILE), warm: of_folder(WARM).and_then(warmed) };
            let direct = s3.as_ref().map_err(Clone::clone).and_then(|s3| Direct::folder(&s3.objects(), size));
            tables(topic, "folder", "a folder (the page cache has it)", &ours, &direct);
        }
    })
}

/// Two servers: one that is made cold each round, and one that stays warm.
struct Ours {
    cold: Result<Bucket, String>,
    warm: Result<Bucket, String>,
}

fn warmed(bucket: Bucket) -> Result<Bucket, String> {
    bucket.scan().map(|_| bucket)
}

const COLD_ROW: &str = "mmapd, cold";
const WARM_ROW: &str = "mmapd, warm";

fn tables(topic: &mut Topic, id: &str, name: &str, ours: &Ours, direct: &Result<Direct, String>) {
    let best = "object_store, best parallel ranged GETs";
    let title = format!("Scan of 1 GiB in {name}");
    let mut table = Table::new(&format!("{id}-scan"), &title, Unit::GibPerSecond);
    if id == "s3" {
        table = table.target(Target::at_least(
            "cold scan of 1 GiB through mmapd / object_store's best",
            COLD_ROW,
            best,
            0.9,
        ));
    }
    if let Some(mut contest) = topic.contest(table) {
        rows(&mut contest, ours, Bucket::scan);
        match direct {
            Ok(it) => {
                let shape = it.best();
                contest.row(best, Who::Ceiling, move || it.scan(shape));
                contest.note(&format!("{} MiB each, {} under way, the best of {SHAPES:?}", shape.0, shape.1));
            }
            Err(why) => contest.gap(best, Who::Ceiling, why),
        }
        contest.run();
    }
    let (block, page) = ("object_store, GET of 64 KiB", "object_store, GET of 4 KiB");
    let title = format!("Random reads of 4 KiB of 1 GiB in {name}, 1 at a time, p50");
    let mut table = Table::new(&format!("{id}-random"), &title, Unit::Microseconds);
    if id == "s3" {
        let what = "cold random 4 KiB read through mmapd / one bare 64 KiB ranged GET, p50";
        table = table.target(Target::at_most(what, COLD_ROW, block, 1.15));
    }
    let reads = if topic.options().is_quick { 30 } else { 300 };
    if let Some(mut contest) = topic.contest(table) {
        rows(&mut contest, ours, move |bucket| bucket.random(reads));
        for (name, length) in [(block, 64 << 10), (page, 4 << 10)] {
            let mut round = 0;
            match direct {
                Ok(it) => contest.row(name, Who::Ceiling, move || {
                    round += 1;
                    it.random(length, reads, round)
                }),
                Err(why) => contest.gap(name, Who::Ceiling, why),
            }
        }
        contest.run();
    }
}

fn rows<'a>(
    contest: &mut mmap_benches::contest::Contest<'a>,
    ours: &'a Ours,
    work: impl Fn(&Bucket) -> Result<Sample, String> + Copy + 'a,
) {
    match &ours.cold {
        Ok(it) => contest.row(COLD_ROW, Who::Ours, move || {
            it.invalidate()?;
            work(it)
        }),
        Err(why) => contest.gap(COLD_ROW, Who::Ours, why),
    }
    match &ours.warm {
        Ok(it) => contest.row(WARM_ROW, Who::Ours, move || work(it)),
        Err(why) => contest.gap(WARM_ROW, Who::Ours, why),
    }
}
