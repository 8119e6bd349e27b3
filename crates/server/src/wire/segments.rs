//! [`Segments`]: bytes on their way out. What is small is copied into it, what is large is referenced.
//!
//! It gives the transport as many slices at once as it can take, so that a frame of many answers is written by
//! one system call. A slice that was sent is let go at once.

use std::io::IoSlice;

use bytes::{Buf, Bytes};
use smallvec::SmallVec;

use super::account::Charge;

/// Bytes below which a slice is copied: a reference costs two atomic operations and an entry in the system call's
/// list, and 512 bytes are copied in less.
const COPY_BELOW: usize = 512;

/// Bytes on their way out.
#[derive(Debug, Default)]
pub(crate) struct Segments {
    /// Copied bytes, those of all parts one after the other.
    copied: SmallVec<[u8; 32]>,
    /// Copied bytes that are sent.
    copied_sent: usize,
    parts: SmallVec<[Part; 3]>,
    /// The parts before this one are sent.
    first: usize,
    remaining: usize,
    charge: Option<Charge>,
}

/// A run of bytes; none is empty but those that are sent.
#[derive(Debug)]
enum Part {
    /// The next so many of the copied bytes.
    Copied(usize),
    Referenced(Bytes),
}

impl Segments {
    /// Appends a slice: by reference, unless it is small.
    pub(crate) fn push(&mut self, slice: Bytes) {
        if slice.len() < COPY_BELOW {
            return self.put_slice(&slice);
        }
        self.remaining += slice.len();
        self.parts.push(Part::Referenced(slice));
    }

    /// Appends a copy of `bytes`.
    pub(crate) fn put_slice(&mut self, bytes: &[u8]) {
        self.put_with(bytes.len(), |room| room.copy_from_slice(bytes));
    }

    /// Appends `len` bytes that `fill` writes.
    pub(crate) fn put_with(&mut self, len: usize, fill: impl FnOnce(&mut [u8])) {
        if len == 0 {
            return;
        }
        let start = self.copied.len();
        self.copied.resize(start + len, 0);
        fill(&mut self.copied[start..]);
        self.remaining += len;
        match self.parts[self.first..].last_mut() {
            Some(Part::Copied(run)) => *run += len,
            Some(Part::Referenced(_)) | None => self.parts.push(Part::Copied(len)),
        }
    }

    /// Appends all of `other`, and what it is charged.
    pub(crate) fn append(&mut self, mut other: Self) {
        if self.remaining == 0 && self.charge.is_none() {
            *self = other;
            return;
        }
        let mut copied = &other.copied[other.copied_sent..];
        for part in other.parts.drain(other.first..) {
            match part {
                Part::Copied(run) => {
                    let (bytes, rest) = copied.split_at(run);
                    copied = rest;
                    self.put_slice(bytes);
                }
                Part::Referenced(slice) => self.push(slice),
            }
        }
        if let Some(charge) = other.charge.take() {
            self.hold(charge);
        }
    }

    /// Keeps `charge` until all of it is sent.
    pub(crate) fn hold(&mut self, charge: Charge) {
        match &mut self.charge {
            Some(held) => held.absorb(charge),
            None => self.charge = Some(charge),
        }
    }
}

impl Buf for Segments {
    fn remaining(&self) -> usize {
        self.remaining
    }

    fn chunk(&self) -> &[u8] {
        match self.parts.get(self.first) {
            Some(Part::Copied(run)) => &self.copied[self.copied_sent..self.copied_sent + run],
            Some(Part::Referenced(slice)) => slice,
            None => &[],
        }
    }

    fn chunks_vectored<'a>(&'a self, out: &mut [IoSlice<'a>]) -> usize {
        let mut copied = &self.copied[self.copied_sent..];
        let mut count = 0;
        for (out, part) in out.iter_mut().zip(&self.parts[self.first..]) {
            *out = match part {
                Part::Copied(run) => {
                    let (bytes, rest) = copied.split_at(*run);
                    copied = rest;
                    IoSlice::new(bytes)
                }
                Part::Referenced(slice) => IoSlice::new(slice),
            };
            count += 1;
        }
        count
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.remaining, "nobody advances a buffer behind its end");
        self.remaining -= count;
        if let Some(charge) = &mut self.charge {
            charge.set_moved();
        }
        while count > 0 {
            let (sent, is_over) = match &mut self.parts[self.first] {
                Part::Copied(run) => {
                    let sent = count.min(*run);
                    *run -= sent;
                    self.copied_sent += sent;
                    (sent, *run == 0)
                }
                Part::Referenced(slice) => {
                    let sent = count.min(slice.len());
                    slice.advance(sent);
                    (sent, slice.is_empty())
                }
            };
            count -= sent;
            if is_over {
                // What was sent need not wait for the rest to be let go.
                self.parts[self.first] = Part::Copied(0);
                self.first += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::account::{Account, Budget};
    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Push(usize),
        Put(usize),
        Append(Vec<usize>, usize),
        Advance(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let length = || prop_oneof![0usize..40, COPY_BELOW - 1..COPY_BELOW + 2, 0usize..3000];
        prop_oneof![
            length().prop_map(Step::Push),
            length().prop_map(Step::Put),
            (proptest::collection::vec(length(), 0..5), length()).prop_map(|(all, sent)| Step::Append(all, sent)),
            length().prop_map(Step::Advance),
        ]
    }

    fn vectored(segments: &Segments, slices: usize) -> (Vec<u8>, usize) {
        let mut out = vec![IoSlice::new(&[]); slices];
        let count = segments.chunks_vectored(&mut out);
        (out[..count].iter().flat_map(|slice| slice.to_vec()).collect(), count)
    }

    proptest! {
        #[test]
        fn segments_read_like_a_flat_buffer(steps in proptest::collection::vec(step(), 0..40)) {
            let (mut segments, mut flat) = (Segments::default(), Vec::<u8>::new());
            let mut fill = (0u8..=255).cycle();
            for step in steps {
                let mut bytes = |length: usize| fill.by_ref().take(length).collect::<Vec<u8>>();
                match step {
                    Step::Push(length) => {
                        let bytes = bytes(length);
                        flat.extend_from_slice(&bytes);
                        segments.push(bytes.into());
                    }
                    Step::Put(length) => {
                        let bytes = bytes(length);
                        flat.extend_from_slice(&bytes);
                        segments.put_slice(&bytes);
                    }
                    Step::Append(lengths, sent) => {
                        let (mut other, mut theirs) = (Segments::default(), Vec::new());
                        for length in lengths {
                            let bytes = bytes(length);
                            theirs.extend_from_slice(&bytes);
                            other.push(bytes.into());
                        }
                        let sent = sent.min(theirs.len());
                        other.advance(sent);
                        flat.extend_from_slice(&theirs[sent..]);
                        segments.append(other);
                    }
                    Step::Advance(sent) => {
                        let sent = sent.min(flat.len());
                        segments.advance(sent);
                        flat.drain(..sent);
                    }
                }
                prop_assert_eq!(segments.remaining(), flat.len());
                prop_assert_eq!(segments.chunk().is_empty(), flat.is_empty());
                prop_assert!(flat.starts_with(segments.chunk()));
                let (two, count) = vectored(&segments, 2);
                prop_assert!(count <= 2 && flat.starts_with(&two));
                prop_assert_eq!(&vectored(&segments, 200).0, &flat);
            }
            let mut rest = vec![0; flat.len()];
            segments.copy_to_slice(&mut rest);
            prop_assert_eq!(rest, flat);
        }
    }

    #[test]
    fn a_large_slice_is_referenced_and_let_go_once_it_is_sent() {
        let block = Bytes::from(vec![1; COPY_BELOW]);
        let mut segments = Segments::default();
        segments.put_slice(b"head");
        segments.push(block.clone());
        segments.push(block.clone());
        assert!(!block.is_unique());
        segments.advance(4 + COPY_BELOW);
        assert_eq!(segments.chunk().as_ptr(), block.as_ptr());
        segments.advance(COPY_BELOW);
        assert!(block.is_unique());
    }

    #[test]
    fn what_it_is_charged_is_given_back_when_all_is_sent_and_dropped() {
        let account = Account::new(Budget::new(8));
        let mut segments = Segments::default();
        segments.push(vec![1; 600].into());
        segments.hold(account.try_charge(600).unwrap());
        let mut all = Segments::default();
        all.put_slice(b"before");
        all.append(segments);
        all.advance(606);
        assert!(account.try_charge(1).is_none());
        drop(all);
        assert!(account.try_charge(1).is_some());
    }
}
