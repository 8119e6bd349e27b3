//! The layouts `object` and `log` on S3: they keep every promise of a store on one that honours preconditions, and a
//! server does not write to one that ignores them.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::sync::Arc;

use mmap_core::vfs::FileStore;
use mmap_core::vfs::conformance::{Bench, run_all};
use mmap_core::vfs::log::{LogLayout, LogOptions};
use mmap_core::vfs::object::{ObjectLayout, ObjectOptions};
use mmap_proto::reason::Reason;
use mmap_proto::v1;
use mmap_tests::failure::expect;
use mmap_tests::mmapd::Setup;
use mmap_tests::moto::Moto;
use mmap_tests::rclone::Rclone;
use mmap_tests::require::available;
use mmap_tests::wire::{Caller, map_request};
use object_store::path::Path;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_layout_object_keeps_its_promises_on_s3() {
    let Some(moto) = available(Moto::start()) else { return };
    let root = || Path::from("conformance");
    let store = ObjectLayout::new(Arc::new(moto.store()), root(), ObjectOptions::default());
    // A second client, as another machine would have.
    let other = ObjectLayout::new(Arc::new(moto.store()), root(), ObjectOptions::default());
    run_all(&Bench::new(&store, &other, "")).await;
    let left = moto.python("print(s3.list_objects_v2(Bucket='bucket').get('KeyCount'))");
    assert_eq!(String::from_utf8(left).unwrap().trim(), "0", "the suite leaves objects behind");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_layout_log_keeps_its_promises_on_s3() {
    let Some(moto) = available(Moto::start()) else { return };
    let store = LogLayout::new(Arc::new(moto.store()), Path::from("conformance"), false, LogOptions::default());
    // There is one writer: it is its own outside writer.
    run_all(&Bench::new(&store, &store, "")).await;
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_store_that_takes_stale_writes_is_mounted_read_only_and_said_loudly() {
    let root = tempfile::tempdir().unwrap();
    let Some(rclone) = available(Rclone::start(root.path())) else { return };
    let bucket = root.path().join(Rclone::BUCKET);
    std::fs::write(bucket.join("file"), b"as it was").unwrap();
    let large: Vec<u8> = (0..300_000u32).map(|index| (index % 251) as u8).collect();
    std::fs::write(bucket.join("large"), &large).unwrap();
    let server = Setup::new().mount("/s3", &rclone.mount_url()).envs(Rclone::ENV).start();
    let caller = Caller::connect(server.addr(), 1).await;
    let refused = expect(Reason::RoFs, caller.mmap(map_request("/s3/file", 9)).await);
    assert_eq!(refused.value("mount"), "/s3");
    assert!(refused.value("reason").contains("refused for writing"), "it has to say why: {refused:?}");
    let create = v1::TruncateFileRequest { path: "/s3/new".to_owned(), create: true, ..Default::default() };
    expect(Reason::RoFs, caller.truncate(create).await);
    expect(Reason::RoFs, caller.remove("/s3/file").await);
    // To read it is allowed, although rclone answers a range with the status of a whole.
    assert_eq!(caller.stat_file("/s3/file").await.unwrap().size, 9);
    let mapped = caller.mmap(v1::MmapRequest { prot: 1, ..map_request("/s3/file", 9) }).await.unwrap();
    assert_eq!(caller.read(mapped.mmap_id, 3, 6).await.unwrap(), &b"it was"[..]);
    let mapped = caller.mmap(v1::MmapRequest { prot: 1, ..map_request("/s3/large", 300_000) }).await.unwrap();
    assert!(caller.read(mapped.mmap_id, 65_530, 200_000).await.unwrap() == large[65_530..265_530]);
    let log = server.stderr();
    let loud = log.lines().find(|line| line.contains("WARN") && line.contains("/s3"));
    assert!(loud.is_some_and(|line| line.contains("unsafe-overwrite")), "not said loudly:\n{log}");
    // The probe's object is gone.
    let names: Vec<_> = std::fs::read_dir(&bucket).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

#[tokio::test]
async fn a_store_that_takes_stale_writes_is_written_when_the_mount_says_so() {
    let root = tempfile::tempdir().unwrap();
    let Some(rclone) = available(Rclone::start(root.path())) else { return };
    let url = format!("{}&unsafe-overwrite", rclone.mount_url());
    let server = Setup::new().mount("/s3", &url).envs(Rclone::ENV).start();
    let caller = Caller::connect(server.addr(), 1).await;
    let id = caller.map_shared("/s3/file", 9).await;
    caller.write(id, 0, &b"as I say!"[..]).await.unwrap();
    caller.munmap(id).await.unwrap();
    assert_eq!(std::fs::read(root.path().join(Rclone::BUCKET).join("file")).unwrap(), b"as I say!");
}
