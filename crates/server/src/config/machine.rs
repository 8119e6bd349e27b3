//! What the machine says of itself: its memory, its name, the user's data directory.
//!
//! It only reads; where the machine does not tell, the answer is `None` and the caller has a default.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

/// Bytes of memory that this process may use: the machine's, or its control group's limit if that is less.
pub(super) fn memory() -> Option<u64> {
    let total = fs::read_to_string("/proc/meminfo").ok().and_then(|text| mem_total(&text));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limit = cgroup_limit(&groups, |path| fs::read_to_string(Path::new("/sys/fs/cgroup").join(path)).ok());
    [total, limit].into_iter().flatten().min()
}

/// Cores that this process may use.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn mem_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The least `memory.max` of the process's control group (v2) and the groups that it lies in.
fn cgroup_limit(groups: &str, read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let limits = Path::new(group).ancestors().filter_map(|path| read(&path.join("memory.max")));
    // A group without a limit says `max`, which is no number.
    limits.filter_map(|text| text.trim().parse::<u64>().ok()).min()
}

/// The machine's name.
pub(super) fn host_name() -> Option<String> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| std::env::var("HOSTNAME").ok())?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

/// Where this user's programs keep data that must last, by the XDG base directory rules.
pub(super) fn data_dir(env: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let absolute = |name| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_DATA_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_memory_is_read_from_meminfo() {
        assert_eq!(mem_total("MemTotal:       16303456 kB\nMemFree: 1 kB\n"), Some(16_303_456 * 1024));
        assert_eq!(mem_total("nothing of the kind"), None);
    }

    #[test]
    fn the_least_limit_of_all_enclosing_control_groups_counts() {
        let read = |path: &Path| match path.to_str() {
            Some("a/b/memory.max") => Some("max\n".to_owned()),
            Some("a/memory.max") => Some("1048576\n".to_owned()),
            Some("memory.max") => Some("4194304\n".to_owned()),
            _ => None,
        };
        assert_eq!(cgroup_limit("0::/a/b\n", read), Some(1_048_576));
        assert_eq!(cgroup_limit("0::/\n", read), Some(4_194_304));
        assert_eq!(cgroup_limit("12:memory:/a\n", read), None);
    }

    #[test]
    fn the_data_directory_is_xdgs_or_under_home_and_never_relative() {
        let env = |xdg: Option<&'static str>, home: Option<&'static str>| {
            move |name: &str| if name == "XDG_DATA_HOME" { xdg } else { home }.map(OsString::from)
        };
        assert_eq!(data_dir(&env(Some("/x"), Some("/h"))), Some("/x".into()));
        assert_eq!(data_dir(&env(Some("x"), Some("/h"))), Some("/h/.local/share".into()));
        assert_eq!(data_dir(&env(None, None)), None);
    }
}
