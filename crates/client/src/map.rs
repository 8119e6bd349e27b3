//! Making a mapping: [`Map`], put together option by option, which maps when it is awaited.

use std::{future::IntoFuture, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use mmap_proto::v1;

use crate::{
    caller::Stubs,
    error::{Error, Result},
    link::Link,
    mapping::Mapping,
    retry::Repeat,
    types::Prot,
};

/// A mapping that is being put together by `Process::map`. Await it to map.
///
/// Without options: the whole file, readable, shared, and an error if the file is missing.
///
/// Not cancel safe: a cancelled one may leave a mapping that stays until its process ends. Never repeated once it
/// was sent, for the same reason.
#[derive(Debug)]
#[must_use = "nothing is mapped until it is awaited"]
pub struct Map<'a> {
    link: &'a Arc<Link>,
    request: v1::MmapRequest,
    deadline: Option<Duration>,
}

impl<'a> Map<'a> {
    pub(crate) fn new(link: &'a Arc<Link>, path: String) -> Self {
        let request = v1::MmapRequest { path, prot: Prot::READ.bits(), shared: true, ..v1::MmapRequest::default() };
        Self { link, request, deadline: None }
    }

    /// First byte of the file to map; any byte. Default: 0.
    pub fn offset(mut self, offset: u64) -> Self {
        self.request.offset = offset;
        self
    }

    /// Bytes to map; may reach behind the end of the file. Default: to the end of the file.
    pub fn length(mut self, length: u64) -> Self {
        self.request.length = Some(length);
        self
    }

    /// What accesses are allowed. Default: [`Prot::READ`].
    pub fn prot(mut self, prot: Prot) -> Self {
        self.request.prot = prot.bits();
        self
    }

    /// Writes are seen by every process that maps the file, and synced to it. The default.
    pub fn shared(mut self) -> Self {
        self.request.shared = true;
        self
    }

    /// Writes are seen by this mapping alone, and never reach the file.
    pub fn private(mut self) -> Self {
        self.request.shared = false;
        self
    }

    /// Makes a missing file, `offset + length` zero bytes long. An existing one keeps its size.
    pub fn create(mut self) -> Self {
        self.request.create = true;
        self
    }

    /// Fetches the whole range before answering.
    pub fn populate(mut self) -> Self {
        self.request.populate = true;
        self
    }

    /// Another deadline than the client's: populating takes as long as the store takes.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    async fn run(self) -> Result<Mapping> {
        let mut caller = self.link.alive()?.clone();
        if let Some(deadline) = self.deadline {
            caller = caller.with_deadline(deadline);
        }
        let send = |stubs: Stubs, request| async move { stubs.mmap().mmap(request).await };
        let answer = caller.call(Repeat::Unsent, self.request, send).await?.into_inner();
        if answer.mmap_id == 0 {
            return Err(Error::protocol("the server answered with the mapping id 0, which is none"));
        }
        Ok(Mapping::new(Arc::clone(self.link), answer))
    }
}

impl<'a> IntoFuture for Map<'a> {
    type Output = Result<Mapping>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}
