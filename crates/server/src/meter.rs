//! [`Meter`]: what one subject asks for: calls and bytes a second, and calls that run; [`Meters`]: those of all.
//!
//! A rate is a bucket that holds a second's worth. Whoever takes of a bucket that is not empty may take more than it
//! holds, so that a large read passes at all, and those behind it wait until that is made good. The clock is read only
//! when a bucket is empty: until then a call costs one atomic change of each bucket.
//!
//! Invariants: a subject whose buckets are full and that has nothing running is not remembered, so that any number of
//! subjects can come and go; where no limit is set there are no meters at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use mmap_core::error::{Errno, Error, Result};
use mmap_core::manager::Subject;
use tokio::time::Instant;

use crate::config::SubjectRates;

const SECOND: u64 = 1_000_000_000;
/// Subjects that are remembered before those that ask for nothing are first looked for.
const SWEEP_MIN: usize = 1024;
/// When a place among the running calls may be free.
const PLACE_RETRY: Duration = Duration::from_millis(100);

/// So much a second.
#[derive(Debug)]
struct Bucket {
    left: AtomicI64,
    rate: u64,
    began: Instant,
    /// Until when the bucket was filled, in nanoseconds since `began`.
    filled: AtomicU64,
}

impl Bucket {
    fn new(rate: u64) -> Self {
        let left = AtomicI64::new(i64::try_from(rate).unwrap_or(i64::MAX));
        Self { left, rate, began: Instant::now(), filled: AtomicU64::new(0) }
    }

    /// Takes `count`, or says when there will be something to take.
    fn take(&self, count: u64) -> std::result::Result<(), Duration> {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let taken = || {
            let take = |left: i64| (left > 0).then(|| left.saturating_sub(count));
            self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
        };
        match taken() {
            Ok(_) => Ok(()),
            Err(_) => {
                self.fill();
                taken().map(drop).map_err(|left| self.time_for(left.unsigned_abs().saturating_add(1)))
            }
        }
    }

    /// How long it takes until `count` have come in.
    fn time_for(&self, count: u64) -> Duration {
        let nanos = u128::from(count) * u128::from(SECOND) / u128::from(self.rate);
        // A call that took all that can be said is not waited for longer than anybody waits.
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)).clamp(Duration::from_millis(1), MAX_WAIT)
    }

    /// Adds what has come in since it was last filled.
    fn fill(&self) {
        let now = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let before = self.filled.load(Ordering::Relaxed);
        let came = u128::from(now.saturating_sub(before)) * u128::from(self.rate) / u128::from(SECOND);
        let came = u64::try_from(came).unwrap_or(u64::MAX);
        if came == 0 {
            return;
        }
        // Not to `now`: what is less than one whole has its time left.
        let nanos = u128::from(came) * u128::from(SECOND) / u128::from(self.rate);
        let until = before.saturating_add(u64::try_from(nanos).unwrap_or(u64::MAX));
        // Somebody else fills it with the same.
        if self.filled.compare_exchange(before, until, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return;
        }
        let (came, full) = (i64::try_from(came).unwrap_or(i64::MAX), i64::try_from(self.rate).unwrap_or(i64::MAX));
        let add = |left: i64| Some(left.saturating_add(came).min(full));
        let _ = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    fn is_full(&self) -> bool {
        self.fill();
        u64::try_from(self.left.load(Ordering::Relaxed)).is_ok_and(|left| left >= self.rate)
    }
}

/// The longest time that anybody is told to wait.
const MAX_WAIT: Duration = Duration::from_secs(3600);

/// What one subject asks for.
#[derive(Debug)]
pub(crate) struct Meter {
    subject: Subject,
    calls: Option<Bucket>,
    bytes: Option<Bucket>,
    running: AtomicUsize,
    running_max: usize,
}

impl Meter {
    fn new(subject: Subject, rates: &SubjectRates) -> Self {
        Self {
            subject,
            calls: rates.calls_per_second.map(Bucket::new),
            bytes: rates.bytes_per_second.map(Bucket::new),
            running: AtomicUsize::new(0),
            running_max: rates.calls.unwrap_or(usize::MAX),
        }
    }

    /// Counts a call that reads or writes `bytes`.
    ///
    /// # Errors
    /// ENOMEM over one of the rates.
    pub(crate) fn admit(&self, bytes: u64) -> Result<()> {
        // Bytes first: a call that is refused for them has not been one.
        self.spend(bytes).map_err(|wait| self.over("subject-bytes-per-second", "bytes", &self.bytes, wait))?;
        let one = self.calls.as_ref().map_or(Ok(()), |calls| calls.take(1));
        one.map_err(|wait| self.over("subject-calls-per-second", "calls", &self.calls, wait))
    }

    /// Counts bytes, or says when there will be some to have: for who can wait.
    pub(crate) fn spend(&self, bytes: u64) -> std::result::Result<(), Duration> {
        match &self.bytes {
            Some(bucket) if bytes > 0 => bucket.take(bytes),
            _ => Ok(()),
        }
    }

    /// Counts a call that runs as long as the answer is held.
    ///
    /// # Errors
    /// ENOMEM if there are as many as may be.
    pub(crate) fn begin(self: &Arc<Self>) -> Result<Running> {
        let max = self.running_max;
        let one_more = |running| (running < max).then_some(running + 1);
        match self.running.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more) {
            Ok(_) => Ok(Running(Arc::clone(self))),
            Err(running) => {
                let sentence = format!("{} {running} calls running, the most at a time ({max})", self.who());
                let error = Error::new(Errno::NoMem, sentence).with("limit", "subject-calls").with("max", max);
                Err(error.with("used", running).retry_after(PLACE_RETRY))
            }
        }
    }

    fn over(&self, limit: &str, what: &str, bucket: &Option<Bucket>, wait: Duration) -> Error {
        let max = bucket.as_ref().map_or(0, |bucket| bucket.rate);
        let sentence = format!(
            "{} used up {max} {what} a second, the most that it may: try again in {} ms",
            self.who(),
            wait.as_millis()
        );
        Error::new(Errno::NoMem, sentence).with("limit", limit).with("max", max).retry_after(wait)
    }

    /// How a sentence about it begins.
    fn who(&self) -> String {
        match self.subject.name() {
            "" => "the callers of this server together have".to_owned(),
            name => format!("subject {} has", name.escape_debug()),
        }
    }

    fn is_idle(&self) -> bool {
        let is_full = |bucket: &Option<Bucket>| bucket.as_ref().is_none_or(Bucket::is_full);
        self.running.load(Ordering::Relaxed) == 0 && is_full(&self.calls) && is_full(&self.bytes)
    }
}

/// A call that runs.
#[derive(Debug)]
pub(crate) struct Running(Arc<Meter>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The meters of all subjects. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Meters(Option<Arc<Table>>);

#[derive(Debug)]
struct Table {
    rates: SubjectRates,
    /// Of callers that are not told apart: found without a look into the table.
    local: Arc<Meter>,
    known: DashMap<Subject, Arc<Meter>>,
    sweep_at: AtomicUsize,
}

impl Meters {
    /// Meters with these rates.
    pub(crate) fn new(rates: &SubjectRates) -> Self {
        let table = || Table {
            rates: rates.clone(),
            local: Arc::new(Meter::new(Subject::LOCAL, rates)),
            known: DashMap::new(),
            sweep_at: AtomicUsize::new(SWEEP_MIN),
        };
        Self((*rates != SubjectRates::default()).then(|| Arc::new(table())))
    }

    /// The subject's meter, if there are limits.
    pub(crate) fn of(&self, subject: &Subject) -> Option<Arc<Meter>> {
        let table = self.0.as_ref()?;
        if *subject == Subject::LOCAL {
            return Some(Arc::clone(&table.local));
        }
        if let Some(known) = table.known.get(subject) {
            return Some(Arc::clone(&known));
        }
        if table.known.len() >= table.sweep_at.load(Ordering::Relaxed) {
            // Whoever gets one does so under the same lock, so that none is forgotten that somebody has.
            table.known.retain(|_, meter| Arc::strong_count(meter) > 1 || !meter.is_idle());
            table.sweep_at.store((2 * table.known.len()).max(SWEEP_MIN), Ordering::Relaxed);
        }
        let meter = table.known.entry(subject.clone());
        Some(Arc::clone(&meter.or_insert_with(|| Arc::new(Meter::new(subject.clone(), &table.rates)))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meters(calls: u64, bytes: u64) -> Meters {
        let rates = SubjectRates { calls_per_second: Some(calls), bytes_per_second: Some(bytes), calls: Some(2) };
        Meters::new(&rates)
    }

    fn admitted(meter: &Meter, bytes: u64) -> usize {
        (0..1000).take_while(|_| meter.admit(bytes).is_ok()).count()
    }

    #[tokio::test(start_paused = true)]
    async fn a_subject_has_so_many_calls_a_second_and_as_many_at_once() {
        let meters = meters(10, u64::from(u32::MAX));
        let [one, other] = ["one", "other"].map(|name| meters.of(&Subject::named(name)).unwrap());
        assert_eq!(admitted(&one, 0), 10);
        let error = one.admit(0).unwrap_err();
        assert_eq!((error.errno(), error.retry_delay()), (Errno::NoMem, Some(Duration::from_millis(100))));
        assert!(error.message().contains("10 calls a second"), "{error}");
        assert_eq!(admitted(&other, 0), 10, "another's are its own");
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(admitted(&one, 0), 5);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(admitted(&one, 0), 10, "what was not used is not saved up for longer than a second");
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_of_more_than_a_seconds_bytes_passes_and_is_made_good_by_those_behind_it() {
        let meters = meters(1000, 1000);
        let meter = meters.of(&Subject::LOCAL).unwrap();
        meter.admit(4000).unwrap();
        let wait = meter.admit(1).unwrap_err().retry_delay().unwrap();
        assert!((3000..=3002).contains(&wait.as_millis()), "{wait:?}");
        tokio::time::advance(wait).await;
        meter.admit(1).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_bucket_that_is_asked_often_fills_no_slower() {
        let bucket = Bucket::new(3);
        while bucket.take(1).is_ok() {}
        let mut taken = 0;
        for _ in 0..1000 {
            tokio::time::advance(Duration::from_millis(10)).await;
            taken += u32::from(bucket.take(1).is_ok());
        }
        assert!((29..=30).contains(&taken), "{taken} in 10 s of 3 a second");
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_calls_run_at_a_time_and_a_place_comes_back() {
        let meters = meters(1000, 1000);
        let meter = meters.of(&Subject::LOCAL).unwrap();
        let held = [meter.begin().unwrap(), meter.begin().unwrap()];
        let error = meter.begin().unwrap_err();
        assert_eq!((error.errno(), error.retry_delay()), (Errno::NoMem, Some(PLACE_RETRY)));
        drop(held);
        meter.begin().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn subjects_that_ask_for_nothing_are_forgotten_and_those_in_debt_are_not() {
        let meters = meters(10, 10);
        meters.of(&Subject::named("debtor")).unwrap().admit(1_000_000).unwrap();
        for number in 0..5 * SWEEP_MIN {
            meters.of(&Subject::named(&number.to_string()));
        }
        let known = meters.0.as_ref().unwrap().known.len();
        assert!(known <= 2 * SWEEP_MIN, "{known}");
        assert!(meters.of(&Subject::named("debtor")).unwrap().admit(1).is_err());
    }

    #[test]
    fn without_limits_nobody_has_a_meter() {
        assert!(Meters::new(&SubjectRates::default()).of(&Subject::LOCAL).is_none());
    }
}
