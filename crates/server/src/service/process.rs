//! `ProcessService`: life and death of processes.

use futures::stream::BoxStream;
use mmap_proto::v1;
use mmap_proto::v1::process_service_server::ProcessService;
use tonic::{Request, Response, Status};

use super::attach::attached;
use super::front::{Core, Front};
use crate::convert;
use crate::identity::PidHeader;
use crate::layers::Call;

type Answer<T> = Result<Response<T>, Status>;

/// The service.
#[derive(Debug)]
pub(crate) struct Processes(pub(crate) Front);

#[tonic::async_trait]
impl ProcessService for Processes {
    type AttachStream = BoxStream<'static, Result<v1::AttachResponse, Status>>;

    async fn attach(&self, request: Request<v1::AttachRequest>) -> Answer<Self::AttachStream> {
        let (call, front) = (Call::of(&request), &self.0);
        let run = |core: Core, caller: mmap_core::manager::Caller, message| async move {
            let (wanted, name) = convert::attach(message, caller.pid)?;
            let attachment = core.attach(caller, wanted, name)?;
            Ok(attached(attachment, front.grace, call, front.stopping.clone()))
        };
        front.answer(request, PidHeader::Optional, run).await
    }

    async fn exit(&self, request: Request<v1::ExitRequest>) -> Answer<v1::ExitResponse> {
        let run = |core: Core, caller, message: v1::ExitRequest| async move {
            Ok(convert::exited(core.exit(caller, message.discard).await?))
        };
        self.0.answer(request, PidHeader::Needed, run).await
    }

    async fn list_processes(&self, request: Request<v1::ListProcessesRequest>) -> Answer<v1::ListProcessesResponse> {
        let run = |core: Core, caller, message: v1::ListProcessesRequest| async move {
            core.list_processes(caller, convert::page(message.page_size, message.page_token)).map(convert::processes)
        };
        self.0.answer(request, PidHeader::Optional, run).await
    }
}
