//! [`ProcessUse`]: what the system says of this process. What it does not tell is 0, as on systems without `/proc`.

use std::fs;

/// Ticks a second of the times in `/proc/self/stat`: USER_HZ, which is part of Linux' interface.
const TICKS: f64 = 100.0;

/// What this process uses.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ProcessUse {
    pub(super) resident_bytes: u64,
    pub(super) cpu_seconds: f64,
    pub(super) open_fds: u64,
    pub(super) max_fds: u64,
    pub(super) threads: u64,
}

impl ProcessUse {
    /// Now.
    pub(super) fn now() -> Self {
        let read = |name: &str| fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
        let (status, stat, limits) = (read("status"), read("stat"), read("limits"));
        Self {
            resident_bytes: field(&status, "VmRSS:").saturating_mul(1024),
            cpu_seconds: cpu_ticks(&stat) as f64 / TICKS,
            open_fds: fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64),
            max_fds: field(&limits, "Max open files"),
            threads: field(&status, "Threads:"),
        }
    }
}

/// The first number behind the line's `name`.
fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// User and system time. The program's name before them may hold anything but is closed by the last parenthesis.
fn cpu_ticks(stat: &str) -> u64 {
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace()).into_iter().flatten();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_times_are_found_behind_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 0 0 0 0 250 50 9 9 20 0 3 0 100 0 0";
        assert_eq!(cpu_ticks(stat), 300);
        assert_eq!((cpu_ticks(""), cpu_ticks("7 (x) S 1")), (0, 0));
    }

    #[test]
    fn this_process_has_memory_threads_and_files() {
        let now = ProcessUse::now();
        assert!(now.resident_bytes > 1 << 20 && now.threads > 0, "{now:?}");
        assert!(now.open_fds > 2 && now.max_fds >= now.open_fds, "{now:?}");
    }
}
