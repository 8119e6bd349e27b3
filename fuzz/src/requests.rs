//! Requests as they come from outside, through the decoders, the guard and the services to the manager.
//!
//! An input is a list of calls: a method, flags, a body, each with its length. Bodies are messages or, by a flag, the
//! transport's bytes as they stand; they come in frames of any length. Of every answer its status is checked; of a
//! read its length, of a write that it reads back, of a pipeline that each of its operations is answered once; and at
//! the end that nobody else's bytes were touched.
//!
//! Left out: files of more than a few MiB (a store in memory would make them), and the keeper's own files.

use std::collections::BTreeMap;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderValue, Request};
use mmap_proto::names;
use mmap_proto::v1;
use mmap_proto::v1::mmap_pipeline_request::Op;
use mmap_proto::v1::mmap_pipeline_response::Result as Answer;
use prost::Message as _;
use tonic::{Code, Status};

use crate::checks::{check, messages, outcome};
use crate::methods::METHODS;
use crate::served::{CANARY, Served};
use crate::take::Take;

/// The largest file that an input makes.
const FILE_MAX: u64 = 1 << 20;
/// Calls of an input.
const CALLS_MAX: usize = 32;

/// Answers the calls that `bytes` say.
pub fn requests(bytes: &[u8]) {
    // Time is the runtime's own: what waits for a deadline waits no time at all.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let served = Served::new().await;
        let mut input = Take(bytes);
        for _ in 0..CALLS_MAX {
            if input.is_empty() {
                break;
            }
            let call = Call::take(&mut input);
            if call.is_left_out() {
                continue;
            }
            call.run(&served).await;
        }
        served.check().await;
    });
}

struct Call<'a> {
    method: &'static str,
    flags: u8,
    /// A header's value, for one that is as it may be.
    header: Option<&'a [u8]>,
    messages: Vec<&'a [u8]>,
    /// The body, if it is not made of messages.
    raw: Option<&'a [u8]>,
    frame: usize,
}

impl<'a> Call<'a> {
    fn take(input: &mut Take<'a>) -> Self {
        let method = METHODS[usize::from(input.byte()) % METHODS.len()];
        let flags = input.byte();
        let frame = usize::from(input.byte());
        let header = (flags & 0x20 != 0).then(|| input.prefixed());
        let body = input.prefixed();
        let raw = (flags & 0x40 != 0).then_some(body);
        let mut messages = Vec::new();
        if raw.is_none() {
            match method.ends_with("Pipeline") || method.ends_with("WriteStream") {
                true => {
                    let mut rest = Take(body);
                    while !rest.is_empty() {
                        messages.push(rest.prefixed());
                    }
                }
                false => messages.push(body),
            }
        }
        Self { method, flags, header, messages, raw, frame }
    }

    fn pid(&self) -> u32 {
        1 + u32::from(self.flags & 1)
    }

    fn head(&self) -> Request<()> {
        let mut head = Request::post(self.method).header("content-type", "application/grpc").header("te", "trailers");
        let capabilities: Vec<&str> = [(2, "FileRead"), (4, "FileWrite"), (8, "SystemInfo")]
            .into_iter()
            .filter_map(|(bit, name)| (self.flags & bit == 0).then_some(name))
            .collect();
        let value = self.header.and_then(|value| HeaderValue::from_bytes(value).ok());
        let is_late = self.flags & 0x10 != 0;
        head = match (value, is_late) {
            (Some(value), true) => head.header("grpc-timeout", value).header(names::PID, self.pid()),
            (Some(value), false) => head.header(names::CAPABILITIES, value).header(names::PID, self.pid()),
            (None, true) => head.header("grpc-timeout", "1S").header(names::PID, self.pid()),
            (None, false) => head.header(names::PID, self.pid()),
        };
        if self.header.is_none() {
            head = head.header(names::CAPABILITIES, capabilities.join(","));
        }
        head.body(()).unwrap()
    }

    fn frames(&self) -> Vec<Bytes> {
        let mut body = BytesMut::new();
        for message in &self.messages {
            body.put_u8(0);
            body.put_u32(u32::try_from(message.len()).unwrap());
            body.put_slice(message);
        }
        body.put_slice(self.raw.unwrap_or_default());
        let body = body.freeze();
        match self.frame {
            0 => vec![body],
            len => (0..body.len()).step_by(len).map(|at| body.slice(at..body.len().min(at + len))).collect(),
        }
    }

    /// Its messages, as far as the bytes have whole ones.
    fn sent(&self) -> Vec<Bytes> {
        let Some(mut raw) = self.raw else {
            return self.messages.iter().map(|message| Bytes::copy_from_slice(message)).collect();
        };
        let mut sent = Vec::new();
        while let [0, a, b, c, d, rest @ ..] = raw {
            let len = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
            let Some(message) = rest.get(..len) else { break };
            sent.push(Bytes::copy_from_slice(message));
            raw = &rest[len..];
        }
        sent
    }

    fn is_left_out(&self) -> bool {
        self.sent().iter().any(|message| match self.method.rsplit('/').next() {
            Some("Mmap") => v1::MmapRequest::decode(&message[..]).is_ok_and(|map| is_mmap_left_out(&map)),
            Some("MmapPipeline") => v1::MmapPipelineRequest::decode(&message[..])
                .is_ok_and(|request| matches!(&request.op, Some(Op::Mmap(map)) if is_mmap_left_out(map))),
            Some("TruncateFile") => v1::TruncateFileRequest::decode(&message[..])
                .is_ok_and(|truncate| truncate.size > FILE_MAX || truncate.path.starts_with(CANARY)),
            Some("RemoveFile") => {
                v1::RemoveFileRequest::decode(&message[..]).is_ok_and(|remove| remove.path.starts_with(CANARY))
            }
            _ => false,
        })
    }

    async fn run(&self, served: &Served) {
        let Some(answered) = served.call(self.head(), self.frames()).await else {
            // Only an attached process's stream lasts.
            assert!(self.method.ends_with("/Attach"), "{} has no end", self.method);
            return;
        };
        if self.method.ends_with("/MmapPipeline") {
            return self.check_pipeline(served, &answered).await;
        }
        let Ok(answers) = outcome(&answered) else { return };
        let sent = self.sent();
        match self.method.rsplit('/').next() {
            Some("MmapRead") => {
                let request = v1::MmapReadRequest::decode(&sent[0][..]).unwrap();
                let answer = v1::MmapReadResponse::decode(&answers[0][..]).unwrap();
                assert_eq!((sent.len(), answers.len(), answer.data.len() as u64), (1, 1, request.length));
            }
            Some("MmapWrite") => {
                let v1::MmapWriteRequest { mmap_id, offset, data } =
                    v1::MmapWriteRequest::decode(&sent[0][..]).unwrap();
                let answer = v1::MmapWriteResponse::decode(&answers[0][..]).unwrap();
                assert_eq!((sent.len(), answers.len(), answer.written), (1, 1, data.len() as u64));
                served.check_written(self.pid(), mmap_id, offset, &data).await;
            }
            Some("MmapReadStream") => {
                let request = v1::MmapReadStreamRequest::decode(&sent[0][..]).unwrap();
                let mut next = request.offset;
                for answer in answers {
                    let chunk = v1::MmapReadStreamResponse::decode(answer).unwrap();
                    assert_eq!(chunk.offset, next);
                    next += chunk.data.len() as u64;
                }
                assert_eq!(next, request.offset + request.length);
            }
            Some("MmapWriteStream") => {
                let total: usize = sent
                    .iter()
                    .map(|message| v1::MmapWriteStreamRequest::decode(&message[..]).unwrap().data.len())
                    .sum();
                let answer = v1::MmapWriteStreamResponse::decode(&answers[0][..]).unwrap();
                assert_eq!(answer.written, total as u64);
            }
            _ => assert!(!answers.is_empty(), "{} is answered with nothing", self.method),
        }
    }

    /// Each operation up to the first message that is none is answered once, with what belongs to it.
    async fn check_pipeline(&self, served: &Served, answered: &mmap_server::harness::Answered) {
        let sent: Vec<_> = self.sent().iter().map(|message| v1::MmapPipelineRequest::decode(&message[..])).collect();
        let valid: Vec<v1::MmapPipelineRequest> = sent.iter().map_while(|request| request.clone().ok()).collect();
        let ended = outcome(answered);
        let is_whole = match &ended {
            Ok(_) => {
                assert!(valid.len() == sent.len() && !sent.iter().any(Result::is_err), "a message that is none");
                true
            }
            Err(status) => matches!(status.code(), Code::InvalidArgument | Code::Unimplemented),
        };
        let mut wanted: BTreeMap<u64, Vec<Op>> = BTreeMap::new();
        let mut count = 0;
        for request in &valid {
            wanted.entry(request.tag).or_default().extend(request.op.clone());
        }
        for answer in messages(&answered.data) {
            count += 1;
            let answer = v1::MmapPipelineResponse::decode(answer).unwrap();
            let ops = wanted.get(&answer.tag).unwrap_or_else(|| panic!("nobody asked for {answer:?}"));
            match answer.result.unwrap() {
                Answer::Error(error) => {
                    let details = error.encode_to_vec().into();
                    check(&Status::with_details(Code::from_i32(error.code), error.message, details));
                }
                Answer::MmapRead(read) => {
                    let len = read.data.len() as u64;
                    assert!(ops.iter().any(|op| matches!(op, Op::MmapRead(asked) if asked.length == len)));
                }
                Answer::MmapWrite(wrote) => {
                    let len = wrote.written;
                    assert!(ops.iter().any(|op| matches!(op, Op::MmapWrite(asked) if asked.data.len() as u64 == len)));
                    // Alone it is the last that wrote there.
                    if let ([Op::MmapWrite(asked)], 1) = (&ops[..], valid.len()) {
                        served.check_written(self.pid(), asked.mmap_id, asked.offset, &asked.data).await;
                    }
                }
                Answer::Mmap(_) => assert!(ops.iter().any(|op| matches!(op, Op::Mmap(_)))),
                Answer::Msync(_) => assert!(ops.iter().any(|op| matches!(op, Op::Msync(_)))),
                Answer::Munmap(_) => assert!(ops.iter().any(|op| matches!(op, Op::Munmap(_)))),
                Answer::MmapStats(_) => assert!(ops.iter().any(|op| matches!(op, Op::MmapStats(_)))),
            }
        }
        // Headers that do not say who calls are refused before anything is read.
        if is_whole && answered.trailers.is_some() {
            assert_eq!(count, valid.len(), "not every operation is answered once");
        }
    }
}

fn is_mmap_left_out(map: &v1::MmapRequest) -> bool {
    let end = map.offset.saturating_add(map.length.unwrap_or(0));
    (map.create && end > FILE_MAX) || map.path.starts_with(CANARY)
}
