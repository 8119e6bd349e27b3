//! [`Backlog`]: files whose last write-back failed: since when, why, and when the next one is due.
//!
//! One place for what the write-back task, the health and people ask: which file is to be left alone for now,
//! which mount does not take its bytes. A file is here from its first failure until a write-back of it
//! succeeds or it has nothing to store any more. Told in the log when a mount's trouble begins and when it ends,
//! and not in between. It stores nothing and holds no bytes.

use std::collections::BTreeMap;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::error::{Errno, Error};
use crate::path::FilePath;

/// The first pause after a failure, before jitter; each further one is twice as long.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// The longest pause, before jitter.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Files whose last write-back failed.
#[derive(Debug, Default)]
pub struct Backlog {
    mounts: Mutex<BTreeMap<String, InTrouble>>,
}

/// A mount with such files.
#[derive(Debug)]
struct InTrouble {
    since: Instant,
    files: BTreeMap<FilePath, Failing>,
    /// How many files have been here, and their bytes.
    files_in_all: u64,
    bytes_in_all: u64,
}

#[derive(Debug)]
struct Failing {
    error: Error,
    pauses: ExponentialBackoff,
    next_try: Instant,
}

/// A mount that does not take its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Its prefix.
    pub mount: String,
    /// Since its first failure.
    pub lasting: Duration,
    /// Files whose last write-back failed.
    pub files: u64,
    /// One of the failures.
    pub error: String,
}

impl Backlog {
    /// The write-back of a file failed, which has so many unsynced bytes.
    pub fn failed(&self, mount: &str, path: &FilePath, bytes: u64, error: &Error) {
        let now = Instant::now();
        let mut mounts = self.mounts.lock();
        let trouble = mounts.entry(mount.to_owned()).or_insert_with(|| {
            tracing::warn!(mount, %path, ?error, "a write-back failed; what is to be stored waits for the store");
            InTrouble { since: now, files: BTreeMap::new(), files_in_all: 0, bytes_in_all: 0 }
        });
        match trouble.files.get_mut(path) {
            Some(failing) => {
                failing.error = error.clone();
                failing.next_try = now + failing.pauses.next().unwrap_or(BACKOFF_MAX);
            }
            None => {
                trouble.files_in_all += 1;
                trouble.bytes_in_all = trouble.bytes_in_all.saturating_add(bytes);
                let mut pauses = pauses();
                let next_try = now + pauses.next().unwrap_or(BACKOFF_MIN);
                trouble.files.insert(path.clone(), Failing { error: error.clone(), pauses, next_try });
            }
        }
    }

    /// The write-back of a file succeeded, or it has nothing to store any more.
    pub fn settled(&self, mount: &str, path: &FilePath) {
        let mut mounts = self.mounts.lock();
        let Some(trouble) = mounts.get_mut(mount) else { return };
        if trouble.files.remove(path).is_some() && trouble.files.is_empty() {
            let (files, bytes) = (trouble.files_in_all, trouble.bytes_in_all);
            let seconds = trouble.since.elapsed().as_secs();
            tracing::info!(mount, files, bytes, seconds, "nothing waits for the store any more");
            mounts.remove(mount);
        }
    }

    /// When a file may be tried again; `None` if its last write-back did not fail.
    pub fn next_try(&self, mount: &str, path: &FilePath) -> Option<Instant> {
        Some(self.mounts.lock().get(mount)?.files.get(path)?.next_try)
    }

    /// Why a file's last write-back failed, if it did.
    pub fn error(&self, mount: &str, path: &FilePath) -> Option<Error> {
        Some(self.mounts.lock().get(mount)?.files.get(path)?.error.clone())
    }

    /// The files of a mount whose last write-back failed.
    pub fn failing(&self, mount: &str) -> Vec<FilePath> {
        self.mounts.lock().get(mount).map(|trouble| trouble.files.keys().cloned().collect()).unwrap_or_default()
    }

    /// The mounts that do not take their bytes. A file that changed in its store is no trouble of the store's.
    pub fn troubles(&self) -> Vec<Trouble> {
        let mounts = self.mounts.lock();
        let troubles = mounts.iter().filter_map(|(mount, trouble)| {
            let failing = trouble.files.values().filter(|failing| failing.error.errno() != Errno::Stale);
            let errors: Vec<&Error> = failing.map(|failing| &failing.error).collect();
            let error = errors.first()?.message().to_owned();
            let (lasting, files) = (trouble.since.elapsed(), errors.len() as u64);
            Some(Trouble { mount: mount.clone(), lasting, files, error })
        });
        troubles.collect()
    }
}

/// Each pause has up to as much again as jitter, so that files that failed together are not tried together.
fn pauses() -> ExponentialBackoff {
    let builder = ExponentialBuilder::new().with_min_delay(BACKOFF_MIN).with_max_delay(BACKOFF_MAX);
    builder.without_max_times().with_jitter().build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> FilePath {
        FilePath::parse(text).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_fails_is_left_alone_longer_and_longer_and_others_are_not() {
        let backlog = Backlog::default();
        let (bad, good) = (path("/m/bad"), path("/m/good"));
        let error = Error::new(Errno::Io, "the store is away");
        let mut last = Duration::ZERO;
        for round in 0..20u32 {
            backlog.failed("/m", &bad, 4096, &error);
            let pause = backlog.next_try("/m", &bad).unwrap() - Instant::now();
            let least = (BACKOFF_MIN * 2u32.saturating_pow(round.min(10))).min(BACKOFF_MAX);
            assert!(pause >= least && pause <= BACKOFF_MAX * 2, "{round}: {pause:?}");
            last = pause;
        }
        assert!(last >= BACKOFF_MAX);
        assert_eq!(backlog.next_try("/m", &good), None);
        backlog.settled("/m", &bad);
        assert_eq!((backlog.next_try("/m", &bad), backlog.troubles()), (None, Vec::new()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_mount_is_in_trouble_from_its_first_failure_until_all_of_its_files_are_stored() {
        let backlog = Backlog::default();
        let error = Error::new(Errno::Io, "the store is away");
        backlog.failed("/m", &path("/m/a"), 1, &error);
        tokio::time::advance(Duration::from_secs(5)).await;
        backlog.failed("/m", &path("/m/b"), 1, &error);
        let stale = Error::new(Errno::Stale, "changed");
        backlog.failed("/other", &path("/other/c"), 1, &stale);
        backlog.settled("/m", &path("/m/a"));
        let [trouble] = &backlog.troubles()[..] else { panic!("{:?}", backlog.troubles()) };
        assert_eq!((trouble.mount.as_str(), trouble.lasting, trouble.files), ("/m", Duration::from_secs(5), 1));
        backlog.settled("/m", &path("/m/b"));
        assert_eq!(backlog.troubles(), []);
        assert_eq!(backlog.failing("/other"), [path("/other/c")], "it waits all the same");
    }
}
