//! `MmapService`: the syscalls. The streaming methods answer ENOTSUP: they come with a later version.
//!
//! `MmapRead` and `MmapWrite` are answered before they get here, past tonic's codec; these are the same two for
//! whoever comes through it.

use mmap_core::manager::MmapId;
use mmap_proto::v1;
use mmap_proto::v1::mmap_service_server::MmapService;
use tonic::{Request, Response, Status, Streaming};

use super::front::{Core, Front};
use crate::convert;
use crate::identity::PidHeader;

type Answer<T> = Result<Response<T>, Status>;
type NoStream<T> = tokio_stream::Empty<Result<T, Status>>;

/// The service.
#[derive(Debug)]
pub(crate) struct Mmaps(pub(crate) Front);

#[tonic::async_trait]
impl MmapService for Mmaps {
    type MmapReadStreamStream = NoStream<v1::MmapReadStreamResponse>;
    type MmapPipelineStream = NoStream<v1::MmapPipelineResponse>;

    async fn mmap(&self, request: Request<v1::MmapRequest>) -> Answer<v1::MmapResponse> {
        let run = |core: Core, caller, message| async move {
            let request = convert::mmap(message)?;
            Ok(convert::mapped(&core.map(caller, request).await?))
        };
        self.0.answer(request, PidHeader::Needed, run).await
    }

    async fn mmap_read(&self, request: Request<v1::MmapReadRequest>) -> Answer<v1::MmapReadResponse> {
        let max = self.0.max_message;
        let run = |core: Core, caller, message| async move {
            let read = convert::mmap_read(message, max)?;
            let bytes = core.read(caller, read.id, read.offset, read.length).await?;
            Ok(v1::MmapReadResponse { data: bytes.into_bytes() })
        };
        self.0.answer(request, PidHeader::Needed, run).await
    }

    async fn mmap_write(&self, request: Request<v1::MmapWriteRequest>) -> Answer<v1::MmapWriteResponse> {
        let max = self.0.max_message;
        let run = |core: Core, caller, message: v1::MmapWriteRequest| async move {
            let v1::MmapWriteRequest { mmap_id, offset, data } = message;
            convert::check_write(offset, data.len(), max)?;
            let written = core.write(caller, MmapId(mmap_id), offset, &data).await?;
            Ok(v1::MmapWriteResponse { written })
        };
        self.0.answer(request, PidHeader::Needed, run).await
    }

    async fn msync(&self, request: Request<v1::MsyncRequest>) -> Answer<v1::MsyncResponse> {
        let run = |core: Core, caller, message| async move {
            let (id, request) = convert::msync(message)?;
            Ok(convert::synced(core.sync(caller, id, request).await?))
        };
        self.0.answer(request, PidHeader::Needed, run).await
    }

    async fn munmap(&self, request: Request<v1::MunmapRequest>) -> Answer<v1::MunmapResponse> {
        let run = |core: Core, caller, message| async move {
            let (id, unsynced) = convert::munmap(message);
            Ok(v1::MunmapResponse { synced_bytes: core.unmap(caller, id, unsynced).await? })
        };
        self.0.answer(request, PidHeader::Needed, run).await
    }

    async fn mmap_stats(&self, request: Request<v1::MmapStatsRequest>) -> Answer<v1::MmapStatsResponse> {
        let run = |core: Core, caller, message: v1::MmapStatsRequest| async move {
            core.stats(caller, MmapId(message.mmap_id)).map(convert::stats)
        };
        self.0.answer(request, PidHeader::Needed, run).await
    }

    async fn list_mappings(&self, request: Request<v1::ListMappingsRequest>) -> Answer<v1::ListMappingsResponse> {
        let run = |core: Core, caller, message: v1::ListMappingsRequest| async move {
            let pid = convert::pid(message.pid)?;
            core.list_mappings(caller, pid, convert::page(message.page_size, message.page_token)).map(convert::mappings)
        };
        self.0.answer(request, PidHeader::Optional, run).await
    }

    async fn mmap_read_stream(
        &self,
        request: Request<v1::MmapReadStreamRequest>,
    ) -> Answer<Self::MmapReadStreamStream> {
        Err(Front::unsupported(&request, "MmapReadStream"))
    }

    async fn mmap_write_stream(
        &self,
        request: Request<Streaming<v1::MmapWriteStreamRequest>>,
    ) -> Answer<v1::MmapWriteStreamResponse> {
        Err(Front::unsupported(&request, "MmapWriteStream"))
    }

    async fn mmap_pipeline(
        &self,
        request: Request<Streaming<v1::MmapPipelineRequest>>,
    ) -> Answer<Self::MmapPipelineStream> {
        Err(Front::unsupported(&request, "MmapPipeline"))
    }
}
