//! The layout `log` over the wire: servers of one database, and what is not a database of ours.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::time::Duration;

use mmap_proto::reason::Reason;
use mmap_proto::v1;
use mmap_tests::failure::expect;
use mmap_tests::mmapd::{Mmapd, Setup};
use mmap_tests::moto::Moto;
use mmap_tests::rclone::Rclone;
use mmap_tests::require::available;
use mmap_tests::wire::{Caller, map_request};

const REFUSAL_DEADLINE: Duration = Duration::from_secs(30);

fn serve(moto: &Moto, folder: &str, options: &str) -> Mmapd {
    let url = format!("{}&layout=log{options}", moto.mount_url(folder));
    Setup::new().mount("/db", &url).envs(Moto::ENV).start()
}

/// The whole file as a server shows it.
async fn content(server: &Mmapd, path: &str) -> Vec<u8> {
    let caller = Caller::connect(server.addr(), 9).await;
    let size = caller.stat_file(path).await.unwrap().size;
    let mapped = caller.mmap(v1::MmapRequest { prot: 1, ..map_request(path, size) }).await.unwrap();
    let bytes = caller.read(mapped.mmap_id, 0, size).await.unwrap();
    caller.munmap(mapped.mmap_id).await.unwrap();
    bytes.to_vec()
}

#[tokio::test]
async fn a_second_server_fences_the_first_and_the_data_is_its_own() {
    let Some(moto) = available(Moto::start()) else { return };
    let older = serve(&moto, "fenced", "");
    let old = Caller::connect(older.addr(), 1).await;
    let mapped = old.map_shared("/db/file", 8192).await;
    old.write(mapped, 0, &b"older, synced"[..]).await.unwrap();
    old.msync(mapped).await.unwrap();

    let newer = serve(&moto, "fenced", "");
    assert!(content(&newer, "/db/file").await.starts_with(b"older, synced"));
    old.write(mapped, 0, &b"older, too late"[..]).await.unwrap();
    for _ in 0..2 {
        let fenced = expect(Reason::RoFs, old.msync(mapped).await);
        assert!(fenced.message.contains("another server has opened this mount since"), "{fenced:?}");
        assert!(fenced.message.contains("restart this one or stop the other"), "{fenced:?}");
    }
    let kept = old.read(mapped, 0, 15).await.unwrap();
    assert_eq!(kept, &b"older, too late"[..], "its unsynced pages stay");

    let new = Caller::connect(newer.addr(), 1).await;
    let mapped = new.map_shared("/db/file", 8192).await;
    new.write(mapped, 0, &b"newer, and stored"[..]).await.unwrap();
    new.msync(mapped).await.unwrap();
    expect(Reason::RoFs, old.stat_file("/db/file").await);

    let third = serve(&moto, "fenced", "&ro");
    for server in [&newer, &third] {
        let found = content(server, "/db/file").await;
        assert_eq!((found.len(), &found[..17]), (8192, &b"newer, and stored"[..]));
    }
}

#[tokio::test]
async fn a_killed_server_loses_nothing_that_was_synced() {
    let Some(moto) = available(Moto::start()) else { return };
    for round in 1..=3u8 {
        let server = serve(&moto, "killed", "");
        let caller = Caller::connect(server.addr(), 1).await;
        if round > 1 {
            let found = content(&server, "/db/file").await;
            assert!(found.len() == 1 << 20 && found[..100_000].iter().all(|byte| *byte == round - 1), "round {round}");
        }
        let mapped = caller.map_shared("/db/file", 1 << 20).await;
        caller.write(mapped, 0, vec![round; 100_000]).await.unwrap();
        caller.msync(mapped).await.unwrap();
        caller.write(mapped, 0, vec![99; 100_000]).await.unwrap();
        server.sigkill();
    }
}

#[tokio::test]
async fn what_is_not_a_database_of_ours_is_refused_at_the_start_and_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.txt");
    for (name, text, hint) in [
        ("report.txt", "plain", "name an empty folder for layout=log"),
        ("mmapd-log", "mmapd log 2\n", "use the newer mmapd that made it"),
    ] {
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        let url = format!("file://{}?layout=log", folder.path().display());
        let ended = Setup::new().mount("/db", &url).run_to_end(REFUSAL_DEADLINE);
        assert_eq!(ended.status.code(), Some(2), "{}", ended.stderr);
        assert!(ended.stderr.contains(hint) && ended.stderr.contains("nothing was touched"), "{}", ended.stderr);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        std::fs::remove_file(&file).unwrap();
    }
    assert!(!report.exists());
}

#[tokio::test]
async fn a_store_that_ignores_conditions_is_never_opened_for_writing() {
    let root = tempfile::tempdir().unwrap();
    let Some(rclone) = available(Rclone::start(root.path())) else { return };
    let url = format!("{}&layout=log", rclone.mount_url());
    let server = Setup::new().mount("/db", &url).envs(Rclone::ENV).start();
    let caller = Caller::connect(server.addr(), 1).await;
    let create = v1::TruncateFileRequest { path: "/db/new".to_owned(), create: true, ..Default::default() };
    let refused = expect(Reason::RoFs, caller.truncate(create).await);
    assert!(refused.value("reason").contains("If-None-Match"), "{refused:?}");
    expect(Reason::NoEnt, caller.stat_file("/db/new").await);
    assert_eq!(std::fs::read_dir(root.path().join(Rclone::BUCKET)).unwrap().count(), 0);
}
