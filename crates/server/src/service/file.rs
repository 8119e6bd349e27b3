//! `FileService`: files in the store, mapped or not.

use mmap_proto::v1;
use mmap_proto::v1::file_service_server::FileService;
use tonic::{Request, Response, Status};

use super::conflicts;
use super::front::{Core, Front};
use crate::convert;
use crate::identity::PidHeader;

type Answer<T> = Result<Response<T>, Status>;

/// The service.
#[derive(Debug)]
pub(crate) struct Files(pub(crate) Front);

#[tonic::async_trait]
impl FileService for Files {
    async fn stat_file(&self, request: Request<v1::StatFileRequest>) -> Answer<v1::StatFileResponse> {
        let run = |core: Core, caller, message: v1::StatFileRequest| async move {
            let path = convert::path(message.path)?;
            Ok(convert::file(core.stat_file(caller, &path).await?))
        };
        self.0.answer(request, PidHeader::Optional, run).await
    }

    async fn list_files(&self, request: Request<v1::ListFilesRequest>) -> Answer<v1::ListFilesResponse> {
        let run = |core: Core, caller, message: v1::ListFilesRequest| async move {
            let page = convert::page(message.page_size, message.page_token);
            Ok(convert::files(core.list_files(caller, &message.prefix, page).await?))
        };
        self.0.answer(request, PidHeader::Optional, run).await
    }

    async fn truncate_file(&self, request: Request<v1::TruncateFileRequest>) -> Answer<v1::TruncateFileResponse> {
        let run = |core: Core, caller, message: v1::TruncateFileRequest| async move {
            let create = convert::truncate(&message)?;
            Ok(convert::truncated(core.truncate_file(caller, &message.path, message.size, create).await?))
        };
        self.0.answer(request, PidHeader::Optional, run).await
    }

    async fn remove_file(&self, request: Request<v1::RemoveFileRequest>) -> Answer<v1::RemoveFileResponse> {
        let run = |core: Core, caller, message: v1::RemoveFileRequest| async move {
            let path = convert::path(message.path)?;
            core.remove_file(caller, &path).await?;
            Ok(v1::RemoveFileResponse {})
        };
        self.0.answer(request, PidHeader::Optional, run).await
    }

    async fn list_waiting(&self, request: Request<v1::ListWaitingRequest>) -> Answer<v1::ListWaitingResponse> {
        let run = |core: Core, caller, message: v1::ListWaitingRequest| async move {
            core.list_waiting(caller, convert::page(message.page_size, message.page_token)).map(convert::waiting)
        };
        self.0.answer(request, PidHeader::Optional, run).await
    }

    async fn list_conflicts(&self, request: Request<v1::ListConflictsRequest>) -> Answer<v1::ListConflictsResponse> {
        let run = |core: Core, caller, message: v1::ListConflictsRequest| async move {
            let page = convert::page(message.page_size, message.page_token);
            Ok(conflicts::listed(core.list_conflicts(caller, page).await?))
        };
        self.0.answer(request, PidHeader::Optional, run).await
    }

    async fn read_conflict(&self, request: Request<v1::ReadConflictRequest>) -> Answer<v1::ReadConflictResponse> {
        let run = |core: Core, caller, message: v1::ReadConflictRequest| async move {
            Ok(conflicts::read(core.read_conflict(caller, &message.id, conflicts::wanted(&message)).await?))
        };
        self.0.answer(request, PidHeader::Optional, run).await
    }

    async fn apply_conflict(&self, request: Request<v1::ApplyConflictRequest>) -> Answer<v1::ApplyConflictResponse> {
        let run = |core: Core, caller, message: v1::ApplyConflictRequest| async move {
            Ok(conflicts::applied(core.apply_conflict(caller, &message.id).await?))
        };
        self.0.answer(request, PidHeader::Optional, run).await
    }

    async fn drop_conflict(&self, request: Request<v1::DropConflictRequest>) -> Answer<v1::DropConflictResponse> {
        let run = |core: Core, caller, message: v1::DropConflictRequest| async move {
            core.drop_conflict(caller, &message.id).await?;
            Ok(v1::DropConflictResponse {})
        };
        self.0.answer(request, PidHeader::Optional, run).await
    }
}
