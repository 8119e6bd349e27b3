//! [`Counted`]: a store of objects that counts what is asked of it, so that a measurement can tell what a layout
//! sends and fetches. It changes nothing on the way. A PUT that the store's client does not know how to make was not
//! sent, and does not count: a folder knows no attributes, which the database finds out at each object.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt as _};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};

/// What was asked of a store since it was made.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    uploaded: AtomicU64,
    fetched: AtomicU64,
    requests: AtomicU64,
}

/// The tally at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Bytes of objects and parts.
    pub uploaded: u64,
    /// Bytes of answers to GET.
    pub fetched: u64,
    /// PUT, POST, GET, HEAD, LIST and DELETE.
    pub requests: u64,
}

impl Tally {
    pub(crate) fn now(&self) -> Counts {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counts { uploaded: of(&self.uploaded), fetched: of(&self.fetched), requests: of(&self.requests) }
    }

    fn asked(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    fn put(&self, payload: &PutPayload) {
        self.asked();
        self.uploaded.fetch_add(payload.content_length() as u64, Ordering::Relaxed);
    }
}

/// A store with a tally.
#[derive(Debug)]
pub(crate) struct Counted {
    inner: Arc<dyn ObjectStore>,
    tally: Arc<Tally>,
}

impl Counted {
    pub(crate) fn over(inner: Arc<dyn ObjectStore>) -> (Arc<dyn ObjectStore>, Arc<Tally>) {
        let tally = Arc::new(Tally::default());
        (Arc::new(Self { inner, tally: Arc::clone(&tally) }), tally)
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Counted({})", self.inner)
    }
}

/// An upload in parts.
#[derive(Debug)]
struct Upload(Box<dyn MultipartUpload>, Arc<Tally>);

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.1.put(&data);
        self.0.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.1.asked();
        self.0.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        self.1.asked();
        self.0.abort().await
    }
}

#[async_trait]
impl ObjectStore for Counted {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let sent = payload.clone();
        let answer = self.inner.put_opts(path, payload, options).await;
        if !matches!(answer, Err(Error::NotImplemented { .. })) {
            self.tally.put(&sent);
        }
        answer
    }

    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.tally.asked();
        let upload = self.inner.put_multipart_opts(path, options).await?;
        Ok(Box::new(Upload(upload, Arc::clone(&self.tally))))
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.tally.asked();
        let is_head = options.head;
        let answer = self.inner.get_opts(path, options).await?;
        if !is_head {
            self.tally.fetched.fetch_add(answer.range.end - answer.range.start, Ordering::Relaxed);
        }
        Ok(answer)
    }

    async fn get_ranges(&self, path: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.tally.asked();
        let answer = self.inner.get_ranges(path, ranges).await?;
        let bytes: usize = answer.iter().map(Bytes::len).sum();
        self.tally.fetched.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(answer)
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let tally = Arc::clone(&self.tally);
        self.inner.delete_stream(paths.inspect(move |_| tally.asked()).boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.tally.asked();
        self.inner.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.tally.asked();
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.tally.asked();
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.tally.asked();
        self.inner.copy_opts(from, to, options).await
    }
}
