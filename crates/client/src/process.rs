//! A process of the server: [`Process`], attached (it lives as long as this value) or only spoken for by its pid.
//!
//! An attached one owns its background task: dropping it is what ends the task, and through it the process.

use std::{convert::Infallible, fmt, sync::Arc};

use mmap_proto::v1;
use tokio::sync::{mpsc, oneshot};

use crate::{
    caller::{Caller, Stubs},
    error::{Error, Result},
    lease,
    link::{End, Link, ProcessState},
    map::Map,
    retry::Repeat,
    types::{Exited, MappingInfo, Page},
};

/// How a process is attached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttachOptions {
    /// The pid wanted. `None`: the server picks one.
    pub pid: Option<u32>,
    /// For people, shown by `mmapctl ps`.
    pub name: String,
}

/// A process: the owner of mappings.
///
/// **Attached** (`Client::attach`): it lives as long as this value. A background task
/// keeps its stream; when that breaks it is made again, and calls go on meanwhile. If that does not work within the
/// server's grace time (or two minutes, while no server can be reached) the process is lost: its mappings are gone, and
/// every call says so
/// ([`ErrorKind::ProcessEnded`](crate::error::ErrorKind::ProcessEnded), [`lost`](Self::lost)).
/// Dropping it exits in the background, best effort; [`exit`](Self::exit) tells how it went. A runtime that is shut
/// down at the same time leaves it to the server, which ends the process after the grace time: no write is lost
/// either way.
///
/// **By its pid** (`Client::process`): nothing happens when it is dropped; the server
/// ends such a process when it was idle for long.
pub struct Process {
    link: Arc<Link>,
    /// Dropped with the process, which is the background task's sign to stop.
    _task: Option<oneshot::Sender<Infallible>>,
}

impl Process {
    pub(crate) fn unattached(caller: Caller, pid: u32) -> Self {
        Self { link: Arc::new(Link::new(caller, pid, None)), _task: None }
    }

    pub(crate) async fn attach(caller: Caller, options: AttachOptions) -> Result<Self> {
        let AttachOptions { pid, name } = options;
        let request = v1::AttachRequest { pid, name: name.clone() };
        let attached = lease::attach(&caller, request, caller.settings().deadline).await?;
        if attached.pid == 0 || pid.is_some_and(|pid| pid != attached.pid) {
            return Err(Error::protocol(format!("the server attached another pid, {}", attached.pid)));
        }
        let (dropped, drops) = mpsc::channel(lease::DROPPED_MAX);
        let (task, released) = oneshot::channel();
        let link = Arc::new(Link::new(caller, attached.pid, Some(dropped)));
        lease::spawn(lease::keep(Arc::clone(&link), name, attached, drops, released));
        Ok(Self { link, _task: Some(task) })
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.link.pid
    }

    /// How it is doing, as far as is known here.
    pub fn state(&self) -> ProcessState {
        self.link.state()
    }

    /// Why it was lost, if it was.
    pub fn lost(&self) -> Option<Error> {
        self.link.lost()
    }

    /// Waits until it has exited or was lost. Cancel safe. A process that is not attached ends only by its `exit`.
    pub async fn ended(&self) {
        self.link.ended().await;
    }

    /// Maps `path`: options follow, awaiting it maps. See [`Map`].
    pub fn map(&self, path: impl Into<String>) -> Map<'_> {
        Map::new(&self.link, path.into())
    }

    /// A page of its own mappings, in the order of their ids. `token` is the page's before, `None` for the first.
    ///
    /// Cancel safe; repeated by itself.
    ///
    /// # Errors
    /// `EINVAL` for a token that is none.
    pub async fn mappings(&self, token: Option<&str>) -> Result<Page<MappingInfo>> {
        let pid = Some(self.link.pid);
        let request = v1::ListMappingsRequest { pid, page_size: 0, page_token: token.unwrap_or_default().to_owned() };
        let send = |stubs: Stubs, request| async move { stubs.mmap().list_mappings(request).await };
        let answer = self.link.alive()?.call(Repeat::Idempotent, request, send).await?.into_inner();
        Ok(Page::new(answer.mappings.into_iter().map(Into::into).collect(), answer.next_page_token))
    }

    /// Syncs its shared writable mappings, drops all of them, and ends it.
    ///
    /// Not cancel safe: it may or may not have happened. Not repeated by itself once it was sent.
    ///
    /// # Errors
    /// If a sync fails the process stays, and this can be called again.
    pub async fn exit(&self) -> Result<Exited> {
        self.end(v1::ExitRequest { discard: false }).await
    }

    /// As [`exit`](Self::exit), giving up what is unsynced.
    ///
    /// # Errors
    /// `EBUSY` while another process has a writable shared mapping over such bytes.
    pub async fn exit_discard(&self) -> Result<Exited> {
        self.end(v1::ExitRequest { discard: true }).await
    }

    async fn end(&self, request: v1::ExitRequest) -> Result<Exited> {
        let send = |stubs: Stubs, request| async move { stubs.process().exit(request).await };
        let answer = self.link.alive()?.call(Repeat::Unsent, request, send).await?.into_inner();
        self.link.end(End::Exited);
        Ok(Exited { unmapped: answer.unmapped, synced_bytes: answer.synced_bytes })
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").field("pid", &self.pid()).field("state", &self.state()).finish_non_exhaustive()
    }
}
