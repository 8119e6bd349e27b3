//! gRPC framing of answers: the prefix and the protobuf around data that is referenced.
//!
//! The field numbers are those of `proto/mmap.proto`; a test holds them against the library's encoding.

use bytes::BufMut as _;
use mmap_core::manager::ReadBytes;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use super::incoming::PREFIX_LENGTH;
use super::segments::Segments;

/// Bytes of a field's key, for fields up to 15.
const KEY_LENGTH: usize = 1;
/// The field of a number that stands before the data: a chunk's offset, an answer's tag.
const NUMBER: u32 = 1;

/// Appends any message.
pub(crate) fn put_message(out: &mut Segments, message: &impl Message) {
    let length = message.encoded_len();
    out.put_with(PREFIX_LENGTH + length, |mut room| {
        put_prefix(&mut room, length);
        message.encode(&mut room).expect("there is room for the bytes that the message said it has");
    });
}

/// Appends an `MmapReadResponse`.
pub(crate) fn put_read(out: &mut Segments, bytes: &ReadBytes) {
    put_around(out, 0, None, 1, bytes);
}

/// Appends an `MmapReadStreamResponse`.
pub(crate) fn put_chunk(out: &mut Segments, offset: u64, bytes: &ReadBytes) {
    put_around(out, offset, None, 2, bytes);
}

/// Appends an `MmapPipelineResponse` with an `MmapReadResponse`.
pub(crate) fn put_tagged_read(out: &mut Segments, tag: u64, bytes: &ReadBytes) {
    put_around(out, tag, Some(3), 1, bytes);
}

/// Appends a message of the field [`NUMBER`], left out where it is 0, and `data`, which may stand in a message of
/// its own in the field `nest`.
fn put_around(out: &mut Segments, number: u64, nest: Option<u32>, data: u32, bytes: &ReadBytes) {
    let delimited = |length: usize| KEY_LENGTH + encoded_len_varint(length as u64);
    let data_head = if bytes.is_empty() { 0 } else { delimited(bytes.len()) };
    let inner = data_head + bytes.len();
    let nest_head = if nest.is_some() { delimited(inner) } else { 0 };
    let number_len = if number == 0 { 0 } else { KEY_LENGTH + encoded_len_varint(number) };
    let head = number_len + nest_head + data_head;
    out.put_with(PREFIX_LENGTH + head, |mut room| {
        put_prefix(&mut room, head + bytes.len());
        if number != 0 {
            encode_key(NUMBER, WireType::Varint, &mut room);
            encode_varint(number, &mut room);
        }
        if let Some(nest) = nest {
            encode_key(nest, WireType::LengthDelimited, &mut room);
            encode_varint(inner as u64, &mut room);
        }
        if !bytes.is_empty() {
            encode_key(data, WireType::LengthDelimited, &mut room);
            encode_varint(bytes.len() as u64, &mut room);
        }
    });
    for slice in bytes.slices() {
        out.push(slice.clone());
    }
}

fn put_prefix(room: &mut &mut [u8], length: usize) {
    room.put_u8(0);
    room.put_u32(u32::try_from(length).expect("a message's data is limited to 1 GiB, and lists to a page"));
}

#[cfg(test)]
mod tests {
    use bytes::{Buf as _, Bytes};
    use mmap_proto::v1;
    use mmap_proto::v1::mmap_pipeline_response::Result as Answer;

    use super::*;

    const LENGTHS: [usize; 9] = [0, 1, 100, 127, 128, 511, 4096, 16_384, 3 << 20];

    fn read(length: usize) -> (ReadBytes, Bytes) {
        let (mut read, mut flat) = (ReadBytes::default(), Vec::new());
        let mut fill = (0u8..=255).cycle();
        while flat.len() < length {
            let slice: Vec<u8> = fill.by_ref().take((length - flat.len()).min(65_536)).collect();
            flat.extend_from_slice(&slice);
            read.push(slice.into());
        }
        (read, flat.into())
    }

    fn framed(message: &impl Message) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend(u32::try_from(message.encoded_len()).unwrap().to_be_bytes());
        bytes.extend(message.encode_to_vec());
        bytes
    }

    fn flat(put: impl FnOnce(&mut Segments)) -> Vec<u8> {
        let mut out = Segments::default();
        put(&mut out);
        let mut bytes = vec![0; out.remaining()];
        out.copy_to_slice(&mut bytes);
        bytes
    }

    #[test]
    fn answers_around_referenced_data_are_encoded_as_the_library_encodes_them() {
        for length in LENGTHS {
            let (bytes, data) = read(length);
            let theirs = v1::MmapReadResponse { data: data.clone() };
            assert_eq!(flat(|out| put_read(out, &bytes)), framed(&theirs), "{length}");
            assert_eq!(flat(|out| put_message(out, &theirs)), framed(&theirs), "{length}");
            for number in [0, 1, 127, 128, u64::MAX] {
                let chunk = v1::MmapReadStreamResponse { offset: number, data: data.clone() };
                assert_eq!(flat(|out| put_chunk(out, number, &bytes)), framed(&chunk), "{length} {number}");
                let result = Some(Answer::MmapRead(theirs.clone()));
                let answer = v1::MmapPipelineResponse { tag: number, result };
                assert_eq!(flat(|out| put_tagged_read(out, number, &bytes)), framed(&answer), "{length} {number}");
            }
        }
    }
}
