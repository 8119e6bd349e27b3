//! [`Request`]: an `MmapPipelineRequest` as it came in. Only a write is read by hand, so that its data stays where
//! it is.

use bytes::Buf as _;
use mmap_proto::v1::mmap_pipeline_request::Op as Message;
use prost::DecodeError;
use prost::encoding::{DecodeContext, decode_key, skip_field};

use crate::wire::{Payload, Write, delimited, uint64};

/// Field numbers of the contract.
const TAG: u32 = 1;
const MMAP: u32 = 2;
const MMAP_WRITE: u32 = 4;
const MMAP_STATS: u32 = 7;

/// One request.
#[derive(Debug, Default)]
pub(super) struct Request {
    pub(super) tag: u64,
    /// `None` if there is none, or none that this server knows.
    pub(super) op: Option<Asked>,
}

/// The operation that is asked for.
#[derive(Debug)]
pub(super) enum Asked {
    Write(Write),
    Other(Message),
}

impl Request {
    /// Reads a message.
    ///
    /// # Errors
    /// Where it is none.
    pub(super) fn decode(mut payload: Payload) -> Result<Self, DecodeError> {
        let mut request = Self::default();
        while payload.has_remaining() {
            let (field, wire_type) = decode_key(&mut payload)?;
            match field {
                TAG => request.tag = uint64(wire_type, &mut payload)?,
                MMAP_WRITE => {
                    let mut part = delimited(wire_type, &mut payload)?;
                    // A member that comes twice is merged; another one replaces it.
                    let mut write = match request.op.take() {
                        Some(Asked::Write(write)) => write,
                        Some(Asked::Other(_)) | None => Write::default(),
                    };
                    write.merge(&mut part)?;
                    request.op = Some(Asked::Write(write));
                }
                MMAP..=MMAP_STATS => {
                    let mut message = match request.op.take() {
                        Some(Asked::Other(message)) => Some(message),
                        Some(Asked::Write(_)) | None => None,
                    };
                    Message::merge(&mut message, field, wire_type, &mut payload, DecodeContext::default())?;
                    request.op = message.map(Asked::Other);
                }
                _ => skip_field(wire_type, field, &mut payload, DecodeContext::default())?,
            }
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use mmap_proto::v1;
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    /// The same request as the library reads it.
    fn as_message(request: Request) -> v1::MmapPipelineRequest {
        let op = request.op.map(|op| match op {
            Asked::Other(message) => message,
            Asked::Write(Write { mmap_id, offset, data }) => {
                let data = data.slices().concat().into();
                Message::MmapWrite(v1::MmapWriteRequest { mmap_id, offset, data })
            }
        });
        v1::MmapPipelineRequest { tag: request.tag, op }
    }

    fn payload(bytes: &[u8], cut: usize) -> Payload {
        let mut payload = Payload::default();
        for slice in bytes.chunks(cut.max(1)) {
            payload.push(Bytes::copy_from_slice(slice));
        }
        payload
    }

    fn any_op() -> impl Strategy<Value = Message> {
        let data = proptest::collection::vec(any::<u8>(), 0..50);
        prop_oneof![
            any::<(String, u64, Option<u64>, u32, bool)>().prop_map(|(path, offset, length, prot, shared)| {
                Message::Mmap(v1::MmapRequest { path, offset, length, prot, shared, create: true, populate: shared })
            }),
            any::<[u64; 3]>().prop_map(|[mmap_id, offset, length]| {
                Message::MmapRead(v1::MmapReadRequest { mmap_id, offset, length })
            }),
            (any::<u64>(), any::<u64>(), data).prop_map(|(mmap_id, offset, data)| {
                Message::MmapWrite(v1::MmapWriteRequest { mmap_id, offset, data: data.into() })
            }),
            any::<(u64, Option<u64>, i32)>().prop_map(|(mmap_id, offset, mode)| {
                Message::Msync(v1::MsyncRequest { mmap_id, offset, mode, ..Default::default() })
            }),
            any::<(u64, bool)>().prop_map(|(mmap_id, discard)| {
                Message::Munmap(v1::MunmapRequest { mmap_id, discard, force: false })
            }),
            any::<u64>().prop_map(|mmap_id| Message::MmapStats(v1::MmapStatsRequest { mmap_id })),
        ]
    }

    proptest! {
        #[test]
        fn a_request_reads_as_the_library_reads_it_however_it_is_cut(
            requests in proptest::collection::vec((any::<u64>(), proptest::option::of(any_op())), 1..4),
            cut in 1..80usize,
        ) {
            // Several behind one another are one, by protobuf's rules for fields that come twice.
            let messages = requests.into_iter().map(|(tag, op)| v1::MmapPipelineRequest { tag, op });
            let bytes: Vec<u8> = messages.flat_map(|message| message.encode_to_vec()).collect();
            let theirs = v1::MmapPipelineRequest::decode(bytes.as_slice()).unwrap();
            prop_assert_eq!(as_message(Request::decode(payload(&bytes, cut)).unwrap()), theirs);
        }

        #[test]
        fn bytes_that_are_no_request_are_refused_as_the_library_refuses_them(
            bytes in proptest::collection::vec(any::<u8>(), 0..40),
            cut in 1..20usize,
        ) {
            let theirs = v1::MmapPipelineRequest::decode(bytes.as_slice());
            let ours = Request::decode(payload(&bytes, cut));
            prop_assert_eq!(ours.is_ok(), theirs.is_ok());
            if let (Ok(ours), Ok(theirs)) = (ours, theirs) {
                prop_assert_eq!(as_message(ours), theirs);
            }
        }
    }
}
