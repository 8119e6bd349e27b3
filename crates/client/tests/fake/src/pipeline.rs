//! The pipeline over the same handlers as the calls: an operation is written down, refused and left hanging under its
//! method's name, whichever way it came.

use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use mmap_proto::v1::{
    self, mmap_pipeline_request::Op, mmap_pipeline_response::Result as Answer, mmap_service_server::MmapService,
};
use prost::Message;
use tonic::{Request, Status, Streaming, metadata::MetadataMap};
use tonic_types::pb;

use crate::streams::Cut;

/// Operations of a stream at a time, as the real server has it.
const IN_FLIGHT: usize = 256;

pub(crate) type Answers = BoxStream<'static, Result<v1::MmapPipelineResponse, Status>>;

/// Answers operations as they are ready; each starts when those before it have started. It ends with
/// the cut; with `is_garbled` there is an answer before each that nobody asked for.
pub(crate) fn answers<S>(
    service: S,
    headers: MetadataMap,
    requests: Streaming<v1::MmapPipelineRequest>,
    cut: Cut,
    is_garbled: bool,
) -> Answers
where
    S: MmapService + Clone,
{
    let answers = requests.map(move |request| {
        let (service, headers) = (service.clone(), headers.clone());
        async move {
            let v1::MmapPipelineRequest { tag, op } = request?;
            let result = operate(&service, headers, op).await;
            let result = result.unwrap_or_else(|status| Answer::Error(on_the_wire(&status)));
            Ok(v1::MmapPipelineResponse { tag, result: Some(result) })
        }
    });
    let answers =
        answers.buffer_unordered(IN_FLIGHT).flat_map(move |answer: Result<v1::MmapPipelineResponse, Status>| {
            let unasked = is_garbled.then(|| Ok(v1::MmapPipelineResponse { tag: u64::MAX, result: None }));
            stream::iter(unasked.into_iter().chain([answer]))
        });
    let (after, cut) = cut.unzip();
    answers.take(after.unwrap_or(usize::MAX)).chain(stream::iter(cut.map(Err))).boxed()
}

async fn operate<S: MmapService>(service: &S, headers: MetadataMap, op: Option<Op>) -> Result<Answer, Status> {
    fn request<Q>(headers: MetadataMap, message: Q) -> Request<Q> {
        let mut request = Request::new(message);
        *request.metadata_mut() = headers;
        request
    }
    Ok(match op {
        Some(Op::Mmap(op)) => Answer::Mmap(service.mmap(request(headers, op)).await?.into_inner()),
        Some(Op::MmapRead(op)) => Answer::MmapRead(service.mmap_read(request(headers, op)).await?.into_inner()),
        Some(Op::MmapWrite(op)) => Answer::MmapWrite(service.mmap_write(request(headers, op)).await?.into_inner()),
        Some(Op::Msync(op)) => Answer::Msync(service.msync(request(headers, op)).await?.into_inner()),
        Some(Op::Munmap(op)) => Answer::Munmap(service.munmap(request(headers, op)).await?.into_inner()),
        Some(Op::MmapStats(op)) => Answer::MmapStats(service.mmap_stats(request(headers, op)).await?.into_inner()),
        None => return Err(Status::invalid_argument("an operation is missing")),
    })
}

fn on_the_wire(status: &Status) -> pb::Status {
    // A bare status has no details, which decode to an empty one.
    let details = pb::Status::decode(status.details()).unwrap_or_default().details;
    pb::Status { code: status.code().into(), message: status.message().to_owned(), details }
}
