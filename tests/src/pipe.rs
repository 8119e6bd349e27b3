//! One `MmapPipeline` of a caller: requests go out as they are given, answers come as the server sends them.

use std::collections::HashMap;
use std::time::Duration;

use futures::StreamExt as _;
use futures::channel::mpsc::{Receiver, Sender, channel};
use mmap_proto::v1;
use mmap_proto::v1::mmap_pipeline_request::Op;
use mmap_proto::v1::mmap_pipeline_response::Result as Answer;
use tonic::{Status, Streaming};
use tonic_types::pb;

use crate::wire::Caller;

/// How long an answer may take.
const DEADLINE: Duration = Duration::from_secs(60);

/// An open pipeline.
#[derive(Debug)]
pub struct Pipe {
    requests: Sender<v1::MmapPipelineRequest>,
    answers: Streaming<v1::MmapPipelineResponse>,
    next: u64,
}

impl Pipe {
    /// Opens one that holds `room` requests that the transport has not taken.
    ///
    /// # Panics
    /// If the server refuses it.
    pub async fn open(caller: &Caller, room: usize) -> Self {
        let (requests, sent): (_, Receiver<v1::MmapPipelineRequest>) = channel(room);
        let mut service = caller.mmap_service();
        let opened = tokio::time::timeout(DEADLINE, service.mmap_pipeline(caller.request(sent)));
        let opened = opened.await.expect("the server answers the headers at once");
        let answers = opened.unwrap_or_else(|status| panic!("no pipeline: {status:?}")).into_inner();
        Self { requests, answers, next: 1 }
    }

    /// Sends an operation, and answers its tag.
    ///
    /// # Panics
    /// If there is no room, or the stream is over.
    pub fn send(&mut self, op: Op) -> u64 {
        let tag = self.next;
        self.next += 1;
        self.send_tagged(tag, Some(op));
        tag
    }

    /// Sends a request as it is.
    ///
    /// # Panics
    /// As [`Pipe::send`].
    pub fn send_tagged(&mut self, tag: u64, op: Option<Op>) {
        let sent = self.requests.try_send(v1::MmapPipelineRequest { tag, op });
        sent.unwrap_or_else(|error| panic!("request {tag} cannot be sent: {error}"));
    }

    /// The next answer.
    ///
    /// # Panics
    /// If there is none, or none within a minute.
    pub async fn next(&mut self) -> (u64, Answer) {
        match self.try_next().await {
            Some(Ok(answer)) => (answer.tag, answer.result.expect("an answer has a result")),
            other => panic!("no answer: {other:?}"),
        }
    }

    /// The next answer, or how the stream ended.
    ///
    /// # Panics
    /// If nothing comes within a minute.
    pub async fn try_next(&mut self) -> Option<Result<v1::MmapPipelineResponse, Status>> {
        tokio::time::timeout(DEADLINE, self.answers.next()).await.expect("an answer comes within a minute")
    }

    /// The next `count` answers by their tags.
    ///
    /// # Panics
    /// If there are not as many, or two of the same tag.
    pub async fn collect(&mut self, count: usize) -> HashMap<u64, Answer> {
        let mut answers = HashMap::new();
        for _ in 0..count {
            let (tag, answer) = self.next().await;
            assert!(answers.insert(tag, answer).is_none(), "two answers for {tag}");
        }
        answers
    }

    /// Sends an operation and waits for the next answer, which has to be its.
    ///
    /// # Panics
    /// If it is not.
    pub async fn call(&mut self, op: Op) -> Answer {
        let tag = self.send(op);
        let (answered, answer) = self.next().await;
        assert_eq!(answered, tag);
        answer
    }

    /// Says that no more requests come.
    pub fn finish(&mut self) {
        self.requests.close_channel();
    }
}

/// A read.
pub fn read(mmap_id: u64, offset: u64, length: u64) -> Op {
    Op::MmapRead(v1::MmapReadRequest { mmap_id, offset, length })
}

/// A write.
pub fn write(mmap_id: u64, offset: u64, data: impl Into<bytes::Bytes>) -> Op {
    Op::MmapWrite(v1::MmapWriteRequest { mmap_id, offset, data: data.into() })
}

/// The bytes of a read's answer.
///
/// # Panics
/// If it is another answer.
#[expect(clippy::wildcard_enum_match_arm, reason = "every other answer is wrong")]
pub fn data(answer: Answer) -> bytes::Bytes {
    match answer {
        Answer::MmapRead(v1::MmapReadResponse { data }) => data,
        other => panic!("not a read's answer: {other:?}"),
    }
}

/// The failure of an answer as the status that a unary call would have had.
///
/// # Panics
/// If it is none.
#[expect(clippy::wildcard_enum_match_arm, reason = "every other answer is wrong")]
pub fn status(answer: Answer) -> Status {
    match answer {
        Answer::Error(error) => {
            let details: bytes::Bytes = prost_encoded(&error);
            Status::with_details(tonic::Code::from_i32(error.code), error.message, details)
        }
        other => panic!("not a failure: {other:?}"),
    }
}

fn prost_encoded(error: &pb::Status) -> bytes::Bytes {
    prost::Message::encode_to_vec(error).into()
}
