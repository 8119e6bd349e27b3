//! One round of a row: time and CPU around some work.

use std::time::Instant;

use crate::cpu::{self, Usage};
use crate::rows::{Sample, Unit};

/// Does `work` and says what it took, in `unit`. `work` answers how many operations it did, or for
/// [`Unit::GibPerSecond`] how many MiB; `servers` are the processes on the other side, if there are any.
///
/// # Errors
/// Those of the work, and work that did nothing.
pub fn measure(unit: Unit, servers: &[u32], work: impl FnOnce() -> Result<f64, String>) -> Result<Sample, String> {
    let (usage, own, started) = (Usage::of(servers), cpu::own(), Instant::now());
    let done = work()?;
    let (seconds, own, servers_used) = (started.elapsed().as_secs_f64(), cpu::own() - own, usage.since());
    if done <= 0.0 {
        return Err("not one operation was done in the time that a round has".to_owned());
    }
    let server_cpu = match (servers.is_empty(), servers_used) {
        (true, _) => None,
        (false, Some(seconds)) => Some(seconds * 1e6 / done),
        (false, None) => return Err("the server ended while it was measured".to_owned()),
    };
    let value = match unit {
        Unit::OpsPerSecond => done / seconds,
        Unit::GibPerSecond => done / 1024.0 / seconds,
        Unit::Nanoseconds => seconds * 1e9 / done,
        Unit::Microseconds => seconds * 1e6 / done,
        Unit::Milliseconds => seconds * 1e3 / done,
        Unit::Instructions | Unit::Count => return Err(format!("{} are not measured by the clock", unit.label())),
    };
    Ok(Sample { value, client_cpu: Some(own * 1e6 / done), server_cpu })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn slept(unit: Unit, done: f64) -> Result<Sample, String> {
        measure(unit, &[], || {
            std::thread::sleep(Duration::from_millis(50));
            Ok(done)
        })
    }

    #[test]
    fn a_rate_is_what_was_done_by_the_time_and_a_time_the_reverse() {
        let rate = slept(Unit::OpsPerSecond, 100.0).expect("it slept").value;
        assert!(rate > 0.0 && rate <= 2000.0, "{rate}");
        let time = slept(Unit::Milliseconds, 10.0).expect("it slept").value;
        assert!(time >= 5.0, "{time}");
        let throughput = slept(Unit::GibPerSecond, 1024.0).expect("it slept").value;
        assert!(throughput > 0.0 && throughput <= 20.0, "{throughput}");
    }

    #[test]
    fn work_that_did_nothing_or_that_the_clock_cannot_tell_is_no_sample() {
        assert!(slept(Unit::OpsPerSecond, 0.0).is_err() && slept(Unit::Count, 1.0).is_err());
    }
}
