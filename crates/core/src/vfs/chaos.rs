//! [`ChaosStore`]: a decorator that makes a store fail, for tests.
//!
//! Faults come from a script (one queue a kind of call, taken first) or by chance from a seed. The same seed
//! and the same order of calls give the same faults. What an outside writer does, a test does to the inner
//! store.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::fault::{StoreFault, StoreResult};
use super::store::{FileStore, Listed, Stat, Traits, Writability, WriteBack};
use super::version::Version;
use crate::units::ByteRange;

/// A kind of call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// [`FileStore::stat`].
    Stat,
    /// [`FileStore::read`].
    Read,
    /// [`FileStore::write_back`].
    WriteBack,
    /// [`FileStore::list`].
    List,
    /// [`FileStore::remove`].
    Remove,
    /// [`FileStore::probe`].
    Probe,
    /// [`FileStore::ping`].
    Ping,
}

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: it goes through.
    Pass,
    /// It fails and has no effect.
    FailBefore,
    /// It takes effect and fails: the reply is lost.
    FailAfter,
    /// It goes through after this time.
    Delay(Duration),
    /// It waits until [`ChaosStore::release`], then goes through.
    Hang,
    /// It takes effect, then its reply waits until [`ChaosStore::release`].
    HangAfter,
}

/// How often which fault comes by chance, in a thousand calls.
#[derive(Clone, Copy, Debug, Default)]
pub struct Odds {
    /// [`Fault::FailBefore`].
    pub fail_before: u32,
    /// [`Fault::FailAfter`].
    pub fail_after: u32,
    /// [`Fault::Delay`], of up to `delay_max`.
    pub delay: u32,
    /// The longest delay.
    pub delay_max: Duration,
}

/// A store that fails as it is told.
#[derive(Debug)]
pub struct ChaosStore {
    inner: Arc<dyn FileStore>,
    state: Mutex<State>,
    /// Counts the releases.
    released: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    script: HashMap<Call, VecDeque<Fault>>,
    calls: HashMap<Call, u64>,
    hanging: u64,
    random: u64,
    odds: Odds,
}

impl ChaosStore {
    /// A store that goes through until it is told otherwise.
    pub fn new(inner: Arc<dyn FileStore>) -> Self {
        Self { inner, state: Mutex::default(), released: watch::Sender::new(0) }
    }

    /// A store that fails by chance.
    pub fn seeded(inner: Arc<dyn FileStore>, seed: u64, odds: Odds) -> Self {
        let store = Self::new(inner);
        *store.state.lock() = State { random: seed, odds, ..State::default() };
        store
    }

    /// The next call of this kind that has no fault yet gets this one.
    pub fn push(&self, call: Call, fault: Fault) {
        self.state.lock().script.entry(call).or_default().push_back(fault);
    }

    /// From now on nothing fails by chance, and the script is empty. What hangs keeps hanging.
    pub fn calm(&self) {
        let mut state = self.state.lock();
        state.script.clear();
        state.odds = Odds::default();
    }

    /// What hangs now goes on.
    pub fn release(&self) {
        self.released.send_modify(|count| *count += 1);
    }

    /// How many calls hang now.
    pub fn hanging(&self) -> u64 {
        self.state.lock().hanging
    }

    /// How many calls of this kind came.
    pub fn calls(&self, call: Call) -> u64 {
        self.state.lock().calls.get(&call).copied().unwrap_or_default()
    }

    async fn through<T>(&self, call: Call, work: impl Future<Output = StoreResult<T>> + Send) -> StoreResult<T> {
        let fault = self.state.lock().take(call);
        let lost = || Err(StoreFault::Failed(format!("chaos: {fault:?} of {call:?}"), None));
        match fault {
            Fault::Pass => work.await,
            Fault::FailBefore => lost(),
            Fault::FailAfter => {
                // Whether it took effect is not told either way.
                let _ = work.await;
                lost()
            }
            Fault::Delay(time) => {
                tokio::time::sleep(time).await;
                work.await
            }
            Fault::Hang => {
                self.wait().await;
                work.await
            }
            Fault::HangAfter => {
                let answer = work.await;
                self.wait().await;
                answer
            }
        }
    }

    async fn wait(&self) {
        let mut released = self.released.subscribe();
        let _hanging = HangGuard::new(&self.state);
        // It fails only when the store is gone, and `self` is it.
        let _ = released.changed().await;
    }
}

/// Counts a call that hangs, also one that is dropped meanwhile.
struct HangGuard<'a>(&'a Mutex<State>);

impl<'a> HangGuard<'a> {
    fn new(state: &'a Mutex<State>) -> Self {
        state.lock().hanging += 1;
        Self(state)
    }
}

impl Drop for HangGuard<'_> {
    fn drop(&mut self) {
        self.0.lock().hanging -= 1;
    }
}

impl State {
    fn take(&mut self, call: Call) -> Fault {
        *self.calls.entry(call).or_default() += 1;
        if let Some(fault) = self.script.get_mut(&call).and_then(VecDeque::pop_front) {
            return fault;
        }
        let Odds { fail_before, fail_after, delay, delay_max } = self.odds;
        if fail_before + fail_after + delay == 0 {
            return Fault::Pass;
        }
        let draw = u32::try_from(self.next() % 1000).unwrap_or_default();
        if draw < fail_before {
            Fault::FailBefore
        } else if draw < fail_before + fail_after {
            Fault::FailAfter
        } else if draw < fail_before + fail_after + delay {
            let share = u32::try_from(self.next() % 1000).unwrap_or_default();
            Fault::Delay(delay_max * share / 1000)
        } else {
            Fault::Pass
        }
    }

    /// SplitMix64: enough for tests, and no dependency.
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

#[async_trait]
impl FileStore for ChaosStore {
    fn traits(&self) -> Traits {
        self.inner.traits()
    }

    fn check_name(&self, name: &str) -> StoreResult<()> {
        self.inner.check_name(name)
    }

    async fn stat(&self, name: &str) -> StoreResult<Stat> {
        self.through(Call::Stat, self.inner.stat(name)).await
    }

    async fn read(&self, name: &str, version: &Version, range: ByteRange) -> StoreResult<Vec<Bytes>> {
        self.through(Call::Read, self.inner.read(name, version, range)).await
    }

    async fn write_back(&self, name: &str, change: WriteBack) -> StoreResult<Stat> {
        self.through(Call::WriteBack, self.inner.write_back(name, change)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> StoreResult<Vec<Listed>> {
        self.through(Call::List, self.inner.list(prefix, after, limit)).await
    }

    async fn remove(&self, name: &str) -> StoreResult<()> {
        self.through(Call::Remove, self.inner.remove(name)).await
    }

    async fn probe(&self) -> StoreResult<Writability> {
        self.through(Call::Probe, self.inner.probe()).await
    }

    async fn ping(&self) -> StoreResult<()> {
        self.through(Call::Ping, self.inner.ping()).await
    }

    async fn close(&self) -> StoreResult<()> {
        self.inner.close().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfs::object::ObjectLayout;
    use crate::vfs::store::{Base, CommitId};

    fn change() -> WriteBack {
        WriteBack { base: Base::Missing, size: 3, patches: Vec::new(), commit: CommitId::random() }
    }

    #[tokio::test]
    async fn a_lost_reply_leaves_the_effect_and_an_early_failure_none() {
        let store = ChaosStore::new(Arc::new(ObjectLayout::in_memory()));
        store.push(Call::WriteBack, Fault::FailBefore);
        store.push(Call::WriteBack, Fault::FailAfter);
        assert!(matches!(store.write_back("a", change()).await, Err(StoreFault::Failed(..))));
        assert!(matches!(store.stat("a").await, Err(StoreFault::Missing)));
        assert!(matches!(store.write_back("a", change()).await, Err(StoreFault::Failed(..))));
        assert_eq!(store.stat("a").await.expect("it is there").size, 3);
        assert_eq!((store.calls(Call::WriteBack), store.calls(Call::Stat)), (2, 2));
    }

    #[tokio::test]
    async fn what_hangs_goes_on_when_it_is_released() {
        let store = Arc::new(ChaosStore::new(Arc::new(ObjectLayout::in_memory())));
        store.push(Call::WriteBack, Fault::HangAfter);
        let writer = tokio::spawn({
            let store = Arc::clone(&store);
            async move { store.write_back("a", change()).await }
        });
        while store.hanging() == 0 {
            tokio::task::yield_now().await;
        }
        assert!(store.stat("a").await.is_ok(), "its effect is there before its answer");
        store.release();
        assert!(writer.await.expect("no panic").is_ok());
        assert_eq!(store.hanging(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_seed_gives_the_same_faults() {
        let odds = Odds { fail_before: 200, fail_after: 200, delay: 200, delay_max: Duration::from_secs(1) };
        let mut runs = Vec::new();
        for seed in [7, 7, 8] {
            let store = ChaosStore::seeded(Arc::new(ObjectLayout::in_memory()), seed, odds);
            let mut run = Vec::new();
            for _ in 0..100 {
                run.push(store.ping().await.is_ok());
            }
            runs.push(run);
        }
        assert!(runs[0] == runs[1] && runs[1] != runs[2]);
        assert!(runs[0].contains(&true) && runs[0].contains(&false));
    }
}
