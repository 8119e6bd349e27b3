//! What a changed file consists of: known bytes, bytes of its base, zeros. Pure, no I/O.
//!
//! Invariant: the pieces of a part cover it wholly, in order, without overlaps, whatever the patches are.

use bytes::Bytes;

use super::store::{Base, Patch, WriteBack};
use crate::units::{BLOCK_LEN, ByteRange};

/// Base ranges closer to each other than this are fetched with one request: at 100 MB/s it costs 10 ms to
/// fetch it for nothing, about what a request to an object store costs.
pub(super) const COALESCE_BYTES: u64 = 1024 * 1024;

/// Some neighbouring bytes of a changed file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// Known here.
    Known(Bytes),
    /// As in the base, at the same place.
    Base(ByteRange),
    /// So many zeros.
    Zeros(u64),
}

/// The bytes of the base, 0 if there is none.
pub(super) fn base_size(base: &Base) -> u64 {
    match base {
        Base::Missing => 0,
        Base::At { size, .. } => *size,
    }
}

/// What the bytes `part` of the changed file consist of.
pub(super) fn pieces(change: &WriteBack, part: ByteRange) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let base_end = base_size(&change.base);
    let mut at = part.start();
    let first = change.patches.partition_point(|patch| patch.range().end() <= part.start());
    for patch in change.patches.get(first..).unwrap_or_default() {
        let known = patch.range().intersect(ByteRange::new(at, part.end()));
        if known.is_empty() {
            if patch.offset >= part.end() {
                break;
            }
            continue;
        }
        push_unknown(&mut pieces, ByteRange::new(at, known.start()), base_end);
        pieces.push(Piece::Known(slice(patch, known)));
        at = known.end();
    }
    push_unknown(&mut pieces, ByteRange::new(at, part.end()), base_end);
    pieces
}

fn push_unknown(pieces: &mut Vec<Piece>, range: ByteRange, base_end: u64) {
    let base = range.intersect(ByteRange::new(0, base_end));
    if !base.is_empty() {
        pieces.push(Piece::Base(base));
    }
    let zeros = range.len() - base.len();
    if zeros > 0 {
        pieces.push(Piece::Zeros(zeros));
    }
}

fn slice(patch: &Patch, range: ByteRange) -> Bytes {
    // A patch's length is a buffer's length, so offsets in it fit a usize.
    #[expect(clippy::cast_possible_truncation, reason = "an offset in a buffer")]
    let (start, end) = ((range.start() - patch.offset) as usize, (range.end() - patch.offset) as usize);
    patch.data.slice(start..end)
}

/// The ranges to fetch of the base: those of the pieces, near ones joined.
pub(super) fn fetches(pieces: &[Piece]) -> Vec<ByteRange> {
    let mut ranges: Vec<ByteRange> = Vec::new();
    for piece in pieces {
        let Piece::Base(range) = piece else { continue };
        match ranges.last_mut() {
            Some(last) if range.start() - last.end() <= COALESCE_BYTES => {
                *last = ByteRange::new(last.start(), range.end());
            }
            _ => ranges.push(*range),
        }
    }
    ranges
}

/// `length` zeros as buffers that all refer to one static block.
pub(super) fn zeros(length: u64) -> impl Iterator<Item = Bytes> {
    static ZEROS: [u8; BLOCK_LEN] = [0; BLOCK_LEN];
    let mut left = length;
    std::iter::from_fn(move || {
        let take = usize::try_from(left).unwrap_or(BLOCK_LEN).min(BLOCK_LEN);
        left -= take as u64;
        (take > 0).then(|| Bytes::from_static(&ZEROS[..take]))
    })
}

/// The bytes `range` of what `chunks`, one behind the other, hold of `fetched`.
pub(super) fn cut(chunks: &[Bytes], fetched: ByteRange, range: ByteRange) -> Vec<Bytes> {
    let mut parts = Vec::new();
    let mut at = fetched.start();
    for chunk in chunks {
        let here = ByteRange::new(at, at + chunk.len() as u64);
        let part = here.intersect(range);
        if !part.is_empty() {
            let patch = Patch { offset: at, data: chunk.clone(), dirty: false };
            parts.push(slice(&patch, part));
        }
        at = here.end();
    }
    parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::vfs::store::CommitId;
    use crate::vfs::version::Version;

    fn change(base: &[u8], size: u64, patches: Vec<Patch>) -> WriteBack {
        let base = Base::At { version: Version::new("v"), size: base.len() as u64 };
        WriteBack { base, size, patches, commit: CommitId::random() }
    }

    fn render(change: &WriteBack, base: &[u8], part: ByteRange) -> Vec<u8> {
        let at = |n: u64| usize::try_from(n).expect("small");
        let mut bytes = Vec::new();
        let pieces = pieces(change, part);
        let fetched: Vec<_> = fetches(&pieces)
            .into_iter()
            .map(|range| {
                let chunks = base[at(range.start())..at(range.end())].chunks(7).map(Bytes::copy_from_slice);
                (range, chunks.collect::<Vec<_>>())
            })
            .collect();
        for piece in pieces {
            match piece {
                Piece::Known(data) => bytes.extend(data),
                Piece::Zeros(n) => zeros(n).for_each(|zeros| bytes.extend(zeros)),
                Piece::Base(range) => {
                    let (got, chunks) = fetched.iter().find(|(got, _)| got.contains(range)).expect("fetched");
                    cut(chunks, *got, range).iter().for_each(|chunk| bytes.extend(chunk));
                }
            }
        }
        bytes
    }

    proptest! {
        #[test]
        fn the_pieces_of_all_parts_are_the_patched_base(
            base in proptest::collection::vec(any::<u8>(), 0..200),
            size in 0usize..250,
            cuts in proptest::collection::btree_set(0usize..250, 0..12),
            part_length in 1usize..60,
        ) {
            let mut expected = base.clone();
            expected.resize(size, 0);
            let cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut <= size).collect();
            let mut patches = Vec::new();
            for pair in cuts.chunks_exact(2) {
                let data: Vec<u8> = (pair[0]..pair[1]).map(|n| u8::try_from(n % 251).expect("small")).collect();
                expected[pair[0]..pair[1]].copy_from_slice(&data);
                patches.push(Patch { offset: pair[0] as u64, data: data.into(), dirty: true });
            }
            let change = change(&base, size as u64, patches);
            let mut bytes = Vec::new();
            for start in (0..size).step_by(part_length) {
                let end = (start + part_length).min(size);
                bytes.extend(render(&change, &base, ByteRange::new(start as u64, end as u64)));
            }
            prop_assert_eq!(bytes, expected);
        }
    }

    #[test]
    fn near_gaps_are_fetched_with_one_request_and_far_ones_with_two() {
        let far = 5 * COALESCE_BYTES;
        let pieces = [
            Piece::Base(ByteRange::new(0, 10)),
            Piece::Known(Bytes::from_static(b"xx")),
            Piece::Base(ByteRange::new(12, 20)),
            Piece::Zeros(3),
            Piece::Base(ByteRange::new(far, far + 1)),
        ];
        assert_eq!(fetches(&pieces), [ByteRange::new(0, 20), ByteRange::new(far, far + 1)]);
    }
}
