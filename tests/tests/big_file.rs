//! A real file of more than 100 MB on S3, the compiler's own library: read at 10,000 random places and once
//! in full, written at 1,000 random places, synced, and read back by boto3.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use mmap_proto::v1;
use mmap_tests::mmapd::Setup;
use mmap_tests::moto::Moto;
use mmap_tests::random::Random;
use mmap_tests::rclone::Rclone;
use mmap_tests::require::available;
use mmap_tests::wire::{Caller, map_request};
use tokio::task::JoinSet;

const SIZE_MIN: u64 = 100_000_000;
const READS: u64 = 10_000;
/// So many of them come before the file is read in full, each from the store: moto takes 0.12 s for any GET of an
/// object of this size, because it copies all of it, and 10,000 would take 5 minutes.
const COLD_READS: u64 = 300;
const WRITES: u64 = 1_000;
const RANGE_MAX: u64 = 10_000;
const CHUNK: u64 = 4 << 20;
const KEY: &str = "big/compiler";
/// Callers at a time.
const CALLERS: u64 = 4;

/// The largest `librustc_driver` of the toolchain.
fn compiler_library() -> PathBuf {
    let output = Command::new("rustc").args(["--print", "sysroot"]).output().unwrap();
    let sysroot = PathBuf::from(String::from_utf8(output.stdout).unwrap().trim());
    let mut files: Vec<(u64, PathBuf)> = std::fs::read_dir(sysroot.join("lib"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file() && path.to_string_lossy().contains("librustc_driver"))
        .map(|path| (path.metadata().unwrap().len(), path))
        .collect();
    files.sort();
    let (size, path) = files.pop().expect("the toolchain has a compiler library");
    assert!(size >= SIZE_MIN, "{} has only {size} bytes", path.display());
    path
}

fn slice(bytes: &[u8], offset: u64, length: u64) -> &[u8] {
    let (start, end) = (usize::try_from(offset).unwrap(), usize::try_from(offset + length).unwrap());
    &bytes[start..end]
}

/// Reads `count` random ranges, by several callers at a time, and compares each.
async fn read_at_random(caller: &Caller, id: u64, original: &Arc<Vec<u8>>, count: u64) {
    let mut tasks = JoinSet::new();
    for worker in 0..CALLERS {
        let (caller, original) = (caller.clone(), Arc::clone(original));
        tasks.spawn(async move {
            let mut random = Random::seeded(0xB16 + count + worker);
            for _ in 0..count / CALLERS {
                let length = 1 + random.below(RANGE_MAX);
                let offset = random.below(original.len() as u64 - length);
                let data = caller.read(id, offset, length).await.unwrap();
                assert!(data == slice(&original, offset, length), "{length} bytes at {offset} differ");
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

/// Reads all of it in order, by the largest messages, and compares each.
async fn read_in_full(caller: &Caller, id: u64, original: &[u8]) {
    let size = original.len() as u64;
    for offset in (0..size).step_by(usize::try_from(CHUNK).unwrap()) {
        let length = CHUNK.min(size - offset);
        let data = caller.read(id, offset, length).await.unwrap();
        assert!(data == slice(original, offset, length), "{length} bytes at {offset} differ");
    }
}

/// Writes at `WRITES` random places, to the mapping and to `expected`.
async fn write_at_random(caller: &Caller, id: u64, expected: &mut [u8]) {
    let mut random = Random::seeded(0x3217E);
    for _ in 0..WRITES {
        let length = usize::try_from(1 + random.below(RANGE_MAX)).unwrap();
        let data = random.bytes(length);
        let offset = random.below((expected.len() - length) as u64);
        assert_eq!(caller.write(id, offset, data.clone()).await.unwrap(), length as u64);
        let start = usize::try_from(offset).unwrap();
        expected[start..start + length].copy_from_slice(&data);
    }
}

async fn map_all(caller: &Caller, path: &str, prot: u32, size: u64) -> u64 {
    let request = v1::MmapRequest { length: None, prot, ..map_request(path, 0) };
    let mapped = caller.mmap(request).await.unwrap();
    assert_eq!((mapped.length, mapped.file_size), (size, size));
    mapped.mmap_id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_file_on_s3_is_read_written_and_synced_byte_for_byte() {
    let Some(moto) = available(Moto::start()) else { return };
    let library = compiler_library();
    let mut expected = std::fs::read(&library).unwrap();
    let size = expected.len() as u64;
    moto.python(&format!("s3.upload_file({:?}, {:?}, {KEY:?})", library.display().to_string(), Moto::BUCKET));
    let setup = Setup::new().mount("/s3", &moto.mount_url("big")).envs(Moto::ENV).args(["--memory", "512MiB"]);
    let server = setup.start();
    let caller = Caller::connect(server.addr(), 1).await;
    let id = map_all(&caller, "/s3/compiler", 3, size).await;

    let original = Arc::new(expected.clone());
    read_at_random(&caller, id, &original, COLD_READS).await;
    let stats = caller.stats(id).await.unwrap();
    assert!(stats.major_faults >= COLD_READS / 2, "hardly anything came from the store: {stats:?}");
    read_in_full(&caller, id, &original).await;
    read_at_random(&caller, id, &original, READS - COLD_READS).await;
    write_at_random(&caller, id, &mut expected).await;
    assert!(caller.stats(id).await.unwrap().dirty_bytes > 0, "nothing is unsynced, so msync proves nothing");
    caller.msync(id).await.unwrap();
    assert_eq!(caller.stats(id).await.unwrap().dirty_bytes, 0);
    let object = moto.object(KEY);
    assert_eq!(object.len(), expected.len());
    assert!(object == expected, "boto3 reads other bytes than were written");
}

/// Over rclone, whose GETs take some milliseconds, and through which nothing is written: every block comes from the
/// store, some of them again and again, because the cache holds less than the file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_file_on_s3_is_read_at_random_through_a_cache_smaller_than_it() {
    let root = tempfile::tempdir().unwrap();
    let Some(rclone) = available(Rclone::start(root.path())) else { return };
    let library = compiler_library();
    std::fs::copy(&library, root.path().join(Rclone::BUCKET).join("compiler")).unwrap();
    let original = Arc::new(std::fs::read(&library).unwrap());
    let url = format!("{}&ro", rclone.mount_url());
    let server = Setup::new().mount("/s3", &url).envs(Rclone::ENV).args(["--memory", "128MiB"]).start();
    let caller = Caller::connect(server.addr(), 1).await;
    let id = map_all(&caller, "/s3/compiler", 1, original.len() as u64).await;
    read_at_random(&caller, id, &original, READS).await;
    let stats = caller.stats(id).await.unwrap();
    assert!(stats.resident_bytes < original.len() as u64 / 2, "the cache holds most of it: {stats:?}");
    assert!(stats.major_faults > original.len() as u64 / (64 << 10), "few blocks came from the store: {stats:?}");
}
