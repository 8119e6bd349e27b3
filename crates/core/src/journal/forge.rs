//! Segments as the writer would leave them, without a writer: for tests that break them.

use super::frame::{Head, push, seal};

/// A segment to be made.
#[derive(Clone, Debug)]
pub struct Forged {
    /// Its number.
    pub number: u64,
    /// What its frames begin with.
    pub marker: u64,
    /// Its first record's position.
    pub first: u64,
    /// Its records; an empty one is a mark of the journal's own.
    pub records: Vec<Vec<u8>>,
    /// Its length, if the records leave that much.
    pub bytes: usize,
    /// If it is used again: what it had before.
    pub left: Option<Vec<u8>>,
}

impl Forged {
    /// Its name, and its bytes. Each record had been acknowledged before the next one was written.
    pub fn segment(&self) -> (String, Vec<u8>) {
        let head = Head {
            number: self.number,
            marker: self.marker,
            acknowledged: self.first.saturating_sub(1),
            is_reused: self.left.is_some(),
        };
        let mut bytes = head.encode().to_vec();
        for (lsn, record) in (self.first..).zip(&self.records) {
            let start = bytes.len();
            push(&mut bytes, lsn, |buffer| buffer.extend_from_slice(record));
            seal(&mut bytes[start..], self.marker, lsn.saturating_sub(1));
        }
        let end = bytes.len();
        bytes.extend(self.left.iter().flat_map(|left| left.get(end..)).flatten());
        bytes.resize(bytes.len().max(self.bytes), 0);
        (super::scan::name_of(self.number), bytes)
    }
}
