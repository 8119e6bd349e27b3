//! A sync with options: [`Msync`], which runs when it is awaited.
//!
//! A plain sync is repeated by itself. With `invalidate` or `force` it is not: between two attempts another writer
//! may have come, whose bytes the second attempt would give up.

use std::{future::IntoFuture, time::Duration};

use futures::future::BoxFuture;
use mmap_proto::v1;

use crate::{caller::Stubs, error::Result, link::Link, retry::Repeat, types::Synced};

/// A sync that is being put together by `Mapping::sync`. Await it to run it.
#[derive(Debug)]
#[must_use = "a sync does nothing until it is awaited"]
pub struct Msync<'a> {
    link: &'a Link,
    request: v1::MsyncRequest,
    deadline: Option<Duration>,
}

impl<'a> Msync<'a> {
    pub(crate) fn new(link: &'a Link, mmap_id: u64) -> Self {
        Self { link, request: v1::MsyncRequest { mmap_id, ..v1::MsyncRequest::default() }, deadline: None }
    }

    /// Only the pages that touch these bytes of the mapping.
    pub fn range(mut self, offset: u64, length: u64) -> Self {
        self.request.offset = Some(offset);
        self.request.length = Some(length);
        self
    }

    /// Only start it: the answer comes at once, a failure shows at the next sync or unmap.
    pub fn start_only(mut self) -> Self {
        self.request.set_mode(v1::SyncMode::Async);
        self
    }

    /// Make the next read see the store. If the object changed there, unsynced pages of the range are given up.
    pub fn invalidate(mut self) -> Self {
        self.request.invalidate = true;
        self
    }

    /// If the object changed in the store, put the unsynced pages onto its new content.
    pub fn force(mut self) -> Self {
        self.request.force = true;
        self
    }

    /// Another deadline than the client's: writing a large file back takes as long as the store takes.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    async fn run(self) -> Result<Synced> {
        let mut caller = self.link.alive()?.clone();
        if let Some(deadline) = self.deadline {
            caller = caller.with_deadline(deadline);
        }
        let is_plain = !self.request.invalidate && !self.request.force;
        let repeat = if is_plain { Repeat::Idempotent } else { Repeat::Unsent };
        let send = |stubs: Stubs, request| async move { stubs.mmap().msync(request).await };
        let answer = caller.call(repeat, self.request, send).await?.into_inner();
        Ok(Synced { bytes: answer.synced_bytes, version: answer.version })
    }
}

impl<'a> IntoFuture for Msync<'a> {
    type Output = Result<Synced>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}
