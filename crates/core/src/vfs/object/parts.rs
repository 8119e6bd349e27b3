//! Writing a large object in parts.
//!
//! Invariants: at most two parts are in memory (one on its way, the next being put together); an upload that
//! does not complete is aborted, also when the call is dropped.
//!
//! S3 completes an upload on the condition that the object is still the one it is based on. What cannot be
//! promised: GCS and Azure are not told such a condition, and some S3 look-alikes ignore it, so the version is
//! asked for right before. A change that another writer makes between that answer and the completion (one round
//! trip, some 10 ms) is overwritten there. Files up to the single-PUT size have no such window anywhere.
//!
//! The client has neither a way to copy parts of the old object within the store, so what is clean comes and goes
//! through here, nor one to list uploads, so those of a killed server stay until the bucket's lifecycle rule
//! (AbortIncompleteMultipartUpload) takes them.

use std::time::Duration;

use object_store::path::Path;
use object_store::{MultipartUpload, PutMultipartOptions, PutPayload, PutResult, UploadPart};
use tokio_util::task::TaskTracker;

use super::bucket::{Bucket, Made, fault, marked, unconditional};
use super::completion::on_condition;
use super::options::{Conditions, Identity};
use super::repeat::repeated;
use super::write::Outcome;
use crate::units::ByteRange;
use crate::vfs::fault::{StoreFault, StoreResult};
use crate::vfs::store::{CommitId, Stat, WriteBack};

/// What aborting an upload may take. What is left then costs storage until the bucket's lifecycle rule takes it.
const ABORT_TIME: Duration = Duration::from_secs(30);

/// An upload that is aborted unless it completes.
struct UploadGuard<'a> {
    upload: Option<Box<dyn MultipartUpload>>,
    cleanups: &'a TaskTracker,
}

impl UploadGuard<'_> {
    fn part(&mut self, payload: PutPayload) -> StoreResult<UploadPart> {
        Ok(self.running()?.put_part(payload))
    }

    async fn complete(&mut self) -> StoreResult<PutResult> {
        let put = self.running()?.complete().await.map_err(fault)?;
        self.upload = None;
        Ok(put)
    }

    fn running(&mut self) -> StoreResult<&mut Box<dyn MultipartUpload>> {
        self.upload.as_mut().ok_or_else(|| StoreFault::Failed("the upload has ended already".into(), None))
    }

    async fn abort(&mut self) {
        if let Some(upload) = self.upload.take() {
            abort(upload).await;
        }
    }
}

impl Drop for UploadGuard<'_> {
    fn drop(&mut self) {
        let Some(upload) = self.upload.take() else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            self.cleanups.spawn_on(abort(upload), &runtime);
        }
    }
}

async fn abort(mut upload: Box<dyn MultipartUpload>) {
    match tokio::time::timeout(ABORT_TIME, upload.abort()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "an upload in parts could not be aborted"),
        Err(_) => tracing::debug!("an upload in parts could not be aborted in time"),
    }
}

impl Bucket {
    /// Writes the changed file in parts.
    pub(super) async fn put_parts(&self, path: &Path, change: &WriteBack) -> StoreResult<Stat> {
        // Asked for before anything is sent, and again right before it takes effect.
        self.check_base(path, &change.base).await?;
        let attributes = self.attributes_of(path, &change.base).await?;
        let upload = repeated(|| async {
            let attributes = marked(&attributes, change.commit);
            let options = PutMultipartOptions { attributes, ..PutMultipartOptions::default() };
            self.store.put_multipart_opts(path, options).await.map_err(unconditional)
        });
        let upload = upload.await?;
        let mut upload = UploadGuard { upload: Some(upload), cleanups: &self.cleanups };
        if let Err(refused) = self.send_parts(path, change, &mut upload).await {
            upload.abort().await;
            return Err(refused);
        }
        let made = Made { size: change.size, commit: change.commit, attributes: &attributes };
        let completed = match (self.options.conditions, self.options.identity) {
            (Conditions::Required, Identity::ETag) => on_condition(&change.base, upload.complete()).await,
            (Conditions::AskedBefore, _) | (_, Identity::ETagAndGeneration) => upload.complete().await,
        };
        match completed {
            Ok(put) => {
                let stat = self.stat_of_put(path, put, made).await?;
                Ok(self.stat_of_completed(path, stat, change.commit).await)
            }
            Err(doubt) => {
                let settled = self.settle(path, change, doubt).await;
                upload.abort().await;
                match settled {
                    Outcome::Made(stat) => Ok(stat),
                    // To make it again means to send all parts again: that is the caller's to decide.
                    Outcome::Unmade(fault) | Outcome::Refused(fault) => Err(fault),
                }
            }
        }
    }

    /// The object as others will see it: with some S3 look-alikes (rclone) the reply to a completion has another e_tag
    /// than the object, and with that the next change would take our own for somebody else's.
    async fn stat_of_completed(&self, path: &Path, replied: Stat, commit: CommitId) -> Stat {
        match self.head(path).await {
            Ok(seen) if seen.version == replied.version => replied,
            Ok(seen) if seen.commit == Some(commit) => seen,
            // A store without conditions that keeps no metadata either: what it has right now is ours but for the race
            // that such a store cannot exclude anyway.
            Ok(seen) if self.is_asked_before() && seen.commit.is_none() && seen.size == replied.size => seen,
            // Changed since, or it does not say: whoever looks next learns it.
            Ok(_) | Err(_) => replied,
        }
    }

    fn is_asked_before(&self) -> bool {
        self.options.conditions == Conditions::AskedBefore
    }

    async fn send_parts(&self, path: &Path, change: &WriteBack, upload: &mut UploadGuard<'_>) -> StoreResult<()> {
        let part_size = self.options.part_size(change.size);
        let mut on_its_way: Option<UploadPart> = None;
        let mut start = 0;
        while start < change.size {
            let part = ByteRange::new(start, change.size.min(start + part_size));
            let next = self.assemble(path, change, part);
            let payload = match on_its_way.take() {
                None => next.await?,
                Some(sending) => futures::try_join!(async { sending.await.map_err(unconditional) }, next)?.1,
            };
            on_its_way = Some(upload.part(payload)?);
            start = part.end();
        }
        if let Some(sending) = on_its_way {
            sending.await.map_err(unconditional)?;
        }
        self.check_base(path, &change.base).await
    }
}
