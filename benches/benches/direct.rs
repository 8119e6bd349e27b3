//! A store that is asked directly, by object_store: ranged GETs of one object, in order and at random places.
#![allow(unreachable_pub, reason = "a part of several bench targets")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use http::StatusCode;
use mmap_benches::measure::measure;
use mmap_benches::rows::{Sample, Unit};
use mmap_benches::s3::S3;
use mmap_benches::side::within;
use mmap_benches::stats::quantile;
use object_store::aws::AmazonS3Builder;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStore, ObjectStoreExt as _};
use tokio::runtime::Runtime;

pub const MIB: u64 = 1 << 20;

/// rclone answers a ranged GET with status 200 and the range's header. Both sides take that for the partial content
/// that it is: mmapd by itself, object_store's client by this. Answers come so much later.
#[derive(Debug)]
struct Partial {
    inner: ReqwestConnector,
    late: Duration,
}

#[derive(Debug)]
struct PartialClient {
    inner: HttpClient,
    late: Duration,
}

impl HttpConnector for Partial {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(PartialClient { inner: self.inner.connect(options)?, late: self.late }))
    }
}

#[async_trait]
impl HttpService for PartialClient {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        if !self.late.is_zero() {
            tokio::time::sleep(self.late).await;
        }
        let mut response = self.inner.execute(request).await?;
        if response.headers().contains_key("content-range") {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        Ok(response)
    }
}

/// object_store's client of an S3 server.
pub fn client(s3: &S3, late: Duration) -> Result<Arc<dyn ObjectStore>, String> {
    let [endpoint, bucket, key, secret] = s3.access();
    let builder = AmazonS3Builder::new().with_endpoint(endpoint).with_bucket_name(bucket).with_allow_http(true);
    let builder = builder.with_region("us-east-1").with_access_key_id(key).with_secret_access_key(secret);
    let builder = builder.with_http_connector(Partial { inner: ReqwestConnector::default(), late });
    Ok(Arc::new(builder.build().map_err(|error| error.to_string())?))
}

/// Runs it where a server's work runs: what the connections wake does not have to wake another thread.
pub fn on_worker<T: Send + 'static>(
    runtime: &Runtime,
    work: impl Future<Output = Result<T, String>> + Send + 'static,
) -> Result<T, String> {
    within(runtime, async { tokio::spawn(work).await.map_err(|error| error.to_string())? })
}

/// One object of a store.
pub struct Direct {
    pub store: Arc<dyn ObjectStore>,
    pub name: &'static str,
    pub size: u64,
    /// The store's process, where it is one.
    pub pids: Vec<u32>,
    pub runtime: Runtime,
}

impl Direct {
    /// Every byte, by GETs of `mib` with `parallel` under way, each taken in order.
    pub fn scan(&self, (mib, parallel): (u64, usize)) -> Result<Sample, String> {
        let (size, piece) = (self.size, mib * MIB);
        measure(Unit::GibPerSecond, &self.pids, || {
            let (store, path) = (Arc::clone(&self.store), Path::from(self.name));
            on_worker(&self.runtime, async move {
                let gets = (0..size.div_ceil(piece)).map(|number| {
                    let start = number * piece;
                    store.get_range(&path, start..(start + piece).min(size))
                });
                let all = stream::iter(gets).buffered(parallel).map_ok(|_| ());
                all.try_for_each(|()| async { Ok(()) }).await.map_err(|error| error.to_string())?;
                Ok(u32::try_from(size / MIB).map_or(f64::NAN, f64::from))
            })
        })
    }

    /// The shape of GETs that is fastest now, of these.
    pub fn best(&self, shapes: &[(u64, usize)]) -> (u64, usize) {
        let rate = |shape| self.scan(shape).map_or(0.0, |sample| sample.value);
        let rates = shapes.iter().map(|shape| (*shape, rate(*shape)));
        rates.max_by(|left, right| left.1.total_cmp(&right.1)).map_or((1, 1), |(shape, _)| shape)
    }

    /// GETs of `length` at these places, one after the other: the median in microseconds.
    pub fn random(&self, length: u64, places: impl Iterator<Item = u64>) -> Result<Sample, String> {
        let (mut times, path) = (Vec::new(), Path::from(self.name));
        let sample = measure(Unit::Microseconds, &self.pids, || {
            let (store, places): (_, Vec<u64>) = (Arc::clone(&self.store), places.collect());
            times = on_worker(&self.runtime, async move {
                let mut times = Vec::with_capacity(places.len());
                for start in places {
                    let asked = Instant::now();
                    let got = store.get_range(&path, start..start + length).await;
                    got.map_err(|error| error.to_string())?;
                    times.push(asked.elapsed().as_secs_f64() * 1e6);
                }
                Ok(times)
            })?;
            Ok(u32::try_from(times.len()).map_or(f64::NAN, f64::from))
        })?;
        Ok(Sample { value: quantile(&mut times, 500).unwrap_or(f64::NAN), ..sample })
    }
}
