//! Changes in place: what they cost, who may read meanwhile, and records that must not be applied.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt as _, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex};
use tempfile::TempDir;

use super::copy::Cancelled;
use super::disk::{Disk, Interpose, Step};
use super::faults::FaultyDisk;
use super::root::Root;
use super::*;
use crate::vfs::conformance::{Bench, run_all};
use crate::vfs::store::{Base, CommitId, Patch};

const MIB: u64 = 1024 * 1024;
/// How long a thread of a test waits for another.
const DEADLINE: std::time::Duration = std::time::Duration::from_secs(20);

/// A layout that changes every file in place that has more bytes than this.
fn layout(folder: &Path, rewrite_max: u64, disk: Disk) -> LocalLayout {
    let root = Root::open(folder, false, disk).expect("it opens");
    LocalLayout::started(Root { rewrite_max, ..root })
}

fn patched(stat: &Stat, size: u64, patches: &[(u64, &'static [u8])]) -> WriteBack {
    let patch = |&(offset, data)| Patch { offset, data: Bytes::from_static(data), dirty: true };
    let base = Base::At { version: stat.version.clone(), size: stat.size };
    WriteBack { base, size, patches: patches.iter().map(patch).collect(), commit: CommitId::random() }
}

/// What this thread has had written to disks.
fn disk_bytes() -> u64 {
    let io = fs::read_to_string("/proc/thread-self/io").expect("Linux counts them");
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).expect("it has the line");
    line.parse().expect("a number")
}

#[tokio::test]
async fn the_layout_local_keeps_every_promise_when_each_change_is_in_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let [store, other] = [(), ()].map(|()| layout(folder.path(), 0, Disk::default()));
    run_all(&Bench::new(&store, &other, "")).await;
    let left = fs::read_dir(folder.path().join(".mmapd-redo")).expect("changes were made in place").count();
    assert_eq!(left, 0, "a record is left");
}

#[test]
fn four_kib_in_a_file_of_one_gib_write_at_most_64_kib_to_the_disk() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("file");
    let file = fs::File::options().read(true).write(true).create_new(true).open(&path).expect("a file");
    // Enough that is no hole for a rewrite to be seen.
    file.write_all_at(&vec![7; 16 << 20], 512 * MIB).expect("it is filled");
    file.set_len(1024 * MIB).expect("it is sparse");
    file.sync_all().expect("it is synced");
    let counted = Arc::new(Count::default());
    let root = Root::open(folder.path(), false, Disk { interposed: Some(counted.clone()) }).expect("it opens");
    let cancelled = Cancelled::default();
    let inode = fs::metadata(&path).expect("there").ino();
    for (offset, page) in [(513 * MIB, [1; 4096]), (3 * MIB, [2; 4096])] {
        let stat = root.stat(Path::new("file"), &cancelled).expect("there");
        let base = Base::At { version: stat.version, size: stat.size };
        let patches = vec![Patch { offset, data: Bytes::copy_from_slice(&page), dirty: true }];
        let change = WriteBack { base, size: 1024 * MIB, patches, commit: CommitId::random() };
        let (before, counted_before) = (disk_bytes(), counted.0.load(Ordering::Relaxed));
        let started = std::time::Instant::now();
        root.write_back(Path::new("file"), change, &cancelled).expect("changed");
        let (disk, asked) = (disk_bytes() - before, counted.0.load(Ordering::Relaxed) - counted_before);
        println!("4 KiB in 1 GiB: {asked} bytes asked for, {disk} counted by the kernel, {:?}", started.elapsed());
        assert!(asked >= 8192, "record and file are written: {asked}");
        assert!(asked <= 64 * 1024 && disk <= 64 * 1024, "{asked} bytes, {disk} to the disk");
        let mut read = [0; 4096];
        file.read_exact_at(&mut read, offset).expect("read");
        assert_eq!(read, page);
    }
    assert_eq!(fs::metadata(&path).expect("there").ino(), inode, "the file was replaced");
}

/// Counts the bytes that go to files, and makes every step.
#[derive(Debug, Default)]
struct Count(AtomicU64);

impl Interpose for Count {
    fn step(&self, step: Step<'_>, make: &mut dyn FnMut() -> std::io::Result<()>) -> std::io::Result<()> {
        if let Step::Write(_, range) = step {
            self.0.fetch_add(range.len(), Ordering::Relaxed);
        }
        make()
    }
}

/// Holds the first write behind the given number of steps until it is let go.
#[derive(Debug)]
struct Gate {
    steps: Mutex<(usize, bool)>,
    held: Condvar,
    hold_at: usize,
}

impl Interpose for Gate {
    fn step(&self, _step: Step<'_>, make: &mut dyn FnMut() -> std::io::Result<()>) -> std::io::Result<()> {
        let mut steps = self.steps.lock();
        steps.0 += 1;
        self.held.notify_all();
        while steps.0 == self.hold_at && !steps.1 {
            assert!(!self.held.wait_for(&mut steps, DEADLINE).timed_out(), "nobody lets it go");
        }
        drop(steps);
        make()
    }
}

/// Steps of a change in place before the record is put in its place, counting the two folders that are made.
fn steps_until_half_done(folder: &Path) -> usize {
    // The step that writes the second patch is the last but seven: cut, data, time, mark, sync, name, folder.
    let counted = FaultyDisk::new(folder, None);
    let scratch = tempfile::tempdir().expect("a folder");
    fs::write(scratch.path().join("file"), vec![1; 300_000]).expect("a file");
    let root = Root { rewrite_max: 0, ..Root::open(scratch.path(), false, counted.disk()).expect("it opens") };
    let stat = root.stat(Path::new("file"), &Cancelled::default()).expect("there");
    let change = patched(&stat, 300_000, &[(10, b"first"), (70_000, b"second")]);
    root.write_back(Path::new("file"), change, &Cancelled::default()).expect("changed");
    counted.steps() - 7
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_beside_a_change_in_place_does_not_wait_and_one_of_its_bytes_sees_no_mixture() {
    let folder = tempfile::tempdir().expect("a folder");
    let hold_at = steps_until_half_done(tempfile::tempdir().expect("a folder").path()) + 1;
    let gate = Arc::new(Gate { steps: Mutex::default(), held: Condvar::new(), hold_at });
    fs::write(folder.path().join("file"), vec![1; 300_000]).expect("a file");
    let store = Arc::new(layout(folder.path(), 0, Disk { interposed: Some(gate.clone()) }));
    let other = layout(folder.path(), 0, Disk::default());
    let before = store.stat("file").await.expect("there");
    let change = patched(&before, 300_000, &[(10, b"first"), (70_000, b"second")]);
    let write = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.write_back("file", change).await }
    });
    tokio::task::spawn_blocking({
        let gate = Arc::clone(&gate);
        move || {
            let mut steps = gate.steps.lock();
            while steps.0 < gate.hold_at {
                assert!(!gate.held.wait_for(&mut steps, DEADLINE).timed_out(), "it does not come so far");
            }
        }
    })
    .await
    .expect("it is held");
    let half = fs::read(folder.path().join("file")).expect("there");
    assert_eq!((&half[10..15], half[70_000]), (&b"first"[..], 1), "it is not half-done");
    // Blocks that the change leaves alone.
    let beside = ByteRange::new(131_072, 300_000);
    assert_eq!(store.read("file", &before.version, beside).await.expect("it is read").concat(), [1; 168_928]);
    // Blocks that it writes, and another server, which cannot know them.
    for (store, range) in [(&*store, ByteRange::new(0, 65_536)), (&other, beside)] {
        let read = store.read("file", &before.version, range).await;
        assert!(matches!(read, Err(StoreFault::Changed)), "{read:?}");
    }
    // A change from the same version, and a question that cannot be answered yet.
    let late = patched(&before, 200_000, &[]);
    let mut waiting = [&*store, &other].map(|store| Box::pin(store.stat("file")));
    let mut late = Box::pin(other.write_back("file", late));
    let waits = std::time::Duration::from_millis(100);
    for stat in &mut waiting {
        assert!(tokio::time::timeout(waits, stat).await.is_err(), "it answers for a half-done file");
    }
    assert!(tokio::time::timeout(waits, &mut late).await.is_err());
    gate.steps.lock().1 = true;
    gate.held.notify_all();
    let after = write.await.expect("it runs").expect("it is changed");
    for stat in waiting {
        assert_eq!(stat.await.expect("there"), after);
    }
    assert!(matches!(late.await, Err(StoreFault::Changed)));
    let now = store.read("file", &after.version, ByteRange::new(0, 300_000)).await.expect("read").concat();
    assert_eq!((&now[10..15], &now[70_000..70_006]), (&b"first"[..], &b"second"[..]));
}

/// A folder with a file that a killed server left half-done, and its content when it is finished.
fn half_done() -> (TempDir, PathBuf, Vec<u8>) {
    let folder = tempfile::tempdir().expect("a folder");
    let stop_at = steps_until_half_done(tempfile::tempdir().expect("a folder").path());
    fs::write(folder.path().join("file"), vec![1; 300_000]).expect("a file");
    let aside = tempfile::tempdir().expect("a folder");
    let disk = FaultyDisk::new(aside.path(), Some(stop_at));
    let root = Root { rewrite_max: 0, ..Root::open(folder.path(), false, disk.disk()).expect("it opens") };
    let stat = root.stat(Path::new("file"), &Cancelled::default()).expect("there");
    let change = patched(&stat, 300_000, &[(10, b"first"), (70_000, b"second")]);
    assert!(root.write_back(Path::new("file"), change, &Cancelled::default()).is_err());
    let mut whole = vec![1; 300_000];
    whole[10..15].copy_from_slice(b"first");
    whole[70_000..70_006].copy_from_slice(b"second");
    let mut records = fs::read_dir(folder.path().join(".mmapd-redo")).expect("there is one");
    let record = records.next().expect("a record").expect("it is read").path();
    assert!(fs::read(folder.path().join("file")).expect("there") != whole);
    (folder, record, whole)
}

#[tokio::test]
async fn a_half_done_change_is_finished_by_who_looks_at_the_file_by_any_of_its_names() {
    for name in ["file", "link", "hard", "sub/moved"] {
        let (folder, record, whole) = half_done();
        let at = |name| folder.path().join(name);
        assert_eq!(fs::metadata(&record).expect("there").permissions().mode() & 0o777, 0o600);
        // Opened before it has anything to finish.
        let hidden = folder.path().join("hidden");
        fs::rename(&record, &hidden).expect("hidden");
        let store = layout(folder.path(), 0, Disk::default());
        fs::rename(&hidden, &record).expect("shown");
        match name {
            "link" => std::os::unix::fs::symlink("file", at(name)).expect("a link"),
            "hard" => fs::hard_link(at("file"), at(name)).expect("a link"),
            "sub/moved" => {
                fs::create_dir(at("sub")).expect("a folder");
                fs::rename(at("file"), at(name)).expect("moved");
            }
            _ => {}
        }
        let stat = store.stat(name).await.expect("it is finished");
        assert!(stat.commit.is_some(), "{name}: without its mark it looks like somebody else's");
        let range = ByteRange::new(0, 300_000);
        assert!(store.read(name, &stat.version, range).await.expect("it is read").concat() == whole, "{name}");
        assert!(!record.exists(), "{name}");
    }
}

#[tokio::test]
async fn a_half_done_file_is_not_shown_by_a_folder_that_may_only_be_read() {
    let (folder, record, whole) = half_done();
    let store = LocalLayout::open_read_only(folder.path()).expect("it opens");
    let stat = store.stat("file").await;
    assert!(matches!(&stat, Err(StoreFault::Failed(why, _)) if why.contains("for writing once")), "{stat:?}");
    assert!(record.exists() && fs::read(folder.path().join("file")).expect("there") != whole);
    LocalLayout::open(folder.path()).expect("it opens");
    assert!(store.stat("file").await.is_ok());
    assert!(fs::read(folder.path().join("file")).expect("there") == whole);
}

#[tokio::test]
async fn a_record_is_not_applied_to_what_others_put_in_the_files_place() {
    // Another file of the same name; the same inode with another content.
    for replace in [true, false] {
        let (folder, record, _) = half_done();
        let path = folder.path().join("file");
        if replace {
            fs::write(folder.path().join("new"), "theirs").expect("a file");
            fs::rename(folder.path().join("new"), &path).expect("it is replaced");
        } else {
            fs::write(&path, "theirs").expect("it is rewritten");
        }
        let store = LocalLayout::open(folder.path()).expect("it opens");
        assert_eq!(store.stat("file").await.expect("there").size, 6);
        assert_eq!(fs::read(&path).expect("there"), b"theirs");
        // The half-done file may have another name elsewhere.
        assert_eq!(record.exists(), replace);
    }
}

#[tokio::test]
async fn a_record_is_not_applied_to_what_others_made_of_a_complete_file() {
    let (folder, record, whole) = half_done();
    let kept = folder.path().join("kept");
    fs::copy(&record, &kept).expect("kept");
    let store = LocalLayout::open(folder.path()).expect("it opens");
    let path = folder.path().join("file");
    assert!(fs::read(&path).expect("there") == whole);
    // As if the process had been killed right before it removed the record; then somebody changes the file.
    fs::rename(&kept, &record).expect("there again");
    let file = fs::File::options().write(true).open(&path).expect("there");
    file.write_all_at(b"theirs", 10).expect("it is changed");
    let stat = store.stat("file").await.expect("there");
    assert_eq!((stat.commit, record.exists()), (None, false));
    assert_eq!(&fs::read(&path).expect("there")[10..16], b"theirs");
}

#[tokio::test]
async fn a_record_that_is_damaged_or_of_a_newer_format_is_said_and_touches_nothing() {
    for (at, newer) in [(8, true), (0, false), (20, false), (75, false), (90, false), (usize::MAX, false)] {
        let (folder, record, _) = half_done();
        let mut bytes = fs::read(&record).expect("there");
        if at == usize::MAX {
            bytes.pop();
        } else {
            bytes[at] ^= 0x40;
        }
        fs::write(&record, &bytes).expect("it is damaged");
        let before = fs::read(folder.path().join("file")).expect("there");
        let store = LocalLayout::open(folder.path()).expect("it opens all the same");
        match store.stat("file").await {
            Err(StoreFault::Unsupported(why)) => assert!(newer && why.contains("newer"), "{at}: {why}"),
            Err(StoreFault::Corrupt(why)) => assert!(!newer && why.contains(".mmapd-redo"), "{at}: {why}"),
            other => panic!("{at}: {other:?}"),
        }
        assert!(fs::read(folder.path().join("file")).expect("there") == before && record.exists());
        assert_eq!(store.list("", None, 9).await.expect("a list").len(), 1, "the others are still listed");
    }
}
