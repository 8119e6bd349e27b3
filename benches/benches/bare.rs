//! The ceiling of a call: a tonic service of the same contract that answers from a constant.

use bytes::Bytes;
use mmap_proto::v1;
use mmap_proto::v1::mmap_service_server::{MmapService, MmapServiceServer};
use tonic::{Request, Response, Status, Streaming};

type Answer<T> = Result<Response<T>, Status>;

/// Answers reads with its bytes, and takes writes.
#[derive(Debug)]
pub(crate) struct Bare(Bytes);

impl Bare {
    /// The service, reading `data`.
    pub(crate) fn serving(data: Bytes) -> MmapServiceServer<Self> {
        MmapServiceServer::new(Self(data))
    }
}

fn absent<T>() -> Answer<T> {
    Err(Status::unimplemented("only MmapRead and MmapWrite"))
}

#[tonic::async_trait]
impl MmapService for Bare {
    type MmapReadStreamStream = tokio_stream::Empty<Result<v1::MmapReadStreamResponse, Status>>;
    type MmapPipelineStream = tokio_stream::Empty<Result<v1::MmapPipelineResponse, Status>>;

    async fn mmap_read(&self, _: Request<v1::MmapReadRequest>) -> Answer<v1::MmapReadResponse> {
        Ok(Response::new(v1::MmapReadResponse { data: self.0.clone() }))
    }

    async fn mmap_write(&self, request: Request<v1::MmapWriteRequest>) -> Answer<v1::MmapWriteResponse> {
        Ok(Response::new(v1::MmapWriteResponse { written: request.into_inner().data.len() as u64 }))
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

    async fn mmap_read_stream(&self, _: Request<v1::MmapReadStreamRequest>) -> Answer<Self::MmapReadStreamStream> {
        absent()
    }

    async fn mmap_write_stream(
        &self,
        _: Request<Streaming<v1::MmapWriteStreamRequest>>,
    ) -> Answer<v1::MmapWriteStreamResponse> {
        absent()
    }

    async fn mmap_pipeline(&self, _: Request<Streaming<v1::MmapPipelineRequest>>) -> Answer<Self::MmapPipelineStream> {
        absent()
    }

    async fn list_mappings(&self, _: Request<v1::ListMappingsRequest>) -> Answer<v1::ListMappingsResponse> {
        absent()
    }
}
