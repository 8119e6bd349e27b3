//! A load of small records from many tasks, and what it costs: calls a second, times, CPU and bytes written.
//!
//! It knows nothing of who takes the records, so that peers can be measured by the same code.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tokio::runtime::Runtime;

/// Tasks that each wait for their record before the next.
pub(crate) const TASKS: u64 = 64;
/// Bytes of a record.
pub(crate) const RECORD: usize = 4096;

/// What a round cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    /// Records a second.
    pub(crate) rate: f64,
    /// Microseconds, of the middle record.
    pub(crate) p50: f64,
    /// Microseconds, that one record of a hundred takes longer than.
    pub(crate) p99: f64,
    /// Microseconds of CPU for a record, all threads.
    pub(crate) cpu: f64,
    /// Bytes written for a byte of records.
    pub(crate) written: f64,
}

/// A record that does not compress, different for each number.
pub(crate) fn record(number: u64) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut record = Vec::with_capacity(RECORD);
    while record.len() < RECORD {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        record.extend_from_slice(&state.to_le_bytes());
    }
    record
}

/// Clock ticks of this process, user and system.
fn cpu_ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

fn written_bytes() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap();
    io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).unwrap().parse().unwrap()
}

#[allow(clippy::cast_precision_loss, reason = "a measurement of some digits")]
fn ratio(dividend: u64, divisor: u64) -> f64 {
    dividend as f64 / divisor as f64
}

/// `records` records from [`TASKS`] tasks; `put` resolves when its record is acknowledged.
pub(crate) fn round<F: Future<Output = ()> + Send>(
    runtime: &Runtime,
    records: u64,
    put: impl Fn(u64) -> F + Send + Sync + 'static,
) -> Cost {
    let (put, next) = (Arc::new(put), Arc::new(AtomicU64::new(0)));
    let (ticks, written, started) = (cpu_ticks(), written_bytes(), Instant::now());
    let mut times: Vec<u64> = runtime.block_on(async {
        let tasks = (0..TASKS).map(|_| {
            let (put, next) = (Arc::clone(&put), Arc::clone(&next));
            tokio::spawn(async move {
                let mut times = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= records {
                        return times;
                    }
                    let asked = Instant::now();
                    put(number).await;
                    times.push(u64::try_from(asked.elapsed().as_nanos()).unwrap());
                }
            })
        });
        let mut times = Vec::new();
        for task in tasks.collect::<Vec<_>>() {
            times.extend(task.await.unwrap());
        }
        times
    });
    let elapsed = u64::try_from(started.elapsed().as_nanos()).unwrap();
    times.sort_unstable();
    // A tick is 10 ms on every Linux there is.
    let cpu = (cpu_ticks() - ticks) * 10_000;
    Cost {
        rate: ratio(records, elapsed) * 1e9,
        p50: ratio(times[times.len() / 2], 1000),
        p99: ratio(times[times.len() * 99 / 100], 1000),
        cpu: ratio(cpu, records),
        written: ratio(written_bytes() - written, records * RECORD as u64),
    }
}

/// The median of each column over the rounds, as a row.
pub(crate) fn print(name: &str, rounds: &[Cost]) {
    let median = |column: fn(&Cost) -> f64| {
        let mut values: Vec<f64> = rounds.iter().map(column).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    println!(
        "{name:<44} {:>9.0} /s   p50 {:>7.0} us   p99 {:>7.0} us   {:>6.1} us CPU   {:>5.2} B/B",
        median(|cost| cost.rate),
        median(|cost| cost.p50),
        median(|cost| cost.p99),
        median(|cost| cost.cpu),
        median(|cost| cost.written),
    );
}
