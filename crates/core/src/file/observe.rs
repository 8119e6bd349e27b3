//! Asking the store what it has: an outside change is noticed here, and nowhere taken for granted.

use super::File;
use super::state::Observed;
use crate::error::{Errno, Error, Result};
use crate::vfs::{Stat, StoreFault, changed_in_store, no_such_file};

/// How often an observation that a change of ours overtook is repeated before changes are held up for it.
const OVERTAKEN_MAX: u32 = 3;

impl File {
    /// Asks the store and takes an outside change over, unless there are unsynced pages: then the file is
    /// stale. Answers what the store has. Cancel safe.
    ///
    /// # Errors
    /// The store's.
    pub async fn refresh(&self) -> Result<Option<Stat>> {
        for _ in 0..OVERTAKEN_MAX {
            let (seen, observed) = self.observe_once().await?;
            match observed {
                Observed::Current | Observed::Replaced | Observed::Conflict => return Ok(seen),
                Observed::Outdated => {}
                Observed::Undecided => drop(self.commit.turn().await),
            }
        }
        let _no_change_of_ours = self.commit.turn().await;
        Ok(self.observe_once().await?.0)
    }

    /// As [`File::refresh`], for whoever holds the commit lock.
    pub(super) async fn refresh_holding_commit(&self) -> Result<Option<Stat>> {
        Ok(self.observe_once().await?.0)
    }

    async fn observe_once(&self) -> Result<(Option<Stat>, Observed)> {
        let generation = self.state.read().generation;
        let seen = match self.location.mount.store().stat(&self.location.name).await {
            Ok(stat) => Some(stat),
            Err(StoreFault::Missing) => None,
            Err(fault) => return Err(fault.into_error(&self.path)),
        };
        let content = self.shared.new_content();
        let observed = self.state.write().observe(&self.shared.cache, seen.as_ref(), generation, content);
        if observed == Observed::Conflict {
            tracing::warn!(path = %self.path, "the file changed in its store under unsynced writes");
        }
        Ok((seen, observed))
    }

    /// The error for a file that is stale.
    pub(super) fn stale_error(&self) -> Error {
        changed_in_store(&self.path, self.state.read().base.as_ref())
    }

    /// The error for a file that is gone from its store.
    pub(super) fn gone_error(&self) -> Error {
        no_such_file(&self.path)
    }

    /// The error for a store that contradicts itself time and again.
    pub(super) fn unsteady_error(&self) -> Error {
        Error::new(Errno::Io, format!("{}: its content in the store changes faster than it can be read", self.path))
            .with("path", &self.path)
            .retry_after(std::time::Duration::from_secs(1))
    }
}
