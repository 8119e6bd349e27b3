//! CPU time: of this process to the nanosecond, of a server's process from what Linux says about its threads.

use std::collections::BTreeMap;
use std::fs;

use rustix::time::{ClockId, clock_gettime};

/// Seconds of CPU that this process has used, all threads, user and system.
#[allow(clippy::cast_precision_loss, reason = "seconds of a process fit into the digits of a double")]
pub fn own() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// The CPU time of processes at one moment.
#[derive(Clone, Debug, Default)]
pub struct Usage(Vec<(u32, BTreeMap<u64, f64>, f64)>);

impl Usage {
    /// Of these processes, now.
    pub fn of(pids: &[u32]) -> Self {
        Self(pids.iter().map(|pid| (*pid, threads(*pid), ticks(*pid))).collect())
    }

    /// Seconds that the same processes have used since; `None` if one of them has ended.
    ///
    /// Threads are told to the nanosecond. If one has ended meanwhile, its time is only in the whole process's, which
    /// Linux counts in hundredths of a second.
    pub fn since(&self) -> Option<f64> {
        self.0
            .iter()
            .map(|(pid, before, ticks_before)| {
                let now = threads(*pid);
                if now.is_empty() {
                    return None;
                }
                let has_lost_a_thread = before.is_empty() || before.keys().any(|thread| !now.contains_key(thread));
                if has_lost_a_thread {
                    return Some(ticks(*pid) - ticks_before);
                }
                Some(now.iter().map(|(thread, time)| time - before.get(thread).unwrap_or(&0.0)).sum::<f64>())
            })
            .sum()
    }
}

/// Seconds of each thread that runs.
fn threads(pid: u32) -> BTreeMap<u64, f64> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else { return BTreeMap::new() };
    let thread = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.ok()?;
        let text = fs::read_to_string(entry.path().join("schedstat")).ok()?;
        let nanos: f64 = text.split(' ').next()?.parse().ok()?;
        Some((entry.file_name().to_str()?.parse().ok()?, nanos / 1e9))
    };
    entries.filter_map(thread).collect()
}

/// Seconds of the whole process, ended threads included, to a hundredth.
fn ticks(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in parentheses may hold anything; user and system time are the 12th and 13th field behind it.
    let fields = stat.rsplit(')').next().unwrap_or_default();
    fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / 100.0
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn what_a_process_computes_is_seen_in_both_its_own_and_anothers_view() {
        let (own_before, usage) = (own(), Usage::of(&[std::process::id()]));
        let started = Instant::now();
        let mut sum = 0u64;
        while started.elapsed() < Duration::from_millis(100) {
            sum = black_box(sum.wrapping_mul(31).wrapping_add(1));
        }
        assert!(own() - own_before > 0.001);
        assert!(usage.since().is_some_and(|seconds| seconds > 0.001), "{usage:?}");
    }

    #[test]
    fn of_a_process_that_has_ended_nothing_is_told() {
        let mut child = std::process::Command::new("true").spawn().expect("every POSIX system has true");
        let usage = Usage::of(&[child.id()]);
        child.wait().expect("a child can be waited for");
        assert_eq!(usage.since(), None);
    }
}
