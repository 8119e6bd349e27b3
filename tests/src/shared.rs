//! One fixture for all tests of a file: started by the first that asks, ended with the last that holds it.
//!
//! A plain `static` would never be dropped, and its process would outlive the tests.

use std::sync::{Arc, Mutex, PoisonError, Weak};

/// A fixture that tests share while any of them holds it.
#[derive(Debug)]
pub struct Shared<T>(Mutex<Weak<T>>);

impl<T> Shared<T> {
    /// Nothing started yet.
    pub const fn new() -> Self {
        Self(Mutex::new(Weak::new()))
    }

    /// The running fixture, or a new one by `start`. Others that ask meanwhile wait for it.
    pub fn get(&self, start: impl FnOnce() -> T) -> Arc<T> {
        // A start that panicked has left nothing behind, so the lock is good to use.
        let mut weak = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = weak.upgrade() {
            return running;
        }
        let started = Arc::new(start());
        *weak = Arc::downgrade(&started);
        started
    }
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self::new()
    }
}
