//! [`Locks`]: who may change a file's record. Changes of one file come one after the other; those of two files
//! seldom meet in one lock.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard};

/// Changes under way at most, and with that what they hold in memory.
const LOCKS: usize = 256;

pub(super) struct Locks {
    locks: Vec<Arc<Mutex<()>>>,
    hasher: RandomState,
}

impl Default for Locks {
    fn default() -> Self {
        Self { locks: (0..LOCKS).map(|_| Arc::default()).collect(), hasher: RandomState::new() }
    }
}

impl Locks {
    /// Keeps others from changing the file `name`.
    pub(super) async fn lock(&self, name: &str) -> OwnedMutexGuard<()> {
        let place = usize::try_from(self.hasher.hash_one(name) % LOCKS as u64).unwrap_or_default();
        Arc::clone(&self.locks[place]).lock_owned().await
    }
}
