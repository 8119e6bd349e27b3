//! Every bound of the core and its default, with the arithmetic behind it.
//!
//! Invariant: the shares of the memory budget add up to at most the budget. It does not enforce anything:
//! the rooms that own a resource do.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::units::BLOCK_SIZE;

const MIB: u64 = 1024 * 1024;

/// What a manager may use. Sizes are bytes.
#[derive(Clone, Debug)]
pub struct Limits {
    /// One budget for clean, dirty, private and in-flight bytes; split by the methods below.
    pub memory: u64,
    /// Bytes of private pages that may go to the local disk when their share of memory is used up; 0: none, they
    /// are refused. Not by default: a disk that fills with what was meant for memory surprises, and takes down
    /// what shares it; a refusal is a sentence to whoever asked.
    pub private_spill: u64,
    /// Largest data of one read or write.
    pub max_message: u64,
    /// Mappings of all processes together.
    pub max_mappings: usize,
    /// Mappings of one process: as vm.max_map_count on Linux.
    pub max_mappings_per_process: usize,
    /// Processes, attached or not.
    pub max_processes: usize,
    /// Files that are kept known after their last mapping went, so that their cached blocks stay of use.
    pub max_idle_files: usize,
    /// How long a process lives after its stream broke.
    pub process_grace: Duration,
    /// How long a process that never attached lives without a call.
    pub process_idle_timeout: Duration,
    /// When a store that does not answer counts as failed. Below the 30 s in which a caller without a deadline
    /// of its own is promised the answer.
    pub store_timeout: Duration,
    /// Bytes that are read ahead of one reader at most, as far as [`Limits::window_bytes`] allows; 0: none.
    pub read_ahead: u64,
    /// Of one subject.
    pub subject: SubjectLimits,
    /// Entries of a list's page where the caller asks for none in particular.
    pub list_page_default: usize,
    /// Entries of a list's page at most.
    pub list_page_max: usize,
}

/// What one subject may have at most, of all its processes together. `None`: no more bounds than those of all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubjectLimits {
    /// Mappings.
    pub mappings: Option<usize>,
    /// Bytes of its private mappings' own pages in memory.
    pub private: Option<u64>,
    /// Bytes of blocks that it was the first to write since they were last stored.
    pub dirty: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: 1024 * MIB,
            private_spill: 0,
            max_message: 4 * MIB,
            max_mappings: 1 << 20,
            max_mappings_per_process: 65_530,
            max_processes: 16_384,
            max_idle_files: 4096,
            process_grace: Duration::from_secs(10),
            process_idle_timeout: Duration::from_mins(10),
            store_timeout: Duration::from_secs(25),
            read_ahead: 32 * MIB,
            subject: SubjectLimits::default(),
            list_page_default: 100,
            list_page_max: 1000,
        }
    }
}

impl Limits {
    /// The defaults with another memory budget.
    pub fn with_memory(memory: u64) -> Self {
        Self { memory, ..Self::default() }
    }

    /// Half of the budget: clean blocks.
    pub const fn clean_bytes(&self) -> u64 {
        self.memory / 2
    }

    /// A quarter: blocks with unsynced pages.
    pub const fn dirty_bytes(&self) -> u64 {
        self.memory / 4
    }

    /// Half of that: above it write-back begins by itself.
    ///
    /// Half and half (as Linux's dirty_background_ratio to its dirty_ratio): what is left is room for as many
    /// bytes again while the first half is on its way to the store, so that a burst meets no waiting. A lower
    /// one stores pages that are about to be written again; a higher one begins too late to help.
    pub const fn dirty_soft_bytes(&self) -> u64 {
        self.dirty_bytes() / 2
    }

    /// An eighth: private mappings' own pages.
    pub const fn private_bytes(&self) -> u64 {
        self.memory / 8
    }

    /// A sixteenth: blocks on their way from the store. Apart from those on their way to it, so that a read
    /// never waits behind a write-back.
    pub const fn fetch_bytes(&self) -> u64 {
        self.memory / 16
    }

    /// Half of that: what is read ahead, of all readers together, so that it never keeps a read that somebody waits
    /// for from its memory.
    pub const fn ahead_bytes(&self) -> u64 {
        self.fetch_bytes() / 2
    }

    /// What may be read ahead of one reader: at most three quarters of what may be for all, so that the next one finds
    /// room. Of some readers, what they have not come to yet fits the part of the cache that blocks enter (a tenth of
    /// the budget), and is not dropped before it is used.
    pub const fn window_bytes(&self) -> u64 {
        let part = Self::mount_part(self.ahead_bytes());
        if self.read_ahead < part { self.read_ahead } else { part }
    }

    /// A sixteenth: what write-backs hold beside the unsynced blocks themselves.
    pub const fn write_back_bytes(&self) -> u64 {
        self.memory / 16
    }

    /// The part of a share that one of several can have: of mounts, so that a store that does not answer cannot
    /// hold everything that the others need.
    pub const fn mount_part(share: u64) -> u64 {
        share / 4 * 3
    }

    /// Whether the bounds fit together.
    ///
    /// # Errors
    /// [`Errno::Inval`](crate::error::Errno::Inval) with the bound that does not.
    pub fn check(&self) -> Result<()> {
        let refuse = |field, message: String| Err(Error::invalid(field, message));
        // A write of the largest message dirties one block more than it fills.
        let needed = self.max_message + 2 * BLOCK_SIZE;
        let smallest = self.private_bytes().min(Self::mount_part(self.dirty_bytes()));
        if self.max_message == 0 || needed > smallest {
            let (memory, message) = (self.memory, self.max_message);
            // Whichever of the two is out of the ordinary is at fault.
            let ordinary = (1..=Self::default().max_message).contains(&message);
            return refuse(
                if ordinary { "memory" } else { "max_message" },
                format!(
                    "a memory budget of {memory} bytes is too small for messages of {message} bytes: an eighth of it \
                     must hold one, so give it at least {}",
                    needed.saturating_mul(8)
                ),
            );
        }
        for (field, bytes) in [("subject-private", self.subject.private), ("subject-dirty", self.subject.dirty)] {
            if let Some(bytes) = bytes.filter(|bytes| *bytes < needed) {
                let message = self.max_message;
                let sentence = format!(
                    "{field} of {bytes} bytes is too small for messages of {message} bytes: give it at least {needed}"
                );
                return refuse(field, sentence);
            }
        }
        if self.max_mappings == 0 || self.max_processes == 0 || self.list_page_max == 0 {
            return refuse("limits", "a limit of 0 mappings, processes or list entries serves nobody".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_add_up_to_at_most_the_budget() {
        for memory in [MIB, 64 * MIB + 4095, 6 << 30] {
            let limits = Limits::with_memory(memory);
            let inflight = limits.fetch_bytes() + limits.write_back_bytes();
            assert!(limits.clean_bytes() + limits.dirty_bytes() + limits.private_bytes() + inflight <= memory);
        }
    }

    #[test]
    fn bounds_that_do_not_fit_together_are_refused() {
        assert!(Limits::default().check().is_ok());
        assert!(Limits::with_memory(64 * MIB).check().is_ok());
        assert!(Limits::with_memory(MIB).check().is_err());
        assert!(Limits { max_message: 512 * MIB, ..Limits::default() }.check().is_err());
        for (dirty, fits) in [(4 * MIB, false), (5 * MIB, true)] {
            let subject = SubjectLimits { dirty: Some(dirty), ..SubjectLimits::default() };
            assert_eq!(Limits { subject, ..Limits::default() }.check().is_ok(), fits, "{dirty}");
        }
    }
}
