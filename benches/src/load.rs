//! Clients of a gRPC server, mmapd's or the bare one: reads and writes through the generated stubs and through the
//! client library, so many under way at a time, until a moment. Each answer is looked at.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::try_join_all;
use futures::stream;
use mmap_client::Mapping;
use mmap_proto::v1::mmap_pipeline_request::Op;
use mmap_proto::v1::mmap_pipeline_response::Result as Outcome;
use mmap_proto::v1::mmap_service_client::MmapServiceClient;
use mmap_proto::v1::{self};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Status};

/// Bytes of a small read or write.
pub const PAGE: u64 = 4096;
/// Bytes of a file that small reads and writes walk over.
pub const FILE: u64 = 16 << 20;
const MIB: u64 = 1 << 20;
/// Over tonic's default of 4 MiB.
const MESSAGE_MAX: usize = 8 << 20;
/// What a message of a write stream carries.
const CHUNK: u64 = 256 << 10;

/// What an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A read of so many bytes.
    Read(u64),
    /// A write of so many bytes.
    Write(u64),
}

/// Offsets that walk over a file of `size` bytes without a pattern that a cache line would like.
pub fn offset(number: u64, length: u64, size: u64) -> u64 {
    number.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_right(20) % (size / length).max(1) * length
}

/// A message with the headers that mmapd needs; the bare server gets the same.
pub fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("mmap-pid", MetadataValue::from_static("1"));
    request.metadata_mut().insert("mmap-capabilities", MetadataValue::from_static("FileRead,FileWrite"));
    request
}

/// The generated stub over a channel.
pub fn stub(channel: &Channel) -> MmapServiceClient<Channel> {
    MmapServiceClient::new(channel.clone()).max_decoding_message_size(MESSAGE_MAX)
}

fn said(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

fn expect(what: &str, answered: u64, wanted: u64) -> Result<(), String> {
    if answered == wanted { Ok(()) } else { Err(format!("{what} of {wanted} bytes was answered with {answered}")) }
}

#[allow(clippy::cast_precision_loss, reason = "operations of some seconds")]
fn sum(counts: Vec<u64>) -> f64 {
    counts.into_iter().sum::<u64>() as f64
}

/// A file that is mapped at a server, and where.
#[derive(Clone, Copy, Debug)]
pub struct Mapped {
    /// The mapping's id.
    pub id: u64,
    /// Its length.
    pub size: u64,
}

/// Maps `path` for reading and writing, made `size` bytes long if it is missing, all of it in memory.
///
/// # Errors
/// The server's.
pub async fn map(channel: &Channel, path: &str, size: u64) -> Result<Mapped, String> {
    let message = v1::MmapRequest {
        path: path.to_owned(),
        length: Some(size),
        prot: 3,
        shared: true,
        create: true,
        populate: true,
        ..Default::default()
    };
    let answer = stub(channel).mmap(request(message)).await.map_err(|status| said(&status))?;
    Ok(Mapped { id: answer.into_inner().mmap_id, size })
}

/// Unary calls through the stub, `in_flight` under way, spread over the channels.
///
/// # Errors
/// The first failure.
pub async fn unary(
    channels: &[Channel],
    file: Mapped,
    kind: Kind,
    in_flight: u64,
    end: Instant,
) -> Result<f64, String> {
    let callers = (0..in_flight).zip(channels.iter().cycle()).map(|(caller, channel)| {
        let stub = stub(channel);
        tokio::spawn(unary_caller(stub, file, kind, caller << 32, end))
    });
    let counts = try_join_all(callers.collect::<Vec<_>>()).await.map_err(|error| error.to_string())?;
    Ok(sum(counts.into_iter().collect::<Result<_, _>>()?))
}

async fn unary_caller(
    mut stub: MmapServiceClient<Channel>,
    file: Mapped,
    kind: Kind,
    first: u64,
    end: Instant,
) -> Result<u64, String> {
    let data = payload(kind);
    let mut done = 0;
    while Instant::now() < end {
        match kind {
            Kind::Read(length) => {
                let offset = offset(first + done, length, file.size);
                let message = v1::MmapReadRequest { mmap_id: file.id, offset, length };
                let answer = stub.mmap_read(request(message)).await.map_err(|status| said(&status))?;
                expect("a read", answer.into_inner().data.len() as u64, length)?;
            }
            Kind::Write(length) => {
                let offset = offset(first + done, length, file.size);
                let message = v1::MmapWriteRequest { mmap_id: file.id, offset, data: data.clone() };
                let answer = stub.mmap_write(request(message)).await.map_err(|status| said(&status))?;
                expect("a write", answer.into_inner().written, length)?;
            }
        }
        done += 1;
    }
    Ok(done)
}

fn payload(kind: Kind) -> Bytes {
    match kind {
        Kind::Read(_) => Bytes::new(),
        Kind::Write(length) => Bytes::from(vec![3; usize::try_from(length).unwrap_or(0)]),
    }
}

fn operation(file: Mapped, kind: Kind, tag: u64, data: &Bytes) -> v1::MmapPipelineRequest {
    let op = match kind {
        Kind::Read(length) => {
            let offset = offset(tag, length, file.size);
            Op::MmapRead(v1::MmapReadRequest { mmap_id: file.id, offset, length })
        }
        Kind::Write(length) => {
            let offset = offset(tag, length, file.size);
            Op::MmapWrite(v1::MmapWriteRequest { mmap_id: file.id, offset, data: data.clone() })
        }
    };
    v1::MmapPipelineRequest { tag, op: Some(op) }
}

/// Operations on one stream through the generated stub, `in_flight` under way.
///
/// # Errors
/// The first failure, that of an operation too.
pub async fn pipeline(
    channel: &Channel,
    file: Mapped,
    kind: Kind,
    in_flight: u32,
    end: Instant,
) -> Result<f64, String> {
    let data = payload(kind);
    let (send, operations) = mpsc::channel(in_flight as usize);
    let ended = || "the stream ended before its time".to_owned();
    for tag in 0..u64::from(in_flight) {
        send.send(operation(file, kind, tag, &data)).await.map_err(|_| ended())?;
    }
    let answers = stub(channel).mmap_pipeline(request(ReceiverStream::new(operations))).await;
    let mut answers = answers.map_err(|status| said(&status))?.into_inner();
    let (mut sent, mut done) = (u64::from(in_flight), 0);
    while done < sent {
        let answer = answers.message().await.map_err(|status| said(&status))?.ok_or_else(ended)?;
        check(kind, answer.result)?;
        done += 1;
        if Instant::now() < end {
            send.send(operation(file, kind, sent, &data)).await.map_err(|_| ended())?;
            sent += 1;
        }
    }
    Ok(sum(vec![done]))
}

fn check(kind: Kind, outcome: Option<Outcome>) -> Result<(), String> {
    match (kind, outcome) {
        (Kind::Read(length), Some(Outcome::MmapRead(read))) => expect("a read", read.data.len() as u64, length),
        (Kind::Write(length), Some(Outcome::MmapWrite(write))) => expect("a write", write.written, length),
        (_, Some(Outcome::Error(status))) => Err(status.message),
        (_, other) => Err(format!("an answer of another kind: {other:?}")),
    }
}

/// Reads or writes by the client library: as many tasks as are under way, each a plain loop.
///
/// # Errors
/// The first failure.
pub async fn library(mapping: &Arc<Mapping>, kind: Kind, in_flight: u64, end: Instant) -> Result<f64, String> {
    let tasks = (0..in_flight).map(|task| tokio::spawn(library_task(Arc::clone(mapping), kind, task << 32, end)));
    let counts = try_join_all(tasks.collect::<Vec<_>>()).await.map_err(|error| error.to_string())?;
    Ok(sum(counts.into_iter().collect::<Result<_, _>>()?))
}

async fn library_task(mapping: Arc<Mapping>, kind: Kind, first: u64, end: Instant) -> Result<u64, String> {
    let (data, size) = (payload(kind), mapping.length());
    let mut done = 0;
    while Instant::now() < end {
        match kind {
            Kind::Read(length) => {
                let wanted = usize::try_from(length).unwrap_or(usize::MAX);
                let read = mapping.read(offset(first + done, length, size), wanted).await;
                read.map_err(|error| error.to_string())?;
            }
            Kind::Write(length) => {
                let written = mapping.write(offset(first + done, length, size), data.clone()).await;
                written.map_err(|error| error.to_string())?;
            }
        }
        done += 1;
    }
    Ok(done)
}

/// Reads the first `length` bytes as a stream: how many MiB came.
///
/// # Errors
/// The server's, and bytes that are missing.
pub async fn read_stream(
    channel: &Channel,
    file: Mapped,
    length: u64,
    chunk_length: Option<u64>,
) -> Result<f64, String> {
    let message = v1::MmapReadStreamRequest { mmap_id: file.id, offset: 0, length, chunk_length };
    let answer = stub(channel).mmap_read_stream(request(message)).await.map_err(|status| said(&status))?;
    let (mut chunks, mut read) = (answer.into_inner(), 0);
    while let Some(chunk) = chunks.message().await.map_err(|status| said(&status))? {
        expect("a chunk's offset", chunk.offset, read)?;
        read += chunk.data.len() as u64;
    }
    expect("a stream", read, length)?;
    Ok(sum(vec![read / MIB]))
}

/// Reads the first `length` bytes as a stream of the client library: how many MiB came.
///
/// # Errors
/// The server's, and bytes that are missing.
pub async fn library_read_stream(mapping: &Mapping, length: u64) -> Result<f64, String> {
    let said = |error: mmap_client::Error| error.to_string();
    let (mut pieces, mut read) = (mapping.read_stream(0, length).map_err(said)?, 0);
    while let Some(piece) = pieces.next().await {
        read += piece.map_err(said)?.len() as u64;
    }
    expect("a stream", read, length)?;
    Ok(sum(vec![read / MIB]))
}

/// Writes the first `length` bytes as a stream: how many MiB went.
///
/// # Errors
/// The server's.
pub async fn write_stream(channel: &Channel, file: Mapped, length: u64) -> Result<f64, String> {
    let data = payload(Kind::Write(CHUNK));
    let messages = stream::iter((0..length / CHUNK).map(move |number| v1::MmapWriteStreamRequest {
        mmap_id: file.id,
        offset: number * CHUNK,
        data: data.clone(),
    }));
    let answer = stub(channel).mmap_write_stream(request(messages.boxed())).await.map_err(|status| said(&status))?;
    expect("a stream", answer.into_inner().written, length)?;
    Ok(sum(vec![length / MIB]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_lie_in_the_file_and_do_not_repeat_soon() {
        let offsets: std::collections::BTreeSet<u64> = (0..1000).map(|number| offset(number, PAGE, FILE)).collect();
        assert!(offsets.iter().all(|offset| offset.is_multiple_of(PAGE) && offset + PAGE <= FILE));
        assert!(offsets.len() > 800, "{}", offsets.len());
        assert_eq!(offset(7, PAGE, 100), 0);
    }
}
