//! [`Mount`]: a path prefix bound to a store, and whether it may be written.
//!
//! Invariants: a store is written only after a probe found that it honours conditions, or after the mount was
//! told `unsafe-overwrite`; a `ro` mount is never probed and never written. One probe runs at a time, and all
//! who wait for it get its outcome. An outcome is remembered; that the store did not answer, or that its
//! rights are missing now, is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::backend;
use super::bounded::BoundedStore;
use super::counts::StoreCounts;
use super::fault::StoreFault;
use super::spec::{MountSpec, check_prefix};
use super::store::{FileStore, Writability};
use super::traced::TracedStore;
use crate::error::{Errno, Error, Result};
use crate::limits::Limits;

/// A path prefix bound to a store.
#[derive(Debug)]
pub struct Mount {
    prefix: String,
    url: String,
    store: Arc<dyn FileStore>,
    counts: Arc<StoreCounts>,
    access: Mutex<Access>,
    /// That rights are missing was said.
    warned: AtomicBool,
    /// Held while a probe runs; holds when and how the last one failed.
    probing: tokio::sync::Mutex<Option<(Instant, Error)>>,
}

/// Whether a mount may be written.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Access {
    /// The mount says `ro`.
    ReadOnly,
    /// Not probed yet.
    Unknown,
    /// The probe found it safe, or it needs none.
    Writable,
    /// The probe found it unsafe, for this reason.
    Refused(String),
}

impl Mount {
    /// Opens the store that `spec` names. Nothing is asked of it yet.
    ///
    /// # Errors
    /// [`Errno::Inval`] if it cannot be opened as asked.
    pub fn open(spec: &MountSpec, limits: &Limits) -> Result<Self> {
        let access = match spec.options() {
            options if options.read_only => Access::ReadOnly,
            options if options.unsafe_overwrite => Access::Writable,
            _ => Access::Unknown,
        };
        let url = spec.url();
        if spec.options().unsafe_overwrite && !spec.is_read_only() {
            tracing::warn!(mount = spec.prefix(), %url, "unsafe-overwrite: changes by others may be overwritten");
        }
        Ok(Self::bind(spec.prefix().to_owned(), url, backend::open(spec)?, access, limits))
    }

    /// A mount of a store that is at hand, writable without a probe: for embedders and tests.
    ///
    /// # Errors
    /// [`Errno::Inval`] for a bad prefix.
    pub fn with_store(prefix: &str, store: Arc<dyn FileStore>) -> Result<Self> {
        Self::at_hand(prefix, store, Access::Writable)
    }

    /// As [`Mount::with_store`], probed before it is written first.
    ///
    /// # Errors
    /// [`Errno::Inval`] for a bad prefix.
    pub fn with_unprobed_store(prefix: &str, store: Arc<dyn FileStore>) -> Result<Self> {
        Self::at_hand(prefix, store, Access::Unknown)
    }

    fn at_hand(prefix: &str, store: Arc<dyn FileStore>, access: Access) -> Result<Self> {
        Ok(Self::bind(check_prefix(prefix)?, "embedded:".to_owned(), store, access, &Limits::default()))
    }

    fn bind(prefix: String, url: String, store: Arc<dyn FileStore>, access: Access, limits: &Limits) -> Self {
        let store = BoundedStore::new(store, limits.store_timeout).of_mount(&prefix);
        let counts = Arc::clone(store.counts());
        let store = Arc::new(TracedStore::new(Arc::new(store), &prefix));
        Self {
            prefix,
            url,
            store,
            counts,
            access: Mutex::new(access),
            warned: AtomicBool::new(false),
            probing: tokio::sync::Mutex::new(None),
        }
    }

    /// Its prefix: `/`, or a path without a `/` at its end.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Where it lies, without secrets.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its store. Each of its calls ends within its time limit.
    pub fn store(&self) -> &Arc<dyn FileStore> {
        &self.store
    }

    /// What its store was asked, and what came of it.
    pub fn counts(&self) -> &StoreCounts {
        &self.counts
    }

    /// EROFS on a read-only mount or one whose store is refused for writing; probes the store if it was not yet.
    ///
    /// # Errors
    /// [`Errno::RoFs`], or [`Errno::Io`] if the store does not answer the probe.
    pub async fn require_writable(&self) -> Result<()> {
        let asked = Instant::now();
        if let Some(known) = self.known() {
            return known;
        }
        let mut last_failure = self.probing.lock().await;
        if let Some(known) = self.known() {
            return known;
        }
        // A probe that failed while this call waited for it speaks for this call too.
        if let Some((when, error)) = &*last_failure
            && *when > asked
        {
            return Err(error.clone());
        }
        let outcome = self.probe().await;
        *last_failure = outcome.as_ref().err().map(|error| (Instant::now(), error.clone()));
        outcome
    }

    /// Asks the store for a sign of life, and probes it if it was not yet. A store that is refused for writing
    /// answers as well as any other: it is mounted read-only.
    ///
    /// # Errors
    /// [`Errno::Io`] if it does not answer.
    pub async fn check(&self) -> Result<()> {
        self.store.ping().await.map_err(|fault| self.fault(fault))?;
        match self.require_writable().await {
            Err(error) if error.errno() == Errno::RoFs => Ok(()),
            answer => answer,
        }
    }

    /// The error of a call on the mount as a whole.
    pub(super) fn fault(&self, fault: StoreFault) -> Error {
        let (prefix, url) = (&self.prefix, &self.url);
        let errno = match fault {
            StoreFault::Unsupported(_) => Errno::NotSup,
            StoreFault::Fenced { .. } => Errno::RoFs,
            StoreFault::Missing
            | StoreFault::Exists
            | StoreFault::Changed
            | StoreFault::BadName(_)
            | StoreFault::TooLarge { .. }
            | StoreFault::Denied(_)
            | StoreFault::Full(_)
            | StoreFault::Corrupt(_)
            | StoreFault::Failed(..) => Errno::Io,
        };
        let error = Error::new(errno, format!("the store {url} of the mount {prefix} failed: {fault}"));
        let error = error.with("mount", prefix).with("url", url);
        let error = if errno == Errno::RoFs { error.with("reason", &fault) } else { error };
        let error = error.caused_by(fault);
        if errno == Errno::Io { error.retry_after(std::time::Duration::from_secs(1)) } else { error }
    }

    fn known(&self) -> Option<Result<()>> {
        match &*self.access.lock() {
            Access::Unknown => None,
            Access::Writable => Some(Ok(())),
            Access::ReadOnly => Some(Err(self.read_only("it is mounted with ro"))),
            Access::Refused(reason) => Some(Err(self.read_only(reason))),
        }
    }

    fn read_only(&self, reason: &str) -> Error {
        let prefix = &self.prefix;
        Error::new(Errno::RoFs, format!("the mount {prefix} is read-only: {reason}"))
            .with("mount", prefix)
            .with("reason", reason)
    }

    async fn probe(&self) -> Result<()> {
        match self.store.probe().await {
            Ok(Writability::Safe) => {
                *self.access.lock() = Access::Writable;
                Ok(())
            }
            Ok(Writability::Unsafe(why)) => {
                let reason = format!("its store is refused for writing, because {why}");
                tracing::warn!(
                    mount = self.prefix,
                    url = self.url,
                    "MOUNTED READ-ONLY: {reason}; add unsafe-overwrite to the mount's URL to write all the same"
                );
                *self.access.lock() = Access::Refused(reason.clone());
                Err(self.read_only(&reason))
            }
            // Rights can be given while the server runs, so this is asked again.
            Err(StoreFault::Denied(source)) => {
                if !self.warned.swap(true, Ordering::Relaxed) {
                    tracing::warn!(mount = self.prefix, url = self.url, %source, "READ-ONLY: no right to write");
                }
                Err(self.read_only("its store may not be written with the server's rights"))
            }
            Err(fault) => Err(self.fault(fault)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfs::chaos::{Call, ChaosStore, Fault};
    use crate::vfs::object::ObjectLayout;

    fn chaos() -> Arc<ChaosStore> {
        Arc::new(ChaosStore::new(Arc::new(ObjectLayout::in_memory())))
    }

    #[tokio::test]
    async fn a_read_only_mount_is_never_probed() {
        let spec = MountSpec::parse("/x=memory:?ro").expect("a spec");
        let mount = Mount::open(&spec, &Limits::default()).expect("a mount");
        let error = mount.require_writable().await.expect_err("it is ro");
        assert_eq!(error.errno(), Errno::RoFs);
        assert_eq!(error.details()[0], ("mount", "/x".to_owned()));
        assert!(mount.check().await.is_ok());
        assert!(mount.store().list("", None, 10).await.expect("a list").is_empty());
    }

    #[tokio::test]
    async fn a_probe_is_made_once_and_shared_by_all_who_wait() {
        let store = chaos();
        let mount = Mount::with_unprobed_store("/", store.clone()).expect("a mount");
        store.push(Call::Probe, Fault::Delay(std::time::Duration::from_millis(20)));
        let (first, second) = tokio::join!(mount.require_writable(), mount.require_writable());
        assert!(first.is_ok() && second.is_ok() && mount.check().await.is_ok());
        assert_eq!(store.calls(Call::Probe), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_does_not_answer_the_probe_is_asked_again() {
        let store = chaos();
        let mount = Mount::with_unprobed_store("/", store.clone()).expect("a mount");
        store.push(Call::Probe, Fault::Hang);
        let started = Instant::now();
        let (first, second) = tokio::join!(mount.require_writable(), mount.require_writable());
        for outcome in [first, second] {
            let error = outcome.expect_err("it hangs");
            assert_eq!((error.errno(), error.retry_delay().is_some()), (Errno::Io, true));
        }
        assert_eq!(started.elapsed(), Limits::default().store_timeout, "the second waits no longer than the first");
        assert_eq!(store.calls(Call::Probe), 1);
        assert!(mount.require_writable().await.is_ok());
    }

    #[tokio::test]
    async fn unsafe_overwrite_needs_no_probe() {
        let spec = MountSpec::parse("/=memory:?unsafe-overwrite").expect("a spec");
        let mount = Mount::open(&spec, &Limits::default()).expect("a mount");
        assert!(mount.require_writable().await.is_ok());
    }

    #[test]
    fn a_missing_folder_is_refused_with_what_to_do() {
        let spec = MountSpec::parse("/=file:///nowhere/at/all").expect("a spec");
        let error = Mount::open(&spec, &Limits::default()).expect_err("it is missing");
        assert_eq!(error.errno(), Errno::Inval);
        assert!(error.message().contains("make it first"), "{error}");
    }
}
