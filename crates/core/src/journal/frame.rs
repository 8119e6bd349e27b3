//! How a record and a segment's head lie on the disk. Pure: bytes in, bytes out.
//!
//! A segment is a [`Head`] and frames behind it, each at a multiple of 8 bytes; zeros end it, or in a segment that is
//! used again what it had before. A frame is
//! `marker u64, length u32, crc32 u32, lsn u64, acknowledged u64, payload`, little endian; the checksum covers
//! all of it but itself and the padding. A frame without payload is a mark of the journal's own.
//!
//! The marker is random and the segment's own, so that payload that looks like a frame, or a frame of another
//! segment, is not taken for one of this segment when a reader looks for frames behind a damaged one.

/// Bytes of a segment's head.
pub(super) const HEAD: usize = 40;
/// Bytes of a frame before its payload.
pub(super) const FRAME: usize = 32;
/// Where frames may start.
pub(super) const ALIGN: usize = 8;

const MAGIC: [u8; 8] = *b"MMAPDWAL";
/// Zeros lie behind the frames.
const NEW: u32 = 1;
/// What lies behind the frames is left from an earlier use.
const REUSED: u32 = 2;

/// Bytes of the frame of a payload of `payload` bytes.
pub(super) fn size_of(payload: usize) -> usize {
    FRAME.saturating_add(payload).saturating_add(ALIGN - 1) & !(ALIGN - 1)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// The checksum of `bytes` without the four at `hole`.
fn checksum(bytes: &[u8], hole: usize) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..hole]);
    hasher.update(&bytes[hole + 4..]);
    hasher.finalize()
}

/// What a segment says of itself, written before anything else is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Its number, as in its name.
    pub(super) number: u64,
    /// What its frames begin with.
    pub(super) marker: u64,
    /// Everything up to this record had been acknowledged when the segment was made.
    pub(super) acknowledged: u64,
    /// Behind its frames lies what the file had before, and no zeros.
    pub(super) is_reused: bool,
}

/// What the first bytes of a segment are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeadRead {
    /// A head.
    Valid(Head),
    /// That of a later format.
    Newer(u32),
    /// Not of this program.
    Foreign,
    /// Torn or flipped.
    Bad,
}

impl Head {
    pub(super) fn encode(&self) -> [u8; HEAD] {
        let mut bytes = [0; HEAD];
        put(&mut bytes, 0, &MAGIC);
        put(&mut bytes, 8, &if self.is_reused { REUSED } else { NEW }.to_le_bytes());
        put(&mut bytes, 16, &self.number.to_le_bytes());
        put(&mut bytes, 24, &self.marker.to_le_bytes());
        put(&mut bytes, 32, &self.acknowledged.to_le_bytes());
        let crc = checksum(&bytes, 12);
        put(&mut bytes, 12, &crc.to_le_bytes());
        bytes
    }

    pub(super) fn read(segment: &[u8]) -> HeadRead {
        let magic = &segment[..segment.len().min(MAGIC.len())];
        // A head that was cut off while it was written is its beginning, and zeros.
        let written = magic.iter().zip(MAGIC).take_while(|(found, expected)| *found == expected).count();
        if magic[written..].iter().any(|byte| *byte != 0) {
            return HeadRead::Foreign;
        }
        Self::parse(segment).unwrap_or(HeadRead::Bad)
    }

    fn parse(segment: &[u8]) -> Option<HeadRead> {
        let bytes: &[u8; HEAD] = segment.first_chunk()?;
        if u32_at(bytes, 12)? != checksum(bytes, 12) {
            return None;
        }
        Some(match u32_at(bytes, 8)? {
            version @ (NEW | REUSED) => HeadRead::Valid(Self {
                number: u64_at(bytes, 16)?,
                marker: u64_at(bytes, 24)?,
                acknowledged: u64_at(bytes, 32)?,
                is_reused: version == REUSED,
            }),
            version => HeadRead::Newer(version),
        })
    }
}

/// A record as it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    /// Its position.
    pub(super) lsn: u64,
    /// Everything up to this record had been acknowledged when this one was written.
    pub(super) acknowledged: u64,
    /// Empty for a mark.
    pub(super) payload: &'a [u8],
    /// Bytes it takes in the segment.
    pub(super) size: usize,
}

impl<'a> Frame<'a> {
    /// The frame at the start of `bytes`, if a whole and unchanged one is there.
    pub(super) fn read(bytes: &'a [u8], marker: u64) -> Option<Self> {
        if u64_at(bytes, 0)? != marker {
            return None;
        }
        let end = FRAME.checked_add(usize::try_from(u32_at(bytes, 8)?).ok()?)?;
        let whole = bytes.get(..end)?;
        if u32_at(whole, 12)? != checksum(whole, 12) {
            return None;
        }
        Some(Self {
            lsn: u64_at(whole, 16)?,
            acknowledged: u64_at(whole, 24)?,
            payload: &whole[FRAME..],
            size: size_of(end - FRAME),
        })
    }
}

/// Where a frame that was begun behind `offset` ends at most, if anything begins with `marker` there: the last one.
pub(super) fn last_begun(bytes: &[u8], offset: usize, marker: u64) -> Option<usize> {
    let places = (offset.next_multiple_of(ALIGN)..bytes.len()).step_by(ALIGN).rev();
    let last = places.into_iter().find(|at| u64_at(bytes, *at) == Some(marker))?;
    let payload = u32_at(bytes, last + 8).and_then(|payload| usize::try_from(payload).ok()).unwrap_or(0);
    Some(last.saturating_add(size_of(payload)).min(bytes.len()))
}

/// Adds a frame to `buffer` with what `write` adds as its payload; [`seal`] makes it whole.
/// None, and nothing is added, if the payload is larger than a frame can be.
pub(super) fn push(buffer: &mut Vec<u8>, lsn: u64, write: impl FnOnce(&mut Vec<u8>)) -> Option<usize> {
    let start = buffer.len();
    buffer.resize(start + FRAME, 0);
    write(buffer);
    let Ok(payload) = u32::try_from(buffer.len().saturating_sub(start + FRAME)) else {
        buffer.truncate(start);
        return None;
    };
    let size = size_of(payload as usize);
    buffer.resize(start + size, 0);
    let frame = &mut buffer[start..];
    put(frame, 8, &payload.to_le_bytes());
    put(frame, 16, &lsn.to_le_bytes());
    Some(size)
}

/// Position and size of the frame that [`push`] put at the start of `bytes`, if there is one.
pub(super) fn peek(bytes: &[u8]) -> Option<(u64, usize)> {
    Some((u64_at(bytes, 16)?, size_of(usize::try_from(u32_at(bytes, 8)?).ok()?)))
}

/// Completes a frame for the segment of `marker`.
pub(super) fn seal(frame: &mut [u8], marker: u64, acknowledged: u64) {
    put(frame, 0, &marker.to_le_bytes());
    put(frame, 24, &acknowledged.to_le_bytes());
    let end = FRAME + u32_at(frame, 8).map_or(0, |payload| payload as usize);
    let crc = checksum(&frame[..end], 12);
    put(frame, 12, &crc.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(payload: &[u8]) -> Vec<u8> {
        let mut buffer = Vec::new();
        push(&mut buffer, 7, |buffer| buffer.extend_from_slice(payload)).unwrap();
        seal(&mut buffer, 0xABCD, 5);
        buffer
    }

    #[test]
    fn a_frame_is_read_back_and_a_flipped_bit_of_it_never() {
        for length in [0, 1, 7, 8, 9, 100] {
            let payload = vec![0x5A; length];
            let bytes = sealed(&payload);
            assert_eq!((bytes.len() % 8, peek(&bytes)), (0, Some((7, bytes.len()))));
            let frame = Frame { lsn: 7, acknowledged: 5, payload: &payload, size: bytes.len() };
            assert_eq!(Frame::read(&bytes, 0xABCD), Some(frame));
            assert_eq!(Frame::read(&bytes, 0xABCE), None);
            for bit in 0..(FRAME + length) * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(Frame::read(&flipped, 0xABCD), None, "bit {bit} of {length} bytes");
            }
            for end in 0..FRAME + length {
                assert_eq!(Frame::read(&bytes[..end], 0xABCD), None);
            }
        }
    }

    #[test]
    fn a_head_is_valid_newer_foreign_or_bad() {
        let head = Head { number: 3, marker: 9, acknowledged: 4, is_reused: false };
        let bytes = head.encode();
        assert_eq!(Head::read(&bytes), HeadRead::Valid(head));
        let reused = Head { is_reused: true, ..head };
        assert_eq!(Head::read(&reused.encode()), HeadRead::Valid(reused));
        let mut newer = bytes;
        put(&mut newer, 8, &3u32.to_le_bytes());
        assert_eq!(Head::read(&newer), HeadRead::Bad);
        let crc = checksum(&newer, 12);
        put(&mut newer, 12, &crc.to_le_bytes());
        assert_eq!(Head::read(&newer), HeadRead::Newer(3));
        assert_eq!(Head::read(b"#!/bin/sh"), HeadRead::Foreign);
        for torn in 0..HEAD {
            let mut cut = [0; 64];
            cut[..torn].copy_from_slice(&bytes[..torn]);
            // The last bytes of a head may be zeros anyway.
            assert!(matches!(Head::read(&cut), HeadRead::Bad) || bytes[torn..].iter().all(|byte| *byte == 0));
            assert_eq!(Head::read(&bytes[..torn]), HeadRead::Bad);
        }
    }
}
