//! [`Lookalike`]: a store in memory that gets wrong what S3 look-alikes get wrong, for this layout's tests.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use parking_lot::Mutex;

/// What a look-alike gets wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vice {
    /// It overwrites whatever it is told.
    IgnoresConditions,
    /// It answers a GET with whatever is there.
    IgnoresIfMatchOnGet,
    /// The reply to a PUT is lost, and the client's repetition is refused.
    LosesReplies,
    /// A body is a byte shorter than it should be.
    CutsBodies,
    /// It says that it has no conditional PUT.
    HasNoConditions,
    /// The second part of an upload never arrives.
    StallsParts,
    /// The second part of an upload fails.
    FailsParts,
    /// An upload completes, and the reply is lost.
    LosesCompletions,
    /// The e_tag in the reply to a completion is not the one that the object has then.
    RenamesCompletions,
    /// An object that was uploaded in parts has no metadata.
    ForgetsMetadata,
}

/// A store in memory with vices.
#[derive(Debug)]
pub(super) struct Lookalike {
    pub(super) inner: InMemory,
    pub(super) vices: Mutex<Vec<Vice>>,
    /// Uploads that were aborted.
    pub(super) aborted: Arc<AtomicUsize>,
    /// Folders that a list shows as markers: empty, where their key with a `/` at its end would be.
    markers: Vec<String>,
}

impl Lookalike {
    pub(super) fn with(vices: &[Vice]) -> Arc<Self> {
        let vices = Mutex::new(vices.to_vec());
        Arc::new(Self { inner: InMemory::new(), vices, aborted: Arc::default(), markers: Vec::new() })
    }

    pub(super) fn listing_markers(inner: InMemory, markers: &[&str]) -> Arc<Self> {
        let markers = markers.iter().map(|&marker| marker.to_owned()).collect();
        Arc::new(Self { inner, vices: Mutex::default(), aborted: Arc::default(), markers })
    }

    /// The objects of a list with the markers in the places of their keys.
    async fn with_markers(&self, prefix: Option<Path>) -> Vec<Result<ObjectMeta>> {
        let mut keyed: Vec<(String, ObjectMeta)> = Vec::new();
        let mut objects = self.inner.list(prefix.as_ref());
        while let Some(Ok(meta)) = objects.next().await {
            keyed.push((meta.location.to_string(), meta));
        }
        for marker in &self.markers {
            let location = Path::from(marker.as_str());
            let e_tag = Some("\"marker\"".to_owned());
            let last_modified = chrono::DateTime::UNIX_EPOCH;
            keyed.push((format!("{marker}/"), ObjectMeta { location, last_modified, size: 0, e_tag, version: None }));
        }
        keyed.sort_by(|(a, _), (b, _)| a.cmp(b));
        keyed.into_iter().map(|(_, meta)| Ok(meta)).collect()
    }

    fn has(&self, vice: Vice) -> bool {
        self.vices.lock().contains(&vice)
    }
}

impl fmt::Display for Lookalike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lookalike")
    }
}

fn reset() -> Error {
    Error::Generic { store: "Lookalike", source: "connection reset".into() }
}

/// An upload of a look-alike.
#[derive(Debug)]
struct Upload {
    inner: Box<dyn MultipartUpload>,
    vices: Vec<Vice>,
    parts: usize,
    aborted: Arc<AtomicUsize>,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.parts += 1;
        if self.parts == 2 && self.vices.contains(&Vice::StallsParts) {
            return Box::pin(std::future::pending());
        }
        if self.parts == 2 && self.vices.contains(&Vice::FailsParts) {
            return Box::pin(async { Err(reset()) });
        }
        self.inner.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let mut put = self.inner.complete().await?;
        if self.vices.contains(&Vice::RenamesCompletions) {
            put.e_tag = put.e_tag.map(|e_tag| format!("{e_tag}-2"));
        }
        if self.vices.contains(&Vice::LosesCompletions) { Err(reset()) } else { Ok(put) }
    }

    async fn abort(&mut self) -> Result<()> {
        self.aborted.fetch_add(1, Ordering::Relaxed);
        self.inner.abort().await
    }
}

#[async_trait]
impl ObjectStore for Lookalike {
    async fn put_opts(&self, location: &Path, payload: PutPayload, mut opts: PutOptions) -> Result<PutResult> {
        if self.has(Vice::HasNoConditions) && opts.mode != PutMode::Overwrite {
            return Err(Error::NotImplemented { operation: "put".into(), implementer: "it".into() });
        }
        if self.has(Vice::IgnoresConditions) {
            opts.mode = PutMode::Overwrite;
        }
        let put = self.inner.put_opts(location, payload.clone(), opts.clone()).await?;
        if self.has(Vice::LosesReplies) { self.inner.put_opts(location, payload, opts).await } else { Ok(put) }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        mut opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        if self.has(Vice::ForgetsMetadata) {
            opts.attributes = Attributes::new();
        }
        let inner = self.inner.put_multipart_opts(location, opts).await?;
        let (vices, aborted) = (self.vices.lock().clone(), Arc::clone(&self.aborted));
        Ok(Box::new(Upload { inner, vices, parts: 0, aborted }))
    }

    async fn get_opts(&self, location: &Path, mut options: GetOptions) -> Result<GetResult> {
        if self.has(Vice::IgnoresIfMatchOnGet) {
            options.if_match = None;
        }
        let cut = self.has(Vice::CutsBodies) && !options.head;
        let answer = self.inner.get_opts(location, options).await?;
        if !cut {
            return Ok(answer);
        }
        let (range, meta, attributes) = (answer.range.clone(), answer.meta.clone(), answer.attributes.clone());
        let bytes = answer.bytes().await?;
        let bytes = bytes.slice(..bytes.len() - 1);
        let payload = GetResultPayload::Stream(futures::stream::once(async { Ok(bytes) }).boxed());
        Ok(GetResult { payload, meta, range, attributes, extensions: Default::default() })
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        if self.markers.is_empty() {
            return self.inner.list(prefix);
        }
        let listed = self.with_markers(prefix.cloned()).now_or_never().expect("a list in memory is ready at once");
        futures::stream::iter(listed).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
