//! What machine a measurement was made on, in one line. What cannot be found out is a question mark.

use std::path::Path;

fn line_of(file: &str, key: &str) -> String {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix(key));
    value.map_or("?", |value| value.trim_start_matches([' ', '\t', ':'])).trim_end().to_owned()
}

/// The kind of file system that a folder lies on.
fn disk_of(folder: &Path) -> String {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let covering = fields.filter(|fields| fields.len() > 2 && folder.starts_with(fields[1]));
    covering.max_by_key(|fields| fields[1].len()).map_or_else(|| "?".to_owned(), |fields| fields[2].to_owned())
}

/// The machine, how busy it is now, and the disk that `folder` lies on.
pub(crate) fn describe(folder: &Path) -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "{cores} cores ({}), {} of memory, Linux {}, folders on {}; load average at the start {}",
        line_of("/proc/cpuinfo", "model name"),
        line_of("/proc/meminfo", "MemTotal"),
        line_of("/proc/sys/kernel/osrelease", ""),
        disk_of(folder),
        line_of("/proc/loadavg", "")
    )
}
