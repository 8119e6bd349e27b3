//! mmapd beside file systems that mount a bucket, used by real mmap(2): `rclone mount --vfs-cache-mode full` and
//! `s3fs`, all over one `rclone serve s3`, with a file of 1 GiB. `cargo bench -p mmap-benches --bench mounts`.
//!
//! A mount gives pointers and keeps what it fetched in this machine's page cache, so that warm reads are memory's;
//! mmapd answers calls, and is shared between machines. What is cold is made so each round: a mount is mounted anew
//! with an empty cache, mmapd's mapping is invalidated.
#![allow(missing_docs, reason = "a bench target has no users")]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::unix::fs::FileExt as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mmap_benches::bucket::{self, Bucket};
use mmap_benches::cpu::Usage;
use mmap_benches::mapped::{Access, access};
use mmap_benches::rows::{Sample, Table, Unit, Who};
use mmap_benches::s3::{Mount, Mounter, S3};
use mmap_benches::topic::{self, Topic};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const FILE: &str = "big";
/// What mmapd writes: to an object that others change under it, it would write nothing.
const WRITTEN: &str = "written";
const OURS: &str = "mmapd, mmap-client";
const OURS_WRITING: &str = "mmapd, layout object";
const MIB: u64 = 1 << 20;
/// How long a store may take to have what was written.
const PATIENCE: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    topic::run("mounts", "Mounts: mmapd beside file systems over the same bucket", |topic| {
        let size = if topic.options().is_quick { 64 * MIB } else { 1024 * MIB };
        let store = S3::start().and_then(|s3| s3.put(FILE, size).map(|()| s3));
        let s3 = match &store {
            Ok(s3) => s3,
            Err(why) => return gaps(topic, why),
        };
        for (name, version) in [("rclone", s3.version()), ("s3fs", Mounter::s3fs_version())] {
            if let Some(version) = version {
                topic.version(name, &version);
            }
        }
        let ours = Bucket::open(s3, FILE);
        cold(topic, s3, &ours);
        warm(topic, s3, &ours);
        drop(ours);
        write(topic, s3, size);
    })
}

fn gaps(topic: &mut Topic, why: &str) {
    let table = Table::new("mounts", "mmapd and mounts over the same S3", Unit::Microseconds);
    let Some(mut contest) = topic.contest(table) else { return };
    contest.gap(OURS, Who::Ours, why);
    Mounter::ALL.iter().for_each(|mounter| contest.gap(mounter.name(), Who::Peer, why));
    contest.run();
}

/// One access to a mounted file, with the CPU of the mount and of the store.
fn through(mount: &Mount, s3: &S3, kind: Access, operations: f64) -> Result<Sample, String> {
    let usage = Usage::of(&[mount.pid(), s3.pid()]);
    let sample = access(&mount.file(FILE), kind)?;
    Ok(Sample { server_cpu: usage.since().map(|seconds| seconds * 1e6 / operations), ..sample })
}

fn cold(topic: &mut Topic, s3: &S3, ours: &Result<Bucket, String>) {
    let reads = if topic.options().is_quick { 20 } else { 100 };
    let table =
        Table::new("cold-random", "Cold random reads of 4 KiB of 1 GiB on S3, 1 at a time, p50", Unit::Microseconds);
    if let Some(mut contest) = topic.contest(table) {
        match ours {
            Ok(it) => contest.row(OURS, Who::Ours, move || {
                it.invalidate()?;
                it.random(reads)
            }),
            Err(why) => contest.gap(OURS, Who::Ours, why),
        }
        for mounter in Mounter::ALL {
            row(&mut contest, mounter, |seed| Access::Random { reads, seed }, s3, f64::from(reads));
        }
        contest.run_without_warm_up();
    }
    let table = Table::new("cold-scan", "Cold scan of 1 GiB on S3", Unit::GibPerSecond);
    if let Some(mut contest) = topic.contest(table) {
        match ours {
            Ok(it) => contest.row(OURS, Who::Ours, move || {
                it.invalidate()?;
                it.scan()
            }),
            Err(why) => contest.gap(OURS, Who::Ours, why),
        }
        let mib = ours.as_ref().map_or(f64::NAN, Bucket::mib);
        for mounter in Mounter::ALL {
            row(&mut contest, mounter, |_| Access::Scan, s3, mib);
        }
        contest.run_without_warm_up();
    }
}

/// A row that mounts anew each round, before the clock starts.
fn row<'a>(
    contest: &mut mmap_benches::contest::Contest<'a>,
    mounter: Mounter,
    kind: impl Fn(u32) -> Access + 'a,
    s3: &'a S3,
    operations: f64,
) {
    if let Err(why) = mounter.check() {
        return contest.gap(mounter.name(), Who::Peer, &why);
    }
    let mut round = 0;
    contest.row(mounter.name(), Who::Peer, move || {
        round += 1;
        through(&mounter.mount(s3)?, s3, kind(round), operations)
    });
}

fn warm(topic: &mut Topic, s3: &S3, ours: &Result<Bucket, String>) {
    if !topic.wants_any(&["warm-random", "warm-scan"]) {
        return;
    }
    let mounts = Mounter::ALL.map(|mounter| (mounter, mounter.mount(s3)));
    let reads = if topic.options().is_quick { 100 } else { 2000 };
    let random = Table::new("warm-random", "Warm random reads of 4 KiB of 1 GiB, 1 at a time, p50", Unit::Microseconds);
    let scan = Table::new("warm-scan", "Warm scan of 1 GiB", Unit::GibPerSecond);
    let mib = ours.as_ref().map_or(f64::NAN, Bucket::mib);
    for (table, kind) in [(random, Access::Warm { reads, seed: 1 }), (scan, Access::WarmScan)] {
        let Some(mut contest) = topic.contest(table) else { continue };
        let is_scan = kind == Access::WarmScan;
        match ours {
            Ok(it) => contest.row(OURS, Who::Ours, move || if is_scan { it.scan() } else { it.random(reads) }),
            Err(why) => contest.gap(OURS, Who::Ours, why),
        }
        let operations = if is_scan { mib } else { f64::from(reads) };
        for (mounter, mount) in &mounts {
            match mount {
                Ok(mount) => contest.row(mounter.name(), Who::Peer, move || through(mount, s3, kind, operations)),
                Err(why) => contest.gap(mounter.name(), Who::Peer, why),
            }
        }
        contest.run();
    }
}

/// A page that was written, and when the store had it: told in two tables.
type Stored = RefCell<VecDeque<Sample>>;

fn write(topic: &mut Topic, s3: &S3, size: u64) {
    if !topic.wants_any(&["write-msync", "write-stored"]) {
        return;
    }
    let note = "The store here ignores preconditions, so mmapd is told `unsafe-overwrite`; `layout=log`, which uploads \
                4.5 KB for this, refuses such a store (ARCHITECTURE.md has its numbers). s3fs is told `nocopyapi`, \
                because this store cannot copy parts.";
    let ours = s3.put(WRITTEN, size).and_then(|()| bucket::writable(s3, WRITTEN, size));
    let names = [OURS_WRITING, Mounter::ALL[0].name(), Mounter::ALL[1].name()].map(|name| (name, Stored::default()));
    let table = Table::new("write-msync", "One page written in 1 GiB on S3, and msync", Unit::Milliseconds).note(note);
    if let Some(mut contest) = topic.contest(table) {
        contest.at_most_rounds(2);
        let (name, stored) = &names[0];
        match &ours {
            Ok(it) => contest.row(name, Who::Ours, move || {
                let sample = it.write_and_sync()?;
                stored.borrow_mut().push_back(sample);
                Ok(sample)
            }),
            Err(why) => contest.gap(name, Who::Ours, why),
        }
        for (mounter, (name, stored)) in Mounter::ALL.into_iter().zip(&names[1..]) {
            match mounter.check() {
                Ok(()) => contest.row(name, Who::Peer, move || mounted_write(mounter, s3, stored)),
                Err(why) => contest.gap(name, Who::Peer, &why),
            }
        }
        contest.run_without_warm_up();
    }
    let title = "The same, until the store has it (a mount's file is closed after msync)";
    if let Some(mut contest) = topic.contest(Table::new("write-stored", title, Unit::Milliseconds)) {
        contest.at_most_rounds(2);
        for (at, (name, stored)) in names.iter().enumerate() {
            let who = if at == 0 { Who::Ours } else { Who::Peer };
            contest
                .row(name, who, move || stored.borrow_mut().pop_front().ok_or_else(|| "it was not written".to_owned()));
        }
        contest.run_without_warm_up();
    }
}

/// Writes through a mount; how long msync took is answered, how long the store took is kept.
fn mounted_write(mounter: Mounter, s3: &S3, stored: &Stored) -> Result<Sample, String> {
    let object = s3.objects().join(FILE);
    let page = 4096u32;
    let at = |byte: &mut [u8; 1]| {
        let file = std::fs::File::open(&object).map_err(|error| error.to_string())?;
        file.read_exact_at(byte, u64::from(page) * 4096).map_err(|error| error.to_string())
    };
    let mut byte = [0];
    at(&mut byte)?;
    let mount = Arc::new(mounter.mount(s3)?);
    let (new, usage, started) = (byte[0].wrapping_add(1), Usage::of(&[mount.pid(), s3.pid()]), Instant::now());
    let synced = access(&mount.file(FILE), Access::Write { page, byte: new })?;
    while started.elapsed() < PATIENCE {
        // While the store replaces the object it may be away.
        if at(&mut byte).is_ok() && byte[0] == new {
            let server_cpu = usage.since().map(|seconds| seconds * 1e6);
            let value = started.elapsed().as_secs_f64() * 1e3;
            stored.borrow_mut().push_back(Sample { value, server_cpu, ..synced });
            return Ok(Sample { server_cpu, ..synced });
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Err(format!("the store does not have the page {} s after msync", PATIENCE.as_secs()))
}
