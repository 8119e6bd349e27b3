//! [`Take`]: values out of bytes, from the front, as simply as can be: a changed byte changes one value, and a seed can
//! be written by hand. When the bytes are used up everything is zero.

/// Bytes to be taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Take<'a>(pub(crate) &'a [u8]);

impl<'a> Take<'a> {
    /// Whether there are none left.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One byte.
    pub(crate) fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    /// Two bytes, little endian.
    pub(crate) fn short(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// A number below `end`, or 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::from(self.short()).checked_rem(end).unwrap_or(0)
    }

    /// At most `len` bytes.
    pub(crate) fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (front, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        front
    }

    /// Bytes with their length in two bytes before them.
    pub(crate) fn prefixed(&mut self) -> &'a [u8] {
        let len = self.short();
        self.bytes(len.into())
    }
}
