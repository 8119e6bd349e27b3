//! The ceiling of a gRPC call: a tonic service of the same contract that answers from a constant, with the same
//! messages and payloads, and does nothing else.

use std::pin::Pin;

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use mmap_proto::v1::mmap_pipeline_request::Op;
use mmap_proto::v1::mmap_pipeline_response::Result as Outcome;
use mmap_proto::v1::mmap_service_server::{MmapService, MmapServiceServer};
use mmap_proto::v1::{self};
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use crate::peers::memory::large;
use crate::peers::settings::Settings;

type Answer<T> = Result<Response<T>, Status>;
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The longest answer.
const DATA: usize = 4 << 20;
/// Messages over tonic's limit of 4 MiB need one of their own.
const MESSAGE_MAX: usize = 8 << 20;
/// What a message of a stream carries unless it is asked for otherwise.
pub const CHUNK: u64 = 256 << 10;

/// Answers reads from a constant, and takes writes.
#[derive(Debug)]
struct Echo(Bytes);

impl Echo {
    #[allow(clippy::result_large_err, reason = "tonic's Status is what it is")]
    fn data(&self, length: u64) -> Result<Bytes, Status> {
        let length = usize::try_from(length).ok().filter(|length| *length <= self.0.len());
        length.map(|length| self.0.slice(..length)).ok_or_else(|| Status::invalid_argument("longer than a message"))
    }

    #[allow(clippy::result_large_err, reason = "tonic's Status is what it is")]
    fn answer(&self, request: v1::MmapPipelineRequest) -> Result<v1::MmapPipelineResponse, Status> {
        let result = match request.op {
            Some(Op::MmapRead(read)) => Outcome::MmapRead(v1::MmapReadResponse { data: self.data(read.length)? }),
            Some(Op::MmapWrite(write)) => {
                Outcome::MmapWrite(v1::MmapWriteResponse { written: write.data.len() as u64 })
            }
            Some(Op::Mmap(_) | Op::Msync(_) | Op::Munmap(_) | Op::MmapStats(_)) | None => {
                return Err(Status::unimplemented("only reads and writes"));
            }
        };
        Ok(v1::MmapPipelineResponse { tag: request.tag, result: Some(result) })
    }
}

fn absent<T>() -> Answer<T> {
    Err(Status::unimplemented("only reads and writes"))
}

#[tonic::async_trait]
impl MmapService for Echo {
    type MmapReadStreamStream = Answers<v1::MmapReadStreamResponse>;
    type MmapPipelineStream = Answers<v1::MmapPipelineResponse>;

    async fn mmap_read(&self, request: Request<v1::MmapReadRequest>) -> Answer<v1::MmapReadResponse> {
        Ok(Response::new(v1::MmapReadResponse { data: self.data(request.into_inner().length)? }))
    }

    async fn mmap_write(&self, request: Request<v1::MmapWriteRequest>) -> Answer<v1::MmapWriteResponse> {
        Ok(Response::new(v1::MmapWriteResponse { written: request.into_inner().data.len() as u64 }))
    }

    async fn mmap_read_stream(
        &self,
        request: Request<v1::MmapReadStreamRequest>,
    ) -> Answer<Self::MmapReadStreamStream> {
        let v1::MmapReadStreamRequest { offset, length, chunk_length, .. } = request.into_inner();
        let chunk = chunk_length.unwrap_or(CHUNK).max(1);
        let length_max = self.data(chunk)?.len();
        // As mmapd does, it sends all of a file that is in memory, and not one message again and again out of a cache.
        let data = large();
        let chunks = (0..length.div_ceil(chunk)).map(move |number| {
            let start = number * chunk;
            let take = usize::try_from(chunk.min(length - start)).unwrap_or(length_max);
            let at = usize::try_from(start).unwrap_or_default() % (data.len() - length_max);
            Ok(v1::MmapReadStreamResponse { offset: offset + start, data: data.slice(at..at + take) })
        });
        Ok(Response::new(stream::iter(chunks).boxed()))
    }

    async fn mmap_write_stream(
        &self,
        request: Request<Streaming<v1::MmapWriteStreamRequest>>,
    ) -> Answer<v1::MmapWriteStreamResponse> {
        let (mut messages, mut written) = (request.into_inner(), 0);
        while let Some(message) = messages.message().await? {
            written += message.data.len() as u64;
        }
        Ok(Response::new(v1::MmapWriteStreamResponse { written }))
    }

    async fn mmap_pipeline(
        &self,
        request: Request<Streaming<v1::MmapPipelineRequest>>,
    ) -> Answer<Self::MmapPipelineStream> {
        let echo = Self(self.0.clone());
        let answers = request.into_inner().map(move |request| request.and_then(|request| echo.answer(request)));
        Ok(Response::new(answers.boxed()))
    }

    async fn mmap(&self, _: Request<v1::MmapRequest>) -> Answer<v1::MmapResponse> {
        absent()
    }

    async fn msync(&self, _: Request<v1::MsyncRequest>) -> Answer<v1::MsyncResponse> {
        absent()
    }

    async fn munmap(&self, _: Request<v1::MunmapRequest>) -> Answer<v1::MunmapResponse> {
        absent()
    }

    async fn mmap_stats(&self, _: Request<v1::MmapStatsRequest>) -> Answer<v1::MmapStatsResponse> {
        absent()
    }

    async fn list_mappings(&self, _: Request<v1::ListMappingsRequest>) -> Answer<v1::ListMappingsResponse> {
        absent()
    }
}

/// Serves on a free port and on `socket` until the process is ended; prints where.
///
/// # Errors
/// It cannot listen, or stops serving.
pub async fn serve(settings: Settings, socket: &str) -> Result<(), String> {
    let failed = |error: std::io::Error| error.to_string();
    let tcp = TcpListener::bind("127.0.0.1:0").await.map_err(failed)?;
    let unix = UnixListener::bind(socket).map_err(failed)?;
    println!("listening on {}", tcp.local_addr().map_err(failed)?);
    println!("listening on unix:{socket}");
    let service = MmapServiceServer::new(Echo(Bytes::from(vec![7; DATA]))).max_decoding_message_size(MESSAGE_MAX);
    let incoming = TcpIncoming::from(tcp).with_nodelay(Some(settings.nodelay));
    let over_tcp = settings.server().add_service(service.clone()).serve_with_incoming(incoming);
    let over_unix = settings.server().add_service(service).serve_with_incoming(UnixListenerStream::new(unix));
    let ended = futures::future::try_join(over_tcp, over_unix).await;
    ended.map(|_| ()).map_err(|error| error.to_string())
}
