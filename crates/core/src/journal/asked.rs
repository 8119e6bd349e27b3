//! What the writer is asked to do beside writing. No I/O.

use tokio::sync::oneshot;

use crate::error::Result;

/// Segments wholly before a record are to be taken off the chain.
#[derive(Debug)]
pub(super) struct Trim {
    pub(super) mark: u64,
    pub(super) freed: u64,
    pub(super) reply: oneshot::Sender<Result<u64>>,
}

/// Segments wholly before a record are not worth a sync any more; the answer is the number of the first that is.
#[derive(Debug)]
pub(super) struct Cover {
    pub(super) mark: u64,
    pub(super) reply: oneshot::Sender<u64>,
}

/// What is asked of the writer beside frames to write.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) sync_to: u64,
    pub(super) covers: Vec<Cover>,
    pub(super) trims: Vec<Trim>,
    pub(super) closing: bool,
}

impl Asked {
    /// Whether there is something to do for a writer that has synced so far.
    pub(super) fn is_more_than(&self, synced: u64) -> bool {
        self.sync_to > synced || !self.covers.is_empty() || !self.trims.is_empty() || self.closing
    }

    /// What is asked now; what holds on stays.
    pub(super) fn take(&mut self) -> Self {
        let (covers, trims) = (std::mem::take(&mut self.covers), std::mem::take(&mut self.trims));
        Self { sync_to: self.sync_to, covers, trims, closing: self.closing }
    }
}
