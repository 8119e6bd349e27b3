//! [`Flight`]: one block on its way from the store, awaited by everybody who needs it.
//!
//! A landed flight keeps its block reachable as long as somebody waits for it, so that a block that the cache
//! dropped at once is still there when its reader tries again. A flight is recalled when its block's bytes
//! were changed in the store by a commit: what it brings then is of no use.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::sync::watch;

use crate::error::{Errno, Error, Result};

/// What a flight brought.
#[derive(Clone, Debug)]
pub(super) enum Landed {
    /// The block's bytes.
    Block(Bytes),
    /// Nothing: look again.
    Again,
    /// The failure.
    Failed(Error),
}

/// A block on its way.
#[derive(Debug)]
pub(super) struct Flight {
    landed: watch::Sender<Option<Landed>>,
    recalled: AtomicBool,
}

impl Flight {
    pub(super) fn new() -> Self {
        Self { landed: watch::Sender::new(None), recalled: AtomicBool::new(false) }
    }

    /// Says what it brought. Only the first word counts.
    pub(super) fn land(&self, landed: Landed) {
        self.landed.send_if_modified(|slot| {
            let first = slot.is_none();
            slot.get_or_insert(landed);
            first
        });
    }

    /// What it brings is of no use any more.
    pub(super) fn recall(&self) {
        self.recalled.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_recalled(&self) -> bool {
        self.recalled.load(Ordering::Relaxed)
    }

    pub(super) fn has_landed(&self) -> bool {
        self.landed.borrow().is_some()
    }

    /// The block, if it has landed and was not recalled.
    pub(super) fn block(&self) -> Option<Bytes> {
        match &*self.landed.borrow() {
            Some(Landed::Block(data)) if !self.is_recalled() => Some(data.clone()),
            _ => None,
        }
    }

    /// Waits until it has landed. Cancel safe.
    ///
    /// # Errors
    /// The fetch's.
    pub(super) async fn wait(&self) -> Result<()> {
        let mut landed = self.landed.subscribe();
        match landed.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(Landed::Failed(error))) => Err(error.clone()),
            Ok(_) => Ok(()),
            Err(_) => Err(Error::new(Errno::Fault, "an internal fault: a fetch ended without an answer")),
        }
    }
}
