//! [`Slices`]: several slices, read in order as one. So what came from the network in pieces goes into a block
//! without being gathered first.
//!
//! It owns no bytes and copies none but into the place it is given.

/// What is left to read of several slices.
#[derive(Debug)]
pub struct Slices<'a, S> {
    head: &'a [u8],
    rest: std::slice::Iter<'a, S>,
}

impl<'a, S: AsRef<[u8]>> Slices<'a, S> {
    /// All of `slices`, from the first byte on.
    pub fn new(slices: &'a [S]) -> Self {
        Self { head: &[], rest: slices.iter() }
    }

    /// Moves the next bytes to `out`, as many as it has room for, or as there are.
    pub fn fill(&mut self, mut out: &mut [u8]) {
        while !out.is_empty() {
            if self.head.is_empty() {
                let Some(next) = self.rest.next() else { return };
                self.head = next.as_ref();
                continue;
            }
            let count = out.len().min(self.head.len());
            let (here, later) = out.split_at_mut(count);
            let (head, tail) = self.head.split_at(count);
            here.copy_from_slice(head);
            (out, self.head) = (later, tail);
        }
    }
}

/// Bytes of all `slices`.
pub fn total_len<S: AsRef<[u8]>>(slices: &[S]) -> u64 {
    slices.iter().fold(0, |sum: u64, slice| sum.saturating_add(slice.as_ref().len() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_read_as_one_whatever_their_borders() {
        let pieces: [&[u8]; 5] = [b"ab", b"", b"cdef", b"g", b""];
        assert_eq!(total_len(&pieces), 7);
        for first in 0..=7 {
            let mut slices = Slices::new(&pieces);
            let mut out = [0; 9];
            let (head, tail) = out.split_at_mut(first);
            slices.fill(head);
            slices.fill(tail);
            assert_eq!(&out, b"abcdefg\0\0", "cut behind {first} bytes");
        }
    }
}
