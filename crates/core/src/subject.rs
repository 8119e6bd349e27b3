//! [`Account`]: what one subject has, of all its processes together, and the most it may have; [`Accounts`]: those of
//! all subjects.
//!
//! Invariants: what is counted is given back when the mapping, the pages or the unsynced block are gone; a subject that
//! has nothing is not remembered, so that any number of subjects can come and go. Where no limit is set there are no
//! accounts at all. What came back from the journal counts as mappings and private pages and is never refused; whose
//! its unsynced blocks are, the journal does not say.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dashmap::DashMap;

use crate::budget::{Budget, Reservation};
use crate::caller::Subject;
use crate::error::{Errno, Error, Result};
use crate::limits::SubjectLimits;

/// When a subject that is at its limit may try again: it has to give something back first.
const RETRY: Duration = Duration::from_secs(1);
/// Subjects that are remembered before those that have nothing are first looked for.
const SWEEP_MIN: usize = 1024;

/// What a subject has.
#[derive(Debug)]
pub struct Account {
    subject: Subject,
    mappings: AtomicUsize,
    mappings_max: usize,
    private: Option<Budget>,
    dirty: Option<Budget>,
}

/// Memory of which kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Private pages.
    Private,
    /// Unsynced blocks.
    Dirty,
}

impl Account {
    fn new(subject: Subject, limits: &SubjectLimits) -> Self {
        Self {
            subject,
            mappings: AtomicUsize::new(0),
            mappings_max: limits.mappings.unwrap_or(usize::MAX),
            private: limits.private.map(Budget::new),
            dirty: limits.dirty.map(Budget::new),
        }
    }

    /// Counts a mapping.
    ///
    /// # Errors
    /// ENOMEM at the limit.
    pub fn add_mapping(&self) -> Result<()> {
        let max = self.mappings_max;
        let one_more = |mappings| (mappings < max).then_some(mappings + 1);
        match self.mappings.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more) {
            Ok(_) => Ok(()),
            Err(used) => {
                let sentence =
                    format!("{} {used} mappings, the most it may have ({max}): unmap some first", self.who());
                Err(full(Errno::NoMem, sentence, "subject_mappings", max, used))
            }
        }
    }

    /// Counts a mapping that is there already.
    pub fn restore_mapping(&self) {
        self.mappings.fetch_add(1, Ordering::Relaxed);
    }

    /// A counted mapping is gone.
    pub fn remove_mapping(&self) {
        self.mappings.fetch_sub(1, Ordering::Relaxed);
    }

    /// Takes `bytes` of what the subject may have, for memory that is taken elsewhere. `None` without a limit.
    ///
    /// # Errors
    /// ENOMEM for private pages, EDQUOT for unsynced blocks.
    pub fn take(&self, kind: Kind, bytes: u64) -> Result<Option<Reservation>> {
        let budget = match kind {
            Kind::Private => &self.private,
            Kind::Dirty => &self.dirty,
        };
        let Some(budget) = budget else { return Ok(None) };
        // A budget gives all it has to whoever asks for more; here that would go uncounted.
        match budget.try_take(bytes).filter(|_| bytes <= budget.total()) {
            Some(taken) => Ok(Some(taken)),
            None => Err(self.over(kind, budget, bytes)),
        }
    }

    fn over(&self, kind: Kind, budget: &Budget, bytes: u64) -> Error {
        let (who, max, used) = (self.who(), budget.total(), budget.used());
        match kind {
            Kind::Private => {
                let what = "unmap private mappings first";
                let sentence =
                    format!("{who} {used} of {max} bytes of private pages, and {bytes} more were written: {what}");
                full(Errno::NoMem, sentence, "subject_private", max, used)
            }
            Kind::Dirty => {
                let what = "sync what was written first";
                let sentence = format!("{who} {used} of {max} unsynced bytes, and {bytes} more were written: {what}");
                full(Errno::DQuot, sentence, "subject_dirty", max, used)
            }
        }
        .with("bytes", bytes)
    }

    fn who(&self) -> String {
        who(&self.subject)
    }

    fn is_empty(&self) -> bool {
        let used = |budget: &Option<Budget>| budget.as_ref().map_or(0, Budget::used);
        self.mappings.load(Ordering::Relaxed) == 0 && used(&self.private) == 0 && used(&self.dirty) == 0
    }
}

/// How a sentence about what a subject has begins.
fn who(subject: &Subject) -> String {
    match subject.name() {
        "" => "the callers of this server together have".to_owned(),
        name => format!("subject {} has", name.escape_debug()),
    }
}

fn full(errno: Errno, sentence: String, limit: &str, max: impl fmt::Display, used: impl fmt::Display) -> Error {
    Error::new(errno, sentence).with("limit", limit).with("max", max).with("used", used).retry_after(RETRY)
}

/// The accounts of all subjects.
#[derive(Debug, Default)]
pub struct Accounts {
    limits: SubjectLimits,
    known: DashMap<Subject, Arc<Account>>,
    sweep_at: AtomicUsize,
}

impl Accounts {
    /// Accounts with these limits.
    pub fn new(limits: SubjectLimits) -> Self {
        Self { limits, known: DashMap::new(), sweep_at: AtomicUsize::new(SWEEP_MIN) }
    }

    /// The subject's account, if there are limits.
    pub fn of(&self, subject: &Subject) -> Option<Arc<Account>> {
        if self.limits == SubjectLimits::default() {
            return None;
        }
        if let Some(known) = self.known.get(subject) {
            return Some(Arc::clone(&known));
        }
        if self.known.len() >= self.sweep_at.load(Ordering::Relaxed) {
            // Whoever gets one does so under the same lock, so that none is forgotten that somebody has.
            self.known.retain(|_, account| Arc::strong_count(account) > 1 || !account.is_empty());
            self.sweep_at.store((2 * self.known.len()).max(SWEEP_MIN), Ordering::Relaxed);
        }
        let account = self.known.entry(subject.clone());
        Some(Arc::clone(&account.or_insert_with(|| Arc::new(Account::new(subject.clone(), &self.limits)))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::PAGE_SIZE;

    fn accounts() -> Accounts {
        let (private, dirty) = (Some(4 * PAGE_SIZE), Some(2 * PAGE_SIZE));
        Accounts::new(SubjectLimits { mappings: Some(2), private, dirty })
    }

    #[test]
    fn one_subjects_use_leaves_anothers_alone() {
        let accounts = accounts();
        let [one, other] = ["one", "other"].map(|name| accounts.of(&Subject::named(name)).unwrap());
        one.add_mapping().and_then(|()| one.add_mapping()).unwrap();
        let error = one.add_mapping().unwrap_err();
        assert_eq!((error.errno(), error.retry_delay().is_some()), (Errno::NoMem, true));
        assert!(error.message().contains("subject one has 2 mappings"), "{error}");
        other.add_mapping().unwrap();
        one.remove_mapping();
        one.add_mapping().unwrap();
        let held = one.take(Kind::Dirty, 2 * PAGE_SIZE).unwrap();
        assert_eq!(one.take(Kind::Dirty, 1).unwrap_err().errno(), Errno::DQuot);
        assert_eq!(one.take(Kind::Private, 5 * PAGE_SIZE).unwrap_err().errno(), Errno::NoMem);
        assert!(other.take(Kind::Dirty, 1).is_ok());
        drop(held);
        assert!(one.take(Kind::Dirty, 1).is_ok());
    }

    #[test]
    fn subjects_that_have_nothing_are_forgotten_and_those_that_have_something_are_not() {
        let accounts = accounts();
        let kept = accounts.of(&Subject::named("kept")).unwrap().take(Kind::Dirty, 1).unwrap();
        for number in 0..10 * SWEEP_MIN {
            accounts.of(&Subject::named(&number.to_string()));
            assert!(accounts.known.len() <= SWEEP_MIN + 1);
        }
        assert!(accounts.of(&Subject::named("kept")).unwrap().take(Kind::Dirty, 2 * PAGE_SIZE).is_err());
        drop(kept);
    }

    #[test]
    fn without_limits_nobody_has_an_account() {
        assert!(Accounts::default().of(&Subject::LOCAL).is_none());
    }
}
