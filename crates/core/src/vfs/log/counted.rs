//! [`Counted`]: a store that counts what is put into it and fails from a chosen PUT on, for this layout's tests.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};

/// What went into a store, and when it stops taking anything.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) puts: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) gets: AtomicU64,
    /// The PUT of this number and all later ones have no effect, and never answer. 0: none.
    pub(super) dies_at: AtomicU64,
    /// It dies with the PUT's effect, and not before it.
    pub(super) dies_late: AtomicBool,
}

impl Tally {
    pub(super) fn reset(&self) {
        for count in [&self.puts, &self.bytes, &self.gets] {
            count.store(0, Ordering::SeqCst);
        }
    }

    /// The machine that writes dies at the PUT of this number from now.
    pub(super) fn die_at(&self, put: u64, late: bool) {
        self.reset();
        self.dies_late.store(late, Ordering::SeqCst);
        self.dies_at.store(put, Ordering::SeqCst);
    }

    pub(super) fn is_dead(&self) -> bool {
        let dies_at = self.dies_at.load(Ordering::SeqCst);
        dies_at > 0 && self.puts.load(Ordering::SeqCst) >= dies_at
    }

    /// Counts a PUT; answers whether it takes effect and whether it answers.
    fn put(&self, bytes: usize) -> (bool, bool) {
        self.bytes.fetch_add(bytes as u64, Ordering::SeqCst);
        let number = self.puts.fetch_add(1, Ordering::SeqCst) + 1;
        let dies_at = self.dies_at.load(Ordering::SeqCst);
        if dies_at == 0 || number < dies_at {
            return (true, true);
        }
        (number == dies_at && self.dies_late.load(Ordering::SeqCst), false)
    }
}

/// A store with a tally.
#[derive(Debug)]
pub(super) struct Counted {
    pub(super) inner: Arc<dyn ObjectStore>,
    pub(super) tally: Arc<Tally>,
}

impl Counted {
    pub(super) fn over(inner: Arc<dyn ObjectStore>) -> (Arc<dyn ObjectStore>, Arc<Tally>) {
        let tally = Arc::new(Tally::default());
        (Arc::new(Self { inner, tally: Arc::clone(&tally) }), tally)
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Counted({})", self.inner)
    }
}

/// An upload in parts: each part counts as a PUT.
#[derive(Debug)]
struct Upload(Box<dyn MultipartUpload>, Arc<Tally>);

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        match self.1.put(data.content_length()) {
            (_, true) => self.0.put_part(data),
            (_, false) => Box::pin(std::future::pending()),
        }
    }

    async fn complete(&mut self) -> Result<PutResult> {
        match self.1.put(0) {
            (false, _) => std::future::pending().await,
            (true, answers) => {
                let put = self.0.complete().await;
                if answers { put } else { std::future::pending().await }
            }
        }
    }

    async fn abort(&mut self) -> Result<()> {
        self.0.abort().await
    }
}

#[async_trait]
impl ObjectStore for Counted {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        match self.tally.put(payload.content_length()) {
            (false, _) => std::future::pending().await,
            (true, answers) => {
                let put = self.inner.put_opts(path, payload, options).await;
                if answers { put } else { std::future::pending().await }
            }
        }
    }

    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let upload = self.inner.put_multipart_opts(path, options).await?;
        Ok(Box::new(Upload(upload, Arc::clone(&self.tally))))
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.tally.gets.fetch_add(1, Ordering::SeqCst);
        self.inner.get_opts(path, options).await
    }

    async fn get_ranges(&self, path: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.tally.gets.fetch_add(1, Ordering::SeqCst);
        self.inner.get_ranges(path, ranges).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        if self.tally.is_dead() {
            return futures::stream::pending().boxed();
        }
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(Error::NotImplemented { operation: "copy".into(), implementer: "Counted".into() })
    }
}
