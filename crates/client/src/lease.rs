//! The background task of an attached process: it owns the `Attach` stream, makes it again when it breaks, unmaps
//! dropped mappings, and says good-bye for a dropped process.
//!
//! It is owned by the `Process`: dropping that tells the task to stop, after one `Exit`
//! within the client's deadline. If the runtime is gone before, the server's grace time does the same work.
//!
//! A stream is made again while the server may still have the process: until `grace_ms` after the break was noticed,
//! as long as the server answers `EBUSY` (it has not noticed yet), but not longer than [`BUSY_MAX`], and as long as no
//! server can be reached (it may be starting again, and then the grace time starts anew), but not longer than
//! [`AWAY_MAX`]. The server may have noticed the break long before, or may have been there all the time; therefore,
//! once attached again, the task asks for the oldest mapping. If it is missing, this pid is a new, empty process, and
//! the old one is reported as lost.

use std::{convert::Infallible, future::Future, pin::pin, sync::Arc, time::Duration};

use backon::{BackoffBuilder, ExponentialBuilder};
use mmap_proto::{reason::Reason, v1};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::Instant,
};
use tonic::{Code, Status, Streaming};

use crate::{
    caller::{Caller, Stubs},
    error::{Error, ErrorKind, Result},
    link::{End, Link, ProcessState},
    retry::Repeat,
};

/// How long `EBUSY` is believed to come from our own dead stream. A server's keepalive notices a dead connection
/// within half a minute; after a whole one somebody else has the pid.
const BUSY_MAX: Duration = Duration::from_mins(1);
/// How long a server that cannot be reached is believed to come back: a clean stop whose store does not answer takes
/// half a minute, and a start that reads a long journal some seconds.
const AWAY_MAX: Duration = Duration::from_mins(2);
/// One attempt to attach may take this long: a server that hangs must not use up the grace time.
const ATTEMPT_MAX: Duration = Duration::from_secs(3);
/// Dropped mappings that wait to be unmapped; more stay until the process ends.
pub(crate) const DROPPED_MAX: usize = 1024;
/// Background unmappings at a time: they may sync, and must not crowd out the caller's own calls.
const UNMAPS_MAX: usize = 4;

/// A standing `Attach` stream and what it said first.
pub(crate) struct Attached {
    pub(crate) pid: u32,
    grace: Duration,
    stream: Streaming<v1::AttachResponse>,
}

/// Attaches once and waits for the first message. It sends no `grpc-timeout`: that would end the stream.
pub(crate) async fn attach(caller: &Caller, request: v1::AttachRequest, within: Duration) -> Result<Attached> {
    let attempt = async {
        let response = caller.stubs().process().attach(caller.request(request).await?).await?;
        let mut stream = response.into_inner();
        let first = stream.message().await?;
        let first =
            first.ok_or_else(|| Error::protocol("the server ended an attach stream before its first message"))?;
        Ok(Attached { pid: first.pid, grace: Duration::from_millis(first.grace_ms), stream })
    };
    tokio::time::timeout(within, attempt).await.unwrap_or_else(|_| Err(Error::deadline(within)))
}

/// The task. Ends when the process has ended, or was released (dropped).
pub(crate) async fn keep(
    link: Arc<Link>,
    name: String,
    attached: Attached,
    mut dropped: mpsc::Receiver<u64>,
    mut released: oneshot::Receiver<Infallible>,
) {
    let mut unmaps = JoinSet::new();
    let mut held = pin!(hold(&link, &name, attached));
    loop {
        tokio::select! {
            end = &mut held => return link.end(end),
            _ = &mut released => break,
            Some(id) = dropped.recv(), if unmaps.len() < UNMAPS_MAX => {
                unmaps.spawn(unmap(Arc::clone(&link), id));
            }
            Some(_) = unmaps.join_next() => {}
        }
    }
    if link.state() == ProcessState::Ended {
        return;
    }
    // The stream is still held here: the process cannot be terminated under its own Exit.
    tokio::select! {
        _ = &mut held => {}
        () = say_goodbye(&link) => {}
    }
    link.end(End::Exited);
}

async fn say_goodbye(link: &Link) {
    let request = v1::ExitRequest { discard: false };
    let exit = |stubs: Stubs, request| async move { stubs.process().exit(request).await };
    if let Err(error) = link.caller.call(Repeat::Unsent, request, exit).await {
        tracing::warn!(pid = link.pid, %error, "a dropped process could not exit; the server ends it after its grace time");
    }
}

async fn unmap(link: Arc<Link>, id: u64) {
    let request = v1::MunmapRequest { mmap_id: id, ..v1::MunmapRequest::default() };
    let munmap = |stubs: Stubs, request| async move { stubs.mmap().munmap(request).await };
    match link.caller.call(Repeat::Unsent, request, munmap).await {
        Ok(_) => {}
        // Unmapped by a call whose answer nobody waited for.
        Err(error) if error.reason() == Some(Reason::BadF) => {}
        Err(error) => {
            tracing::warn!(pid = link.pid, id, %error, "a dropped mapping could not be unmapped; it stays until its process ends");
        }
    }
}

/// Keeps the process attached until it ends.
async fn hold(link: &Link, name: &str, mut attached: Attached) -> End {
    loop {
        let Err(broken) = follow(&mut attached).await else { return End::Exited };
        tracing::debug!(pid = link.pid, error = %broken, "an attach stream broke");
        link.set_attached(false);
        attached = match reattach(link, name, attached.grace).await {
            Ok(attached) => attached,
            Err(error) => return End::Lost(lost(link.pid, &error)),
        };
        link.set_attached(true);
    }
}

/// Reads heartbeats until the stream ends: `Ok` after an `Exit`.
async fn follow(attached: &mut Attached) -> std::result::Result<(), Status> {
    while let Some(heartbeat) = attached.stream.message().await? {
        attached.grace = Duration::from_millis(heartbeat.grace_ms);
    }
    Ok(())
}

async fn reattach(link: &Link, name: &str, grace: Duration) -> Result<Attached> {
    let noticed = Instant::now();
    let mut deadline = noticed + grace;
    let mut delays = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(20))
        .with_max_delay(Duration::from_secs(1))
        .with_jitter()
        .without_max_times()
        .build();
    loop {
        // Never at once: a server that takes streams and drops them again must not be hammered.
        tokio::time::sleep(delays.next().unwrap_or(ATTEMPT_MAX)).await;
        let request = v1::AttachRequest { pid: Some(link.pid), name: name.to_owned() };
        let error = match attach(&link.caller, request, ATTEMPT_MAX).await {
            Ok(attached) => return confirmed(link, attached).await,
            Err(error) => error,
        };
        let believed_for = if error.reason() == Some(Reason::Busy) {
            Some(BUSY_MAX)
        } else {
            (error.kind() == ErrorKind::Connect).then_some(AWAY_MAX)
        };
        if let Some(most) = believed_for {
            deadline = deadline.max((Instant::now() + grace).min(noticed + most.max(grace)));
        }
        let may_be_renewed = error.code() == Code::Unauthenticated && link.caller.renews_token();
        if (is_final(&error) && !may_be_renewed) || Instant::now() >= deadline {
            return Err(error);
        }
        tracing::debug!(pid = link.pid, %error, "attaching again");
    }
}

/// Whether attaching again cannot help: the server said no for a reason that time does not change.
fn is_final(error: &Error) -> bool {
    error.kind() == ErrorKind::Server
        && matches!(
            error.code(),
            Code::InvalidArgument
                | Code::PermissionDenied
                | Code::Unauthenticated
                | Code::Unimplemented
                | Code::NotFound
        )
}

/// `attached`, unless the oldest mapping is gone: then the pid is another process now.
async fn confirmed(link: &Link, attached: Attached) -> Result<Attached> {
    let Some(oldest) = link.oldest_mapping() else { return Ok(attached) };
    match has_mapping(link, oldest).await {
        Ok(false) if link.remembers(oldest) => Err(Error::process_ended("the server no longer has it", link.pid)),
        Ok(_) => Ok(attached),
        Err(error) => {
            // The stream stands, which is what counts; a mapping that is gone is EBADF at its next use.
            tracing::debug!(pid = link.pid, %error, "could not ask for a mapping after attaching again");
            Ok(attached)
        }
    }
}

/// Mappings are listed in the order of their ids, so that the oldest of ours is on the first page or nearly.
async fn has_mapping(link: &Link, id: u64) -> Result<bool> {
    let mut page_token = String::new();
    loop {
        let request = v1::ListMappingsRequest { pid: Some(link.pid), page_size: 0, page_token };
        let list = |stubs: Stubs, request| async move { stubs.mmap().list_mappings(request).await };
        let page = link.caller.call(Repeat::Idempotent, request, list).await?.into_inner();
        if page.mappings.iter().any(|mapping| mapping.id == id) {
            return Ok(true);
        }
        let is_past = page.mappings.last().is_some_and(|mapping| mapping.id > id);
        if is_past || page.next_page_token.is_empty() {
            return Ok(false);
        }
        page_token = page.next_page_token;
    }
}

fn lost(pid: u32, error: &Error) -> Error {
    Error::process_ended(format!("process {pid} was lost and its mappings are gone: {error}; attach a new one"), pid)
}

/// Starts [`keep`]. Needs a tokio runtime, which every caller of an async function has.
pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    // Not detached without an owner: the task ends when the process that started it is dropped.
    drop(tokio::spawn(task));
}
