//! What machine a measurement was made on. What cannot be found out is a question mark.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

/// A machine, how busy it was, and the programs that ran.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// How many of its cores this process may use.
    pub cores: usize,
    /// The machine's memory.
    pub memory: String,
    /// Kernel and its release.
    pub kernel: String,
    /// The file system of temporary folders.
    pub disk: String,
    /// What ran, each as `name version`.
    pub versions: Vec<String>,
    /// Load averages when the table was begun.
    pub load: String,
    /// When that was, UTC.
    pub date: String,
}

impl Machine {
    /// This machine now, with the versions of what is always there.
    pub fn now() -> Self {
        let load = line_of("/proc/loadavg", "");
        Self {
            cpu: line_of("/proc/cpuinfo", "model name"),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory: memory(&line_of("/proc/meminfo", "MemTotal")),
            kernel: format!("Linux {}", line_of("/proc/sys/kernel/osrelease", "")),
            disk: disk_of(&std::env::temp_dir()),
            versions: own_versions(),
            load: load.split(' ').take(3).collect::<Vec<_>>().join(" "),
            date: chrono::Utc::now().format("%Y-%m-%d %H:%M").to_string(),
        }
    }

    /// The machine in one line, without date and load.
    pub fn text(&self) -> String {
        let Self { cpu, cores, memory, kernel, disk, versions, .. } = self;
        format!("{cores} cores ({cpu}), {memory}, {kernel}, temporary folders on {disk}; {}", versions.join(", "))
    }
}

/// The folder of the workspace.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), Path::to_owned)
}

/// The first line that a command prints, of what it is asked.
pub fn first_line(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next().map(|line| line.trim().to_owned())?;
    (output.status.success() && !line.is_empty()).then_some(line)
}

fn own_versions() -> Vec<String> {
    let unknown = || "?".to_owned();
    let commit = Command::new("git").args(["describe", "--always", "--dirty"]).current_dir(workspace()).output().ok();
    let commit = commit.filter(|output| output.status.success());
    let commit = commit.map_or_else(unknown, |output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    let rustc = first_line(Command::new("rustc").arg("--version")).unwrap_or_else(unknown);
    let rustc = rustc.split(' ').take(2).collect::<Vec<_>>().join(" ");
    let lock = std::fs::read_to_string(workspace().join("Cargo.lock")).unwrap_or_default();
    let tonic = locked_version(&lock, "tonic").unwrap_or_else(unknown);
    vec![format!("mmapd {commit}"), rustc, format!("tonic {tonic}")]
}

/// The version of a package in the text of a `Cargo.lock`.
fn locked_version(lock: &str, package: &str) -> Option<String> {
    let name = format!("name = \"{package}\"");
    let mut lines = lock.lines().skip_while(|line| *line != name);
    let version = lines.nth(1)?.strip_prefix("version = ")?;
    Some(version.trim_matches('"').to_owned())
}

fn line_of(file: &str, key: &str) -> String {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix(key));
    value.map_or("?", |value| value.trim_start_matches([' ', '\t', ':'])).trim_end().to_owned()
}

fn memory(kib: &str) -> String {
    let kib: Option<f64> = kib.trim_end_matches(" kB").parse().ok();
    kib.map_or_else(|| "?".to_owned(), |kib| format!("{:.0} GiB", kib / f64::from(1 << 20)))
}

/// The kind of file system that a folder lies on.
fn disk_of(folder: &Path) -> String {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let covering = fields.filter(|fields| fields.len() > 2 && folder.starts_with(fields[1]));
    covering.max_by_key(|fields| fields[1].len()).map_or_else(|| "?".to_owned(), |fields| fields[2].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_told_with_what_ran_on_it() {
        let machine = Machine::now();
        assert!(machine.cores > 0);
        assert!(machine.text().contains("tonic 0."), "{}", machine.text());
    }

    #[test]
    fn a_packages_version_is_read_out_of_the_lock_file() {
        let lock = "[[package]]\nname = \"tonic-health\"\nversion = \"1.0.0\"\n\n[[package]]\nname = \"tonic\"\nversion = \"0.14.9\"\n";
        assert_eq!(locked_version(lock, "tonic"), Some("0.14.9".to_owned()));
        assert_eq!(locked_version(lock, "hyper"), None);
    }
}
