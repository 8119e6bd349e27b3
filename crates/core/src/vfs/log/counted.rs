//! [`Counted`]: a store that counts what is put into it, and in which a chosen PUT goes wrong, for this layout's tests.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use parking_lot::Mutex;

/// What a PUT comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It takes effect and answers.
    Done,
    /// It has no effect and never answers, as all that come later.
    DeadBefore,
    /// It takes effect and never answers; all that come later have no effect.
    DeadAfter,
    /// It fails once and has no effect.
    FailsBefore,
    /// It fails once and takes effect: the reply is lost.
    FailsAfter,
}

/// What went into a store, and what goes wrong with it.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) puts: AtomicU64,
    pub(super) bytes: AtomicU64,
    plan: Mutex<Option<(u64, Fate)>>,
}

impl Tally {
    pub(super) fn reset(&self) {
        self.puts.store(0, Ordering::SeqCst);
        self.bytes.store(0, Ordering::SeqCst);
    }

    /// The PUT of this number, counted from now, comes to this.
    pub(super) fn plan(&self, put: u64, fate: Fate) {
        self.reset();
        *self.plan.lock() = Some((put, fate));
    }

    /// Whether the planned PUT came.
    pub(super) fn came(&self) -> bool {
        self.plan.lock().is_some_and(|(put, _)| self.puts.load(Ordering::SeqCst) >= put)
    }

    fn put(&self, bytes: usize) -> Fate {
        self.bytes.fetch_add(bytes as u64, Ordering::SeqCst);
        let number = self.puts.fetch_add(1, Ordering::SeqCst) + 1;
        match *self.plan.lock() {
            Some((put, fate)) if number == put => fate,
            Some((put, Fate::DeadBefore | Fate::DeadAfter)) if number > put => Fate::DeadBefore,
            Some(_) | None => Fate::Done,
        }
    }

    async fn run<T>(&self, bytes: usize, put: impl Future<Output = Result<T>> + Send) -> Result<T> {
        let lost = || Err(Error::Generic { store: "Counted", source: "connection reset".into() });
        match self.put(bytes) {
            Fate::Done => put.await,
            Fate::DeadBefore => std::future::pending().await,
            Fate::DeadAfter => {
                // Nobody hears of it.
                let _ = put.await;
                std::future::pending().await
            }
            Fate::FailsBefore => lost(),
            Fate::FailsAfter => {
                put.await?;
                lost()
            }
        }
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
        let (tally, bytes) = (Arc::clone(&self.1), data.content_length());
        let part = self.0.put_part(data);
        Box::pin(async move { tally.run(bytes, part).await })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.1.run(0, self.0.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.0.abort().await
    }
}

#[async_trait]
impl ObjectStore for Counted {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.tally.run(payload.content_length(), self.inner.put_opts(path, payload, options)).await
    }

    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let upload = self.inner.put_multipart_opts(path, options).await?;
        Ok(Box::new(Upload(upload, Arc::clone(&self.tally))))
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(path, options).await
    }

    async fn get_ranges(&self, path: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(path, ranges).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
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
