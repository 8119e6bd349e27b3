//! Real mmap(2) of a file that others serve: what a mount costs. It runs in a process of its own (`bench-peer mapped`),
//! because a mount that fails under a mapping ends the process that touches it (SIGBUS).

use std::fs::File;
use std::hint::black_box;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use memmap2::{Mmap, MmapMut};
use serde::{Deserialize, Serialize};

use crate::child::profile_dir;
use crate::cpu;
use crate::load::offset;
use crate::rows::Sample;
use crate::stats::quantile;

const PAGE: usize = 4096;
/// How long one access to a mount may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is done with the mapped file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// So many reads of 4 KiB at random places, from this one on: the median in microseconds.
    Random {
        /// How many.
        reads: u32,
        /// Which places: others for another number.
        seed: u32,
    },
    /// The same after a first pass that is not counted.
    Warm {
        /// How many.
        reads: u32,
        /// Which places.
        seed: u32,
    },
    /// Every byte in order: GiB a second.
    Scan,
    /// The same after a first pass that is not counted.
    WarmScan,
    /// One page written at this place with this byte, and msync: milliseconds.
    Write {
        /// The page's number.
        page: u32,
        /// What it is filled with.
        byte: u8,
    },
}

/// Maps `file` in a process of its own and accesses it.
///
/// # Errors
/// The mount's, the end of that process by a signal included, and that it takes longer than two minutes.
pub fn access(file: &Path, access: Access) -> Result<Sample, String> {
    let json = serde_json::to_string(&access).map_err(|error| error.to_string())?;
    let program = profile_dir()?.join("bench-peer");
    let mut child = Command::new(&program)
        .args(["guard".as_ref(), program.as_os_str(), "mapped".as_ref(), file.as_os_str(), json.as_ref()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("bench-peer cannot be started: {error}"))?;
    let started = Instant::now();
    while matches!(child.try_wait(), Ok(None)) {
        if started.elapsed() > PATIENCE {
            // It may hang in the kernel until the mount is gone; it is not waited for.
            let _ = child.kill();
            return Err(format!("the mount does not answer after {} s", PATIENCE.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("mapping {}: {}: {}", file.display(), output.status, said.trim_end()));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())
}

/// The other side of [`access`]: does it in this process.
///
/// # Errors
/// The file cannot be mapped.
pub fn act(file: &Path, access: Access) -> Result<Sample, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", file.display());
    if let Access::Write { page, byte } = access {
        return write(&mut writable(file).map_err(failed)?, page, byte).map_err(failed);
    }
    let map = readable(file).map_err(failed)?;
    match access {
        Access::Random { reads, seed } => Ok(random(&map, reads, seed)),
        Access::Warm { reads, seed } => {
            random(&map, reads, seed);
            Ok(random(&map, reads, seed))
        }
        Access::Scan => Ok(scan(&map)),
        Access::WarmScan | Access::Write { .. } => {
            scan(&map);
            Ok(scan(&map))
        }
    }
}

#[expect(unsafe_code, reason = "mapping a file is what this file measures")]
fn readable(file: &Path) -> std::io::Result<Mmap> {
    let file = File::open(file)?;
    // SAFETY: nobody else changes the file while this short-lived process reads it, and what it reads is only looked
    // at as plain bytes.
    unsafe { Mmap::map(&file) }
}

#[expect(unsafe_code, reason = "mapping a file is what this file measures")]
fn writable(file: &Path) -> std::io::Result<MmapMut> {
    let file = File::options().read(true).write(true).open(file)?;
    // SAFETY: as above; this process is the file's only writer.
    unsafe { MmapMut::map_mut(&file) }
}

fn timed(work: impl FnOnce() -> f64, operations: f64) -> Sample {
    let own = cpu::own();
    let value = work();
    Sample { value, client_cpu: Some((cpu::own() - own) * 1e6 / operations), server_cpu: None }
}

fn random(map: &[u8], reads: u32, seed: u32) -> Sample {
    let mut page = [0u8; PAGE];
    let mut times = Vec::with_capacity(reads as usize);
    let read = || {
        for number in 0..reads {
            let place = offset(u64::from(seed) << 20 | u64::from(number), PAGE as u64, map.len() as u64);
            let start = usize::try_from(place).unwrap_or(0);
            let asked = Instant::now();
            page.copy_from_slice(&map[start..start + PAGE]);
            times.push(asked.elapsed().as_secs_f64() * 1e6);
            black_box(&page);
        }
        quantile(&mut times, 500).unwrap_or(f64::NAN)
    };
    timed(read, f64::from(reads))
}

fn scan(map: &[u8]) -> Sample {
    let mut piece = vec![0u8; 1 << 20];
    let mib = f64::from(u32::try_from(map.len() >> 20).unwrap_or(u32::MAX));
    let read = || {
        let started = Instant::now();
        for part in map.chunks(piece.len()) {
            piece[..part.len()].copy_from_slice(part);
            black_box(&piece);
        }
        mib / 1024.0 / started.elapsed().as_secs_f64()
    };
    timed(read, mib)
}

fn write(map: &mut MmapMut, page: u32, byte: u8) -> std::io::Result<Sample> {
    let (own, started, start) = (cpu::own(), Instant::now(), page as usize * PAGE);
    map[start..start + PAGE].fill(byte);
    map.flush_range(start, PAGE)?;
    let value = started.elapsed().as_secs_f64() * 1e3;
    Ok(Sample { value, client_cpu: Some((cpu::own() - own) * 1e6), server_cpu: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_and_written_through_its_mapping() {
        let folder = tempfile::tempdir().expect("the temporary folder can be written");
        let file = folder.path().join("file");
        std::fs::write(&file, vec![1; 2 << 20]).expect("the folder is ours");
        for access in [Access::Random { reads: 10, seed: 1 }, Access::Warm { reads: 10, seed: 1 }, Access::Scan] {
            let sample = act(&file, access).expect("the file is there");
            assert!(sample.value > 0.0, "{access:?}: {sample:?}");
        }
        act(&file, Access::Write { page: 3, byte: 9 }).expect("the file can be written");
        let bytes = std::fs::read(&file).expect("the file is there");
        assert!(bytes[3 * PAGE..4 * PAGE].iter().all(|byte| *byte == 9) && bytes[4 * PAGE] == 1);
        assert!(act(&folder.path().join("missing"), Access::Scan).is_err());
    }
}
