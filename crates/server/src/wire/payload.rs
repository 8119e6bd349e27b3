//! [`Payload`]: a message as it came in, slices of the frames that it came in; [`Write`]: the one message whose
//! data is taken out of it without a copy.
//!
//! Whoever wants its fields decodes it like any other buffer. It does not know what message it is.

use bytes::{Buf, Bytes};
use prost::DecodeError;
use prost::encoding::{DecodeContext, WireType, check_wire_type, decode_key, decode_varint, skip_field};
use smallvec::SmallVec;

/// A list of slices, read from its front.
#[derive(Clone, Debug, Default)]
pub(crate) struct Payload {
    slices: SmallVec<[Bytes; 2]>,
    /// The slices before this one are read.
    first: usize,
    len: usize,
}

impl Payload {
    /// Appends a slice.
    pub(crate) fn push(&mut self, slice: Bytes) {
        if slice.is_empty() {
            return;
        }
        if self.len == 0 {
            self.slices.clear();
            self.first = 0;
        }
        self.len += slice.len();
        self.slices.push(slice);
    }

    /// What is not read yet, in order; no slice is empty.
    pub(crate) fn slices(&self) -> &[Bytes] {
        &self.slices[self.first..]
    }

    /// Number of bytes that are not read yet.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Takes the next `len` bytes out, without copying them. There are as many.
    pub(crate) fn split_to(&mut self, len: usize) -> Self {
        let mut front = Self::default();
        while front.len < len {
            let part = self.slices[self.first].len().min(len - front.len);
            front.push(self.take_front(part));
        }
        front
    }

    /// The next `len` bytes, which lie in the first slice.
    fn take_front(&mut self, len: usize) -> Bytes {
        self.len -= len;
        let slice = &mut self.slices[self.first];
        if len < slice.len() {
            return slice.split_to(len);
        }
        self.first += 1;
        std::mem::take(slice)
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        let mut payload = Self::default();
        payload.push(bytes);
        payload
    }
}

impl Buf for Payload {
    fn remaining(&self) -> usize {
        self.len
    }

    fn chunk(&self) -> &[u8] {
        self.slices().first().map(Bytes::as_ref).unwrap_or_default()
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.len, "nobody advances a buffer behind its end");
        while count > 0 {
            let part = self.chunk().len().min(count);
            self.take_front(part);
            count -= part;
        }
    }

    fn copy_to_bytes(&mut self, len: usize) -> Bytes {
        assert!(len <= self.len, "nobody reads a buffer behind its end");
        if len > 0 && len <= self.chunk().len() {
            return self.take_front(len);
        }
        let mut whole = Vec::with_capacity(len);
        for slice in self.split_to(len).slices() {
            whole.extend_from_slice(slice);
        }
        whole.into()
    }
}

/// `MmapWriteRequest` and `MmapWriteStreamRequest`, which have the same fields.
#[derive(Clone, Debug, Default)]
pub(crate) struct Write {
    pub(crate) mmap_id: u64,
    pub(crate) offset: u64,
    pub(crate) data: Payload,
}

impl Write {
    /// Reads a message.
    ///
    /// # Errors
    /// Where it is none.
    pub(crate) fn decode(mut payload: Payload) -> Result<Self, DecodeError> {
        let mut write = Self::default();
        write.merge(&mut payload)?;
        Ok(write)
    }

    /// Reads all of `payload` over what is there, as protobuf says of a message that comes in several parts.
    ///
    /// # Errors
    /// Where it is no such message.
    pub(crate) fn merge(&mut self, payload: &mut Payload) -> Result<(), DecodeError> {
        while payload.has_remaining() {
            let (tag, wire_type) = decode_key(payload)?;
            match tag {
                1 => self.mmap_id = uint64(wire_type, payload)?,
                2 => self.offset = uint64(wire_type, payload)?,
                3 => self.data = delimited(wire_type, payload)?,
                _ => skip_field(wire_type, tag, payload, DecodeContext::default())?,
            }
        }
        Ok(())
    }
}

/// The value of a field of type uint64.
///
/// # Errors
/// Where it is none.
pub(crate) fn uint64(wire_type: WireType, payload: &mut Payload) -> Result<u64, DecodeError> {
    check_wire_type(WireType::Varint, wire_type)?;
    decode_varint(payload)
}

/// The value of a field with a length: bytes or a message.
///
/// # Errors
/// Where it is none, or longer than its message.
pub(crate) fn delimited(wire_type: WireType, payload: &mut Payload) -> Result<Payload, DecodeError> {
    check_wire_type(WireType::LengthDelimited, wire_type)?;
    let len = decode_varint(payload)?;
    match usize::try_from(len) {
        Ok(len) if len <= payload.remaining() => Ok(payload.split_to(len)),
        // The library has no public way to make this error: it is made by having it read past the end.
        Ok(_) | Err(_) => {
            let mut past_the_end: &[u8] = &[1];
            let context = DecodeContext::default();
            let error = skip_field(WireType::LengthDelimited, 1, &mut past_the_end, context);
            error.map(|()| Payload::default())
        }
    }
}

#[cfg(test)]
mod tests {
    use mmap_proto::v1;
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    /// `bytes` in slices of these lengths, over and over.
    fn cut(bytes: &[u8], lengths: &[usize]) -> Payload {
        let (mut rest, mut payload) = (bytes, Payload::default());
        for length in lengths.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (front, behind) = rest.split_at(rest.len().min((*length).max(1)));
            payload.push(Bytes::copy_from_slice(front));
            rest = behind;
        }
        payload
    }

    fn flat(payload: &Payload) -> Vec<u8> {
        payload.slices().concat()
    }

    proptest! {
        #[test]
        fn a_write_reads_as_the_library_reads_it_however_it_is_cut(
            bytes in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..64),
                (any::<u64>(), any::<u64>(), proptest::collection::vec(any::<u8>(), 0..200)).prop_map(|(mmap_id, offset, data)| {
                    let data = data.into();
                    v1::MmapWriteRequest { mmap_id, offset, data }.encode_to_vec().repeat(2)
                }),
            ],
            lengths in proptest::collection::vec(1usize..40, 1..8),
        ) {
            let theirs = v1::MmapWriteRequest::decode(bytes.as_slice());
            let ours = Write::decode(cut(&bytes, &lengths));
            prop_assert_eq!(theirs.is_ok(), ours.is_ok());
            if let (Ok(theirs), Ok(ours)) = (theirs, ours) {
                prop_assert_eq!((theirs.mmap_id, theirs.offset), (ours.mmap_id, ours.offset));
                prop_assert_eq!(&theirs.data[..], &flat(&ours.data)[..]);
            }
        }

        #[test]
        fn a_payload_reads_like_a_flat_buffer(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            lengths in proptest::collection::vec(1usize..40, 1..8),
            steps in proptest::collection::vec((0usize..3, 0usize..60), 0..20),
        ) {
            let (mut payload, mut rest) = (cut(&bytes, &lengths), &bytes[..]);
            for (kind, step) in steps {
                let step = step.min(rest.len());
                let (front, behind) = rest.split_at(step);
                match kind {
                    0 => payload.advance(step),
                    1 => prop_assert_eq!(&payload.copy_to_bytes(step)[..], front),
                    _ => prop_assert_eq!(flat(&payload.split_to(step)), front),
                }
                rest = behind;
                prop_assert_eq!(payload.remaining(), rest.len());
                prop_assert_eq!(flat(&payload), rest);
                prop_assert!(payload.slices().iter().all(|slice| !slice.is_empty()));
            }
        }
    }

    #[test]
    fn the_data_of_a_write_is_where_it_was_received() {
        let data = Bytes::from(vec![7; 5000]);
        let message = Bytes::from(v1::MmapWriteRequest { mmap_id: 1, offset: 2, data }.encode_to_vec());
        let write = Write::decode(message.clone().into()).unwrap();
        let [slice] = write.data.slices() else { panic!("{write:?}") };
        assert_eq!(slice.as_ptr(), message[message.len() - 5000..].as_ptr());
    }
}
