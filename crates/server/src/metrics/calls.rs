//! [`Calls`]: what calls and pipelined operations add to as they end.
//!
//! A call reads the clock twice: 42 ns of the 8.3 µs of processor time that a hot one takes. A pipelined operation
//! that is answered at once, of 2 µs, reads none: a stream counts such in a [`Tally`] of its own, without an atomic,
//! and adds that up once a batch. Labels are indices into tables that are made here, so that nobody can make more.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::Stream;
use http::HeaderMap;
use mmap_core::meter::{Histogram, Observed};
use tonic::{Code, Status};

/// The contract's methods, each with its service; behind them stands whatever else is called.
const METHODS: [(&str, &str); 22] = [
    ("MmapService", "MmapRead"),
    ("MmapService", "MmapWrite"),
    ("MmapService", "MmapReadStream"),
    ("MmapService", "MmapWriteStream"),
    ("MmapService", "MmapPipeline"),
    ("MmapService", "Mmap"),
    ("MmapService", "Msync"),
    ("MmapService", "Munmap"),
    ("MmapService", "MmapStats"),
    ("MmapService", "ListMappings"),
    ("ProcessService", "Attach"),
    ("ProcessService", "Exit"),
    ("ProcessService", "ListProcesses"),
    ("FileService", "StatFile"),
    ("FileService", "ListFiles"),
    ("FileService", "TruncateFile"),
    ("FileService", "RemoveFile"),
    ("FileService", "ListWaiting"),
    ("FileService", "ListConflicts"),
    ("FileService", "ReadConflict"),
    ("FileService", "ApplyConflict"),
    ("FileService", "DropConflict"),
];
/// What whatever else is called is told as: health, reflection, and what there is not.
const OTHER: &str = "other";

/// The names of gRPC's codes, in the order of their numbers.
pub(super) const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// A method, as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rpc(usize);

impl Rpc {
    /// `MmapRead`.
    pub(crate) const READ: Self = Self(0);
    /// `MmapWrite`.
    pub(crate) const WRITE: Self = Self(1);
    /// `MmapReadStream`.
    pub(crate) const READ_STREAM: Self = Self(2);
    /// `MmapWriteStream`.
    pub(crate) const WRITE_STREAM: Self = Self(3);
    /// `MmapPipeline`.
    pub(crate) const PIPELINE: Self = Self(4);
    /// Those whose open streams are told.
    pub(super) const STREAMS: [Self; 3] = [Self::READ_STREAM, Self::WRITE_STREAM, Self::PIPELINE];
    const OTHER: Self = Self(METHODS.len());

    /// The method of this path.
    pub(crate) fn of(path: &str) -> Self {
        let named = path.strip_prefix("/mmap.v1.").and_then(|path| path.split_once('/'));
        let known = named.and_then(|named| METHODS.iter().position(|known| *known == named));
        known.map_or(Self::OTHER, Self)
    }

    pub(super) fn name(self) -> &'static str {
        METHODS.get(self.0).map_or(OTHER, |(_, name)| name)
    }

    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0..=METHODS.len()).map(Self)
    }
}

/// What a pipelined operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Map,
    Read,
    Write,
    Sync,
    Unmap,
    Stats,
    /// None that this server knows, or none that could be done at all.
    Malformed,
}

impl Operation {
    pub(super) const ALL: [Self; 7] =
        [Self::Map, Self::Read, Self::Write, Self::Sync, Self::Unmap, Self::Stats, Self::Malformed];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Map => "mmap",
            Self::Read => "mmap_read",
            Self::Write => "mmap_write",
            Self::Sync => "msync",
            Self::Unmap => "munmap",
            Self::Stats => "mmap_stats",
            Self::Malformed => "malformed",
        }
    }
}

/// The counts of one method, or of one kind of operation: on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Counts {
    codes: [AtomicU64; CODES.len()],
    took: Histogram,
    open: AtomicU64,
}

/// What was counted of all calls.
#[derive(Debug)]
pub(crate) struct Calls {
    methods: [Counts; METHODS.len() + 1],
    operations: [Counts; Operation::ALL.len()],
    read_bytes: AtomicU64,
    written_bytes: AtomicU64,
    connections: AtomicU64,
}

impl Calls {
    /// Nothing was called yet.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            methods: std::array::from_fn(|_| Counts::default()),
            operations: std::array::from_fn(|_| Counts::default()),
            read_bytes: AtomicU64::new(0),
            written_bytes: AtomicU64::new(0),
            connections: AtomicU64::new(0),
        })
    }

    /// A call that began at `since` was answered at once.
    pub(crate) fn ended(&self, rpc: Rpc, code: Code, since: Instant) {
        let counts = &self.methods[rpc.0];
        counts.codes[code as usize].fetch_add(1, Ordering::Relaxed);
        counts.took.observe(since.elapsed());
    }

    /// A call that began at `since` goes on: it is counted when what this answers ends.
    pub(crate) fn running(self: &Arc<Self>, rpc: Rpc, since: Instant) -> Running {
        Running { calls: Arc::clone(self), rpc, since, code: Code::Cancelled }
    }

    /// Bytes were read.
    pub(crate) fn read(&self, bytes: u64) {
        self.read_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes were written.
    pub(crate) fn written(&self, bytes: u64) {
        self.written_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A connection was accepted.
    pub(crate) fn connected(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// A pipelined operation failed.
    pub(crate) fn operation_failed(&self, operation: Operation, code: Code) {
        self.operations[operation as usize].codes[code as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A pipelined operation had to wait, and took so long.
    pub(crate) fn operation_waited(&self, operation: Operation, took: Duration) {
        self.operations[operation as usize].took.observe(took);
    }

    /// Adds what a stream has counted, and begins it anew.
    pub(crate) fn add(&self, tally: &mut Tally) {
        let Tally { done, read, written } = std::mem::take(tally);
        for (operation, done) in self.operations.iter().zip(done).filter(|(_, done)| *done > 0) {
            operation.codes[Code::Ok as usize].fetch_add(done, Ordering::Relaxed);
        }
        if read > 0 {
            self.read(read);
        }
        if written > 0 {
            self.written(written);
        }
    }

    pub(super) fn of_method(&self, rpc: Rpc) -> ([u64; CODES.len()], Observed, u64) {
        let counts = &self.methods[rpc.0];
        (loaded(&counts.codes), counts.took.observed(), counts.open.load(Ordering::Relaxed))
    }

    pub(super) fn of_operation(&self, operation: Operation) -> ([u64; CODES.len()], Observed) {
        let counts = &self.operations[operation as usize];
        (loaded(&counts.codes), counts.took.observed())
    }

    /// Bytes read and written, and connections.
    pub(super) fn totals(&self) -> [u64; 3] {
        [&self.read_bytes, &self.written_bytes, &self.connections].map(|count| count.load(Ordering::Relaxed))
    }
}

fn loaded(counts: &[AtomicU64; CODES.len()]) -> [u64; CODES.len()] {
    std::array::from_fn(|index| counts[index].load(Ordering::Relaxed))
}

/// What a stream has done since it was added up last: plain numbers, because the stream is the only one to count.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    done: [u64; Operation::ALL.len()],
    read: u64,
    written: u64,
}

impl Tally {
    /// An operation is answered.
    pub(crate) fn done(&mut self, operation: Operation) {
        self.done[operation as usize] += 1;
    }

    /// A read of so many bytes is.
    pub(crate) fn read(&mut self, bytes: u64) {
        self.done(Operation::Read);
        self.read += bytes;
    }

    /// A write of so many bytes is.
    pub(crate) fn wrote(&mut self, bytes: u64) {
        self.done(Operation::Write);
        self.written += bytes;
    }
}

/// A call that runs: counted when this is dropped, as cancelled unless it was told otherwise.
#[derive(Debug)]
pub(crate) struct Running {
    calls: Arc<Calls>,
    rpc: Rpc,
    since: Instant,
    code: Code,
}

impl Running {
    /// It was answered with these headers. An error has its code there; what fails behind them is not seen.
    pub(crate) fn answered(mut self, headers: &HeaderMap) {
        let code = headers.get("grpc-status").and_then(|value| value.to_str().ok()?.parse::<i32>().ok());
        self.code = code.map_or(Code::Ok, Code::from);
    }

    /// It is answered by `messages`, and ends with them.
    pub(crate) fn stream<S>(self, messages: S) -> Counted<S> {
        self.calls.methods[self.rpc.0].open.fetch_add(1, Ordering::Relaxed);
        Counted { messages, running: self }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.calls.ended(self.rpc, self.code, self.since);
    }
}

/// A stream of answers, which is counted as long as it is open, and by how it ended.
#[derive(Debug)]
pub(crate) struct Counted<S> {
    messages: S,
    running: Running,
}

impl<S, T> Stream for Counted<S>
where
    S: Stream<Item = Result<T, Status>> + Unpin,
{
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = Pin::new(&mut self.messages).poll_next(cx);
        match &polled {
            Poll::Ready(Some(Err(status))) => self.running.code = status.code(),
            Poll::Ready(None) if self.running.code == Code::Cancelled => self.running.code = Code::Ok,
            Poll::Ready(Some(Ok(_)) | None) | Poll::Pending => {}
        }
        polled
    }
}

impl<S> Drop for Counted<S> {
    fn drop(&mut self) {
        self.running.calls.methods[self.running.rpc.0].open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures::{StreamExt as _, stream};
    use prost::Message as _;

    use super::*;

    #[test]
    fn every_method_of_the_contract_has_its_counts_and_others_share_theirs() {
        let set = prost_types::FileDescriptorSet::decode(mmap_proto::v1::FILE_DESCRIPTOR_SET).unwrap();
        let services = set.file.iter().filter(|file| file.package() == "mmap.v1").flat_map(|file| &file.service);
        let mut known: Vec<String> = services
            .flat_map(|service| {
                service.method.iter().map(|method| format!("/mmap.v1.{}/{}", service.name(), method.name()))
            })
            .collect();
        let mut listed: Vec<String> =
            METHODS.iter().map(|(service, name)| format!("/mmap.v1.{service}/{name}")).collect();
        assert!(known.iter().all(|path| Rpc::of(path) != Rpc::OTHER), "{known:?}");
        known.sort();
        listed.sort();
        assert_eq!(known, listed);
        for path in ["", "/", "/mmap.v1.MmapService/Nothing", "/grpc.health.v1.Health/Check", "/mmap.v1./MmapRead"] {
            assert_eq!(Rpc::of(path).name(), OTHER, "{path}");
        }
        assert_eq!((Rpc::READ.name(), Rpc::WRITE.name()), ("MmapRead", "MmapWrite"));
        assert_eq!(Rpc::STREAMS.map(Rpc::name), ["MmapReadStream", "MmapWriteStream", "MmapPipeline"]);
    }

    #[test]
    fn a_code_has_its_own_name() {
        for (number, name) in CODES.iter().enumerate() {
            let code = Code::from(i32::try_from(number).unwrap());
            assert_eq!(format!("{code:?}").to_uppercase(), name.replace('_', ""));
        }
    }

    #[test]
    fn a_call_is_counted_once_as_it_ended() {
        let calls = Calls::new();
        let rpc = Rpc::of("/mmap.v1.FileService/StatFile");
        calls.running(rpc, Instant::now()).answered(&HeaderMap::new());
        calls.running(rpc, Instant::now()).answered(&Status::not_found("").into_http::<()>().into_parts().0.headers);
        drop(calls.running(rpc, Instant::now()));
        let (codes, took, _) = calls.of_method(rpc);
        let seen: Vec<_> = codes.iter().enumerate().filter(|(_, count)| **count > 0).map(|(code, _)| code).collect();
        assert_eq!(seen, [Code::Ok as usize, Code::Cancelled as usize, Code::NotFound as usize]);
        assert_eq!(took.count(), 3);
    }

    #[tokio::test]
    async fn a_stream_is_open_until_it_is_dropped_and_counted_as_it_ended() {
        let (calls, rpc) = (Calls::new(), Rpc::STREAMS[0]);
        for (items, code) in [(vec![Ok(1)], Code::Ok), (vec![Ok(1), Err(Status::aborted(""))], Code::Aborted)] {
            let mut counted = calls.running(rpc, Instant::now()).stream(stream::iter(items));
            assert_eq!(calls.of_method(rpc).2, 1);
            while counted.next().await.is_some() {}
            drop(counted);
            let (codes, _, open) = calls.of_method(rpc);
            assert_eq!((codes[code as usize], open), (1, 0));
        }
        let mut cut = calls.running(rpc, Instant::now()).stream(stream::iter([Ok(1), Ok(2)]));
        assert!(cut.next().await.is_some());
        drop(cut);
        assert_eq!(calls.of_method(rpc).0[Code::Cancelled as usize], 1, "nobody took the rest");
    }

    #[test]
    fn a_tally_is_added_once() {
        let (calls, mut tally) = (Calls::new(), Tally::default());
        tally.read(10);
        tally.read(5);
        tally.wrote(7);
        tally.done(Operation::Stats);
        for _ in 0..2 {
            calls.add(&mut tally);
            assert_eq!(calls.totals(), [15, 7, 0]);
            assert_eq!(calls.of_operation(Operation::Read).0[0], 2);
            assert_eq!(calls.of_operation(Operation::Stats).0[0], 1);
        }
    }
}
