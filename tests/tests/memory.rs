//! What mapping and reading cost in the server's resident memory.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::fs::File;
use std::time::Duration;

use mmap_proto::v1;
use mmap_tests::mmapd::{Mmapd, Setup};
use mmap_tests::wire::{Caller, map_request};

const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;
const PAGE: u64 = 4096;

/// What a server with a budget of 64 MiB may use beyond it: its code and read-only data (about 15 MiB of
/// binary), the runtime's stacks, the gRPC windows (4 MiB a connection) and messages under way (some of
/// 4 MiB), and what the allocator holds back.
const OVERHEAD: u64 = 40 * MIB;

fn sparse_server(size: u64, args: &[&str]) -> (Mmapd, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    File::create(folder.path().join("sparse")).unwrap().set_len(size).unwrap();
    let server = Setup::new().mount("/", &format!("file://{}", folder.path().display())).args(args).start();
    (server, folder)
}

/// The resident bytes once they have come to rest: the least of a few looks.
async fn settled(server: &Mmapd) -> u64 {
    let mut least = u64::MAX;
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        least = least.min(server.resident_bytes());
    }
    least
}

#[tokio::test]
async fn mapping_1_tib_and_touching_three_pages_costs_less_than_1_mib() {
    let (server, folder) = sparse_server(TIB, &[]);
    // The first calls of a server load code and make buffers; that is not what is measured here.
    std::fs::write(folder.path().join("warm"), vec![1; 1 << 20]).unwrap();
    let caller = Caller::connect(server.addr(), 1).await;
    let warm = caller.map_shared("/warm", MIB).await;
    for index in 0..100 {
        caller.read(warm, index * PAGE, PAGE).await.unwrap();
        caller.write(warm, index * PAGE, vec![1; 10]).await.unwrap();
        caller.msync(warm).await.unwrap();
    }
    caller.munmap(warm).await.unwrap();

    // Several, because the allocator takes memory in steps of 2 MiB, whatever one of them costs.
    const FILES: u64 = 8;
    for file in 0..FILES {
        File::create(folder.path().join(format!("sparse-{file}"))).unwrap().set_len(TIB).unwrap();
    }
    let before = settled(&server).await;
    let mut mapped = Vec::new();
    for file in 0..FILES {
        let request = v1::MmapRequest { length: None, ..map_request(&format!("/sparse-{file}"), 0) };
        let answer = caller.mmap(request).await.unwrap();
        assert_eq!(answer.length, TIB);
        for offset in [0, TIB / 2, TIB - PAGE] {
            assert_eq!(caller.read(answer.mmap_id, offset, PAGE).await.unwrap(), vec![0; 4096]);
        }
        mapped.push(answer.mmap_id);
    }
    let after = settled(&server).await;
    eprintln!("resident: {before} before, {after} after {FILES} of them");
    assert!(after <= before + FILES * MIB, "{before} bytes before, {after} after: {} more", after - before);
    for id in mapped {
        let stats = caller.stats(id).await.unwrap();
        assert!(stats.resident_bytes <= 3 * 64 * 1024, "{stats:?}");
    }
}

#[tokio::test]
async fn a_scan_of_1_gib_stays_within_a_budget_of_64_mib() {
    const SIZE: u64 = 1 << 30;
    let (server, _folder) = sparse_server(SIZE, &["--memory", "64MiB"]);
    let caller = Caller::connect(server.addr(), 1).await;
    let id = caller.map_shared("/sparse", SIZE).await;
    let mut most = 0;
    for offset in (0..SIZE).step_by(4 << 20) {
        let data = caller.read(id, offset, 4 * MIB).await.unwrap();
        assert_eq!(data.len() as u64, 4 * MIB);
        most = most.max(server.resident_bytes());
    }
    eprintln!("resident: {most} at most");
    assert!(most < 64 * MIB + OVERHEAD, "{} MiB", most / MIB);
    let stats = caller.stats(id).await.unwrap();
    assert!(stats.resident_bytes <= 64 * MIB, "{stats:?}");
    assert!(stats.resident_bytes > 0 && stats.major_faults > 0, "nothing was cached: {stats:?}");
}
