//! The three services over one locked world. Every handler goes through [`Service::run`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::stream::BoxStream;
use mmap_proto::{names, reason::Reason, v1};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Response, Status, Streaming,
    metadata::{Ascii, MetadataMap, MetadataValue},
};

use crate::{
    error::refuse,
    fault::{Admission, Desk},
    pipeline, streams,
    world::World,
};

fn node() -> MetadataValue<Ascii> {
    MetadataValue::from_static("fake")
}

type Answer<T> = Result<Response<T>, Status>;

/// See the module. Cheap to clone; clones share the world.
#[derive(Clone, Debug, Default)]
pub(crate) struct Service {
    world: Arc<Mutex<World>>,
    desk: Arc<Mutex<Desk>>,
}

/// Who calls, by the headers.
struct Caller {
    pid: Option<u32>,
    capabilities: String,
}

impl Caller {
    fn new(headers: &MetadataMap) -> Self {
        let text = |key| headers.get(key).and_then(|value| value.to_str().ok());
        Self {
            pid: text(names::PID).and_then(|pid| pid.parse().ok()),
            capabilities: text(names::CAPABILITIES).unwrap_or_default().to_owned(),
        }
    }

    fn pid(&self) -> Result<u32, Status> {
        let missing = || refuse(Reason::Inval, "the header mmap-pid is missing", &[("header", names::PID.to_owned())]);
        self.pid.filter(|pid| *pid != 0).ok_or_else(missing)
    }

    fn require(&self, capability: &str) -> Result<(), Status> {
        if self.capabilities.split(',').any(|has| has == capability) {
            return Ok(());
        }
        let values = [("capability", capability.to_owned())];
        Err(refuse(Reason::Acces, format!("this call needs the capability {capability}"), &values))
    }
}

impl Service {
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admit<Q>(&self, method: &'static str, request: &Request<Q>) -> Result<Admission, Status> {
        self.desk().admit(method, request)
    }

    async fn run<Q: Send, R>(
        &self,
        method: &'static str,
        request: Request<Q>,
        act: impl FnOnce(&mut World, &Caller, Q) -> Result<R, Status> + Send,
    ) -> Answer<R> {
        let admission = go_on(self.admit(method, &request)?).await;
        self.act(admission, request, act)
    }

    fn act<Q, R>(
        &self,
        admission: Admission,
        request: Request<Q>,
        act: impl FnOnce(&mut World, &Caller, Q) -> Result<R, Status>,
    ) -> Answer<R> {
        let caller = Caller::new(request.metadata());
        let answer = act(&mut self.world(), &caller, request.into_inner()).map_err(|mut status| {
            status.metadata_mut().insert(names::NODE, node());
            status
        })?;
        if let Admission::ThenFail(code) = admission {
            return Err(Status::new(code, "planned, after the work was done"));
        }
        let mut response = Response::new(answer);
        response.metadata_mut().insert(names::NODE, node());
        Ok(response)
    }
}

#[tonic::async_trait]
impl v1::mmap_service_server::MmapService for Service {
    type MmapReadStreamStream = BoxStream<'static, Result<v1::MmapReadStreamResponse, Status>>;
    type MmapPipelineStream = pipeline::Answers;

    async fn mmap(&self, request: Request<v1::MmapRequest>) -> Answer<v1::MmapResponse> {
        self.run("Mmap", request, |world, caller, request| {
            caller.require("FileRead")?;
            if request.prot & 2 != 0 || request.create {
                caller.require("FileWrite")?;
            }
            world.map(caller.pid()?, request)
        })
        .await
    }

    async fn mmap_read(&self, request: Request<v1::MmapReadRequest>) -> Answer<v1::MmapReadResponse> {
        let admission = go_on(self.admit("MmapRead", &request)?).await;
        self.act(admission, request, |world, caller, mut request| {
            request.length -= u64::from(admission == Admission::Garble);
            Ok(v1::MmapReadResponse { data: world.read(caller.pid()?, &request)?.into() })
        })
    }

    async fn mmap_write(&self, request: Request<v1::MmapWriteRequest>) -> Answer<v1::MmapWriteResponse> {
        self.run("MmapWrite", request, |world, caller, request| {
            Ok(v1::MmapWriteResponse { written: world.write(caller.pid()?, &request)? })
        })
        .await
    }

    async fn msync(&self, request: Request<v1::MsyncRequest>) -> Answer<v1::MsyncResponse> {
        self.run("Msync", request, |world, caller, request| world.msync(caller.pid()?, request.mmap_id)).await
    }

    async fn munmap(&self, request: Request<v1::MunmapRequest>) -> Answer<v1::MunmapResponse> {
        self.run("Munmap", request, |world, caller, request| world.unmap(caller.pid()?, request)).await
    }

    async fn mmap_stats(&self, request: Request<v1::MmapStatsRequest>) -> Answer<v1::MmapStatsResponse> {
        self.run("MmapStats", request, |world, caller, request| {
            caller.require("SystemInfo")?;
            world.stats(request.mmap_id)
        })
        .await
    }

    async fn mmap_read_stream(
        &self,
        request: Request<v1::MmapReadStreamRequest>,
    ) -> Answer<Self::MmapReadStreamStream> {
        let admission = go_on(self.admit("MmapReadStream", &request)?).await;
        let (pid, service) = (Caller::new(request.metadata()).pid()?, self.clone());
        let read = move |request| Ok(service.world().read(pid, &request)?.into());
        Ok(Response::new(streams::pieces(request.into_inner(), cut(&admission), read)?))
    }

    async fn mmap_write_stream(
        &self,
        request: Request<Streaming<v1::MmapWriteStreamRequest>>,
    ) -> Answer<v1::MmapWriteStreamResponse> {
        let admission = go_on(self.admit("MmapWriteStream", &request)?).await;
        let pid = Caller::new(request.metadata()).pid()?;
        let write = |request: v1::MmapWriteRequest| self.world().write(pid, &request);
        let written = streams::writes(request.into_inner(), cut(&admission), write).await?;
        Ok(Response::new(v1::MmapWriteStreamResponse { written }))
    }

    async fn mmap_pipeline(
        &self,
        request: Request<Streaming<v1::MmapPipelineRequest>>,
    ) -> Answer<Self::MmapPipelineStream> {
        let admission = go_on(self.admit("MmapPipeline", &request)?).await;
        let (service, headers) = (self.clone(), request.metadata().clone());
        let is_garbled = admission == Admission::Garble;
        self.act(admission, request, |_, caller, requests| {
            caller.pid()?;
            Ok(pipeline::answers(service, headers, requests, cut(&admission), is_garbled))
        })
    }

    async fn list_mappings(&self, request: Request<v1::ListMappingsRequest>) -> Answer<v1::ListMappingsResponse> {
        self.run("ListMappings", request, |world, caller, request| {
            if caller.pid.is_none() || request.pid.is_some_and(|pid| caller.pid != Some(pid)) {
                caller.require("SystemInfo")?;
            }
            world.list_mappings(&request, caller.pid)
        })
        .await
    }
}

#[tonic::async_trait]
impl v1::process_service_server::ProcessService for Service {
    type AttachStream = BoxStream<'static, Result<v1::AttachResponse, Status>>;

    async fn attach(&self, request: Request<v1::AttachRequest>) -> Answer<Self::AttachStream> {
        self.run("Attach", request, |world, _, request| {
            let (beats, stream) = mpsc::channel(8);
            let first = world.attach(request.pid, request.name, beats.clone())?;
            // A channel that was just made has room.
            let _ = beats.try_send(Ok(first));
            let stream: Self::AttachStream = Box::pin(ReceiverStream::new(stream));
            Ok(stream)
        })
        .await
    }

    async fn exit(&self, request: Request<v1::ExitRequest>) -> Answer<v1::ExitResponse> {
        self.run("Exit", request, |world, caller, request| world.exit(caller.pid()?, request.discard)).await
    }

    async fn list_processes(&self, request: Request<v1::ListProcessesRequest>) -> Answer<v1::ListProcessesResponse> {
        self.run("ListProcesses", request, |world, caller, request| {
            caller.require("SystemInfo")?;
            Ok(world.list_processes(&request.page_token))
        })
        .await
    }
}

#[tonic::async_trait]
impl v1::file_service_server::FileService for Service {
    async fn stat_file(&self, request: Request<v1::StatFileRequest>) -> Answer<v1::StatFileResponse> {
        self.run("StatFile", request, |world, caller, request| {
            caller.require("FileRead")?;
            world.stat(&request.path)
        })
        .await
    }

    async fn list_files(&self, request: Request<v1::ListFilesRequest>) -> Answer<v1::ListFilesResponse> {
        self.run("ListFiles", request, |world, caller, request| {
            caller.require("FileRead")?;
            world.list_files(&request)
        })
        .await
    }

    async fn truncate_file(&self, request: Request<v1::TruncateFileRequest>) -> Answer<v1::TruncateFileResponse> {
        self.run("TruncateFile", request, |world, caller, request| {
            caller.require("FileWrite")?;
            world.truncate(request)
        })
        .await
    }

    async fn remove_file(&self, request: Request<v1::RemoveFileRequest>) -> Answer<v1::RemoveFileResponse> {
        self.run("RemoveFile", request, |world, caller, request| {
            caller.require("FileWrite")?;
            world.remove(&request.path)
        })
        .await
    }

    async fn list_waiting(&self, request: Request<v1::ListWaitingRequest>) -> Answer<v1::ListWaitingResponse> {
        self.run("ListWaiting", request, |world, caller, request| {
            caller.require("SystemInfo")?;
            Ok(world.list_waiting(&request.page_token))
        })
        .await
    }

    async fn list_conflicts(&self, request: Request<v1::ListConflictsRequest>) -> Answer<v1::ListConflictsResponse> {
        self.run("ListConflicts", request, |world, caller, request| {
            caller.require("FileRead")?;
            Ok(world.list_conflicts(&request.page_token))
        })
        .await
    }

    async fn read_conflict(&self, request: Request<v1::ReadConflictRequest>) -> Answer<v1::ReadConflictResponse> {
        self.run("ReadConflict", request, |world, caller, request| {
            caller.require("FileRead")?;
            world.read_conflict(&request)
        })
        .await
    }

    async fn apply_conflict(&self, request: Request<v1::ApplyConflictRequest>) -> Answer<v1::ApplyConflictResponse> {
        self.run("ApplyConflict", request, |world, caller, request| {
            caller.require("FileWrite")?;
            world.apply_conflict(&request.id)
        })
        .await
    }

    async fn drop_conflict(&self, request: Request<v1::DropConflictRequest>) -> Answer<v1::DropConflictResponse> {
        self.run("DropConflict", request, |world, caller, request| {
            caller.require("FileWrite")?;
            world.drop_conflict(&request.id)
        })
        .await
    }
}

/// Where a call hangs that is to hang.
async fn go_on(admission: Admission) -> Admission {
    if admission == Admission::Hang {
        // The caller's deadline, or the end of this server, ends it.
        std::future::pending::<()>().await;
    }
    admission
}

/// After how many messages a stream is to be cut, and why.
fn cut(admission: &Admission) -> Option<(usize, Status)> {
    match admission {
        Admission::Cut(after, reason) => Some((*after, refuse(*reason, "the stream was cut by the test", &[]))),
        Admission::Plain | Admission::ThenFail(_) | Admission::Hang | Admission::Garble => None,
    }
}
