//! The contract's fine print over the wire: each test is a sentence of it that the tests of the reasons, of bad
//! input and of the ends of processes do not check. What it says of processes is in `process_fine_print.rs`.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::path::PathBuf;
use std::time::Duration;

use mmap_proto::reason::Reason;
use mmap_proto::v1;
use mmap_tests::failure::expect;
use mmap_tests::mmapd::{Mmapd, Setup};
use mmap_tests::wire::{Caller, map_request};
use tempfile::TempDir;

/// A server over a folder that holds `/old` (11 bytes), and process 1 on it.
struct Scene {
    folder: TempDir,
    server: Mmapd,
    caller: Caller,
}

impl Scene {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("old"), b"old content").unwrap();
        let server = Setup::new().mount("/", &format!("file://{}", folder.path().display())).start();
        let caller = Caller::connect(server.addr(), 1).await;
        Self { folder, server, caller }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn stored(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.file(name)).unwrap()
    }

    async fn truncate(&self, path: &str, size: u64) -> v1::TruncateFileResponse {
        self.caller.truncate(v1::TruncateFileRequest { path: path.into(), size, ..Default::default() }).await.unwrap()
    }
}

fn private(path: &str, length: u64) -> v1::MmapRequest {
    v1::MmapRequest { shared: false, ..map_request(path, length) }
}

#[tokio::test]
async fn an_absent_length_maps_to_the_end_and_is_einval_where_nothing_is_left() {
    let scene = Scene::new().await;
    std::fs::write(scene.file("empty"), b"").unwrap();
    let rest = |path: &str, offset| v1::MmapRequest { length: None, offset, ..map_request(path, 0) };
    let mapped = scene.caller.mmap(rest("/old", 4)).await.unwrap();
    assert_eq!((mapped.length, mapped.file_size), (7, 11));
    assert_eq!(scene.caller.read(mapped.mmap_id, 0, 7).await.unwrap(), "content");
    let create = v1::MmapRequest { create: true, ..rest("/new", 0) };
    for request in [rest("/old", 11), rest("/old", 12), rest("/empty", 0), create] {
        let failure = expect(Reason::Inval, scene.caller.mmap(request).await);
        assert_eq!(failure.fields, ["length"]);
    }
    assert!(!scene.file("new").exists(), "a refused create makes nothing");
}

#[tokio::test]
async fn a_mapping_may_reach_behind_the_end_of_an_empty_file_too() {
    let scene = Scene::new().await;
    std::fs::write(scene.file("empty"), b"").unwrap();
    let mapped = scene.caller.mmap(v1::MmapRequest { offset: 9, ..map_request("/empty", 100) }).await.unwrap();
    assert_eq!((mapped.length, mapped.file_size), (100, 0));
    expect(Reason::SigBus, scene.caller.read(mapped.mmap_id, 0, 1).await);
    expect(Reason::SigBus, scene.caller.write(mapped.mmap_id, 0, &b"x"[..]).await);
    assert_eq!(scene.caller.munmap(mapped.mmap_id).await.unwrap(), 0);
    assert_eq!(scene.stored("empty"), b"");
}

#[tokio::test]
async fn create_makes_offset_and_length_zeros_and_leaves_an_existing_size_alone() {
    let scene = Scene::new().await;
    let create = |path: &str| v1::MmapRequest { offset: 5, create: true, ..map_request(path, 10) };
    assert_eq!(scene.caller.mmap(create("/new")).await.unwrap().file_size, 15);
    assert_eq!(scene.stored("new"), [0; 15]);
    assert_eq!(scene.caller.mmap(v1::MmapRequest { length: Some(90), ..create("/old") }).await.unwrap().file_size, 11);
    assert_eq!(scene.stored("old"), b"old content");
}

#[tokio::test]
async fn msync_and_munmap_of_a_private_or_untouched_mapping_sync_0_bytes() {
    let scene = Scene::new().await;
    let caller = &scene.caller;
    let own = caller.mmap(private("/old", 11)).await.unwrap().mmap_id;
    let untouched = caller.map_shared("/old", 11).await;
    let reading = caller.mmap(v1::MmapRequest { prot: 1, ..map_request("/old", 11) }).await.unwrap().mmap_id;
    caller.write(own, 0, &b"OLD"[..]).await.unwrap();
    for id in [own, untouched, reading] {
        for mode in [v1::SyncMode::Unspecified, v1::SyncMode::Sync, v1::SyncMode::Async] {
            let request = v1::MsyncRequest { mmap_id: id, mode: mode.into(), ..Default::default() };
            let synced = caller.msync_with(request).await.unwrap();
            assert_eq!((synced.synced_bytes, synced.version.is_empty()), (0, false));
        }
        assert_eq!(caller.munmap(id).await.unwrap(), 0);
    }
    assert_eq!(scene.stored("old"), b"old content");
}

#[tokio::test]
async fn synced_bytes_are_the_whole_pages_of_the_range_asked_for() {
    let scene = Scene::new().await;
    let caller = &scene.caller;
    let id = caller.map_shared("/pages", 3 * 4096 + 100).await;
    for offset in [4095, 3 * 4096 + 99] {
        caller.write(id, offset, vec![7; if offset == 4095 { 2 } else { 1 }]).await.unwrap();
    }
    let before = caller.stats(id).await.unwrap();
    assert_eq!((before.dirty_bytes, before.version), (3 * 4096, caller.stat_file("/pages").await.unwrap().version));
    let range = v1::MsyncRequest { mmap_id: id, offset: Some(4096), length: Some(1), ..Default::default() };
    assert_eq!(caller.msync_with(range).await.unwrap().synced_bytes, 4096);
    let stored = scene.stored("pages");
    assert_eq!((stored[4095], stored[4096], stored[3 * 4096 + 99]), (0, 7, 0), "no page outside of the range");
    // From an offset to the end of the mapping; then the whole of it.
    let rest = v1::MsyncRequest { mmap_id: id, offset: Some(4096), ..Default::default() };
    assert_eq!(caller.msync_with(rest).await.unwrap().synced_bytes, 4096);
    let synced = caller.msync(id).await.unwrap();
    assert_eq!(synced.synced_bytes, 4096);
    let stat = caller.stat_file("/pages").await.unwrap();
    assert_eq!((stat.version, stat.dirty_bytes, stat.mapped_by), (synced.version, 0, 1));
    assert_ne!(stat.modified.unwrap().seconds, 0);
    assert_eq!(caller.msync(id).await.unwrap().synced_bytes, 0);
}

#[tokio::test]
async fn an_asynchronous_msync_stores_the_bytes_soon() {
    let scene = Scene::new().await;
    let id = scene.caller.map_shared("/old", 11).await;
    scene.caller.write(id, 0, &b"new"[..]).await.unwrap();
    let request = v1::MsyncRequest { mmap_id: id, mode: v1::SyncMode::Async.into(), ..Default::default() };
    assert_eq!(scene.caller.msync_with(request).await.unwrap().synced_bytes, 0);
    mmap_tests::wire::eventually("the bytes are in the store", Duration::from_secs(10), async || {
        (scene.stored("old") == b"new content").then_some(())
    })
    .await;
}

#[tokio::test]
async fn invalidate_shows_the_store_and_syncs_first_where_it_did_not_change() {
    let scene = Scene::new().await;
    let id = scene.caller.map_shared("/old", 11).await;
    scene.caller.write(id, 0, &b"new"[..]).await.unwrap();
    let request = v1::MsyncRequest { mmap_id: id, invalidate: true, ..Default::default() };
    assert_eq!(scene.caller.msync_with(request).await.unwrap().synced_bytes, 4096);
    assert_eq!(scene.stored("old"), b"new content");
    // Clean pages are dropped: what somebody else put there is read.
    assert_eq!(scene.caller.read(id, 0, 3).await.unwrap(), "new");
    std::fs::write(scene.file("old"), b"from outside").unwrap();
    scene.caller.msync_with(request).await.unwrap();
    assert_eq!(scene.caller.read(id, 0, 11).await.unwrap(), "from outsid");
    assert_eq!(scene.caller.stats(id).await.unwrap().file_size, 12);
}

#[tokio::test]
async fn what_is_written_behind_the_end_in_the_last_page_is_dropped() {
    let scene = Scene::new().await;
    let id = scene.caller.map_shared("/old", 4096).await;
    let own = scene.caller.mmap(private("/old", 4096)).await.unwrap().mmap_id;
    for id in [id, own] {
        assert_eq!(scene.caller.write(id, 10, &b"Tail behind the end"[..]).await.unwrap(), 19, "all of it is taken");
        let read = scene.caller.read(id, 0, 100).await.unwrap();
        assert_eq!(&read[..11], b"old contenT");
        assert!(read[11..].iter().all(|byte| *byte == 0));
    }
    scene.caller.msync(id).await.unwrap();
    assert_eq!(scene.stored("old"), b"old contenT");
    scene.truncate("/old", 50).await;
    for id in [id, own] {
        let read = scene.caller.read(id, 0, 50).await.unwrap();
        assert!(read[11..].iter().all(|byte| *byte == 0), "growing shows zeros, not what was dropped");
    }
}

#[tokio::test]
async fn truncation_drops_unsynced_and_private_pages_at_once_and_growing_shows_zeros() {
    let scene = Scene::new().await;
    let caller = &scene.caller;
    let id = caller.map_shared("/cut", 16384).await;
    let own = caller.mmap(private("/cut", 16384)).await.unwrap().mmap_id;
    for id in [id, own] {
        caller.write(id, 0, vec![7; 16384]).await.unwrap();
    }
    assert_eq!(scene.truncate("/cut", 4097).await.size, 4097);
    assert_eq!(std::fs::metadata(scene.file("cut")).unwrap().len(), 4097, "the size is in the store at once");
    assert_eq!(caller.stats(id).await.unwrap().dirty_bytes, 8192);
    assert_eq!(caller.stats(own).await.unwrap().private_bytes, 8192);
    scene.truncate("/cut", 16384).await;
    let expected: Vec<u8> = [vec![7; 4097], vec![0; 16384 - 4097]].concat();
    for id in [id, own] {
        assert!(caller.read(id, 0, 16384).await.unwrap() == expected, "{id}");
    }
    caller.msync(id).await.unwrap();
    assert_eq!(scene.stored("cut"), expected);
}

#[tokio::test]
async fn nothing_is_written_back_by_itself_and_an_outside_change_shows_at_the_next_mmap() {
    let scene = Scene::new().await;
    let caller = &scene.caller;
    let id = caller.map_shared("/old", 11).await;
    assert_eq!(caller.read(id, 0, 11).await.unwrap(), "old content");
    std::fs::write(scene.file("old"), b"another one").unwrap();
    caller.map_shared("/old", 11).await;
    assert_eq!(caller.read(id, 0, 11).await.unwrap(), "another one", "the older mapping sees it too");
    caller.write(id, 0, &b"A"[..]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(scene.stored("old"), b"another one");
}

#[tokio::test]
async fn force_keeps_unsynced_pages_and_puts_those_behind_the_new_end_aside() {
    let scene = Scene::new().await;
    let caller = &scene.caller;
    std::fs::write(scene.file("base"), vec![b'b'; 3 * 4096]).unwrap();
    let id = caller.map_shared("/base", 3 * 4096).await;
    caller.write(id, 10, &b"first"[..]).await.unwrap();
    caller.write(id, 2 * 4096, &b"third"[..]).await.unwrap();
    std::fs::write(scene.file("base"), vec![b'n'; 4096 + 50]).unwrap();
    expect(Reason::Stale, caller.msync(id).await);
    let force = v1::MsyncRequest { mmap_id: id, force: true, ..Default::default() };
    assert_eq!(caller.msync_with(force).await.unwrap().synced_bytes, 4096);
    let expected = [&[b'b'; 10][..], b"first", &[b'b'; 4081], &[b'n'; 50]].concat();
    assert!(scene.stored("base") == expected);
    let aside = kept_aside(&scene.server);
    assert!(aside.windows(5).any(|window| window == b"third"), "the page behind the new end is kept");
}

/// All bytes of what the server keeps aside.
fn kept_aside(server: &Mmapd) -> Vec<u8> {
    fn collect(folder: &std::path::Path, all: &mut Vec<u8>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, all);
            } else {
                all.extend(std::fs::read(path).unwrap());
            }
        }
    }
    let mut all = Vec::new();
    collect(&server.state_dir().join("conflicts"), &mut all);
    all
}

#[tokio::test]
async fn what_a_killed_process_left_unsynced_is_kept_aside_where_the_file_changed() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}", folder.path().display());
    let server = Setup::new().mount("/", &url).args(["--process-grace", "100ms"]).start();
    let living = Caller::connect(server.addr(), 2).await;
    let dying = Caller::connect(server.addr(), 1).await;
    let attached = dying.process_service().attach(dying.request(v1::AttachRequest::default())).await.unwrap();
    let id = dying.map_shared("/torn", 100).await;
    dying.write(id, 0, &b"last words"[..]).await.unwrap();
    std::fs::write(folder.path().join("torn"), b"somebody else's").unwrap();
    drop(attached);
    mmap_tests::wire::eventually("the process ends and its page is kept", Duration::from_secs(20), async || {
        let gone = living.list_processes().await.unwrap().is_empty();
        let clean = living.stat_file("/torn").await.unwrap().dirty_bytes == 0;
        (gone && clean).then_some(())
    })
    .await;
    assert_eq!(std::fs::read(folder.path().join("torn")).unwrap(), b"somebody else's");
    assert!(kept_aside(&server).windows(10).any(|window| window == b"last words"));
    let id = living.map_shared("/torn", 15).await;
    assert_eq!(living.read(id, 0, 15).await.unwrap(), "somebody else's");
}

#[tokio::test]
async fn the_first_reason_that_applies_is_told() {
    let scene = Scene::new().await;
    let nothing = scene.caller.without_capabilities();
    // EINVAL before EACCES, also in the lists.
    expect(Reason::Inval, nothing.mmap(v1::MmapRequest { prot: 8, ..map_request("/old", 1) }).await);
    expect(Reason::Inval, nothing.stat_file("/a//b").await);
    expect(Reason::Inval, nothing.remove("relative").await);
    let size = v1::TruncateFileRequest { path: "/old".into(), size: u64::MAX, ..Default::default() };
    expect(Reason::Inval, nothing.truncate(size).await);
    let exclusive = v1::TruncateFileRequest { path: "/old".into(), exclusive: true, ..Default::default() };
    expect(Reason::Inval, nothing.truncate(exclusive).await);
    let request = nothing.request(v1::ListFilesRequest { page_token: "?".into(), ..Default::default() });
    expect(Reason::Inval, nothing.file_service().list_files(request).await);
    let request = nothing.request(v1::ListProcessesRequest { page_token: "?".into(), ..Default::default() });
    expect(Reason::Inval, nothing.process_service().list_processes(request).await);
    // EACCES before EBADF and ENOENT.
    expect(Reason::Acces, nothing.stats(4711).await);
    expect(Reason::Acces, nothing.mmap(map_request("/missing", 1)).await);
    expect(Reason::Acces, nothing.remove("/missing").await);
    // EINVAL before EBADF, and EBADF for a pid that never was.
    let stranger = scene.caller.with_pid(4711);
    expect(Reason::Inval, stranger.read(1, 0, 0).await);
    expect(Reason::Inval, stranger.msync_with(v1::MsyncRequest { mode: 9, ..Default::default() }).await);
    expect(Reason::BadF, stranger.read(1, 0, 1).await);
    expect(Reason::BadF, stranger.write(1, 0, &b"x"[..]).await);
    expect(Reason::BadF, stranger.msync(1).await);
    expect(Reason::BadF, stranger.munmap(1).await);
    expect(Reason::BadF, stranger.stats(1).await);
    expect(Reason::Srch, stranger.exit(false).await);
}

#[tokio::test]
async fn syscalls_and_exit_need_a_pid_and_files_and_lists_do_not() {
    let scene = Scene::new().await;
    let nobody = scene.caller.without_pid();
    let field = |failure: mmap_tests::failure::Failure| assert_eq!(failure.fields, ["mmap-pid"], "{failure:?}");
    field(expect(Reason::Inval, nobody.mmap(map_request("/old", 1)).await));
    field(expect(Reason::Inval, nobody.read(1, 0, 1).await));
    field(expect(Reason::Inval, nobody.write(1, 0, &b"x"[..]).await));
    field(expect(Reason::Inval, nobody.msync(1).await));
    field(expect(Reason::Inval, nobody.munmap(1).await));
    field(expect(Reason::Inval, nobody.stats(1).await));
    field(expect(Reason::Inval, nobody.exit(false).await));
    nobody.stat_file("/old").await.unwrap();
    nobody.truncate(v1::TruncateFileRequest { path: "/new".into(), create: true, ..Default::default() }).await.unwrap();
    nobody.remove("/new").await.unwrap();
    nobody.list_processes().await.unwrap();
    nobody.list_mappings(None).await.unwrap();
}

#[tokio::test]
async fn stats_tell_what_the_seed_told_and_what_it_costs() {
    let scene = Scene::new().await;
    let caller = &scene.caller;
    std::fs::write(scene.file("cost"), vec![1; 10 * 4096]).unwrap();
    let shared = v1::MmapRequest { prot: 7, offset: 4097, ..map_request("/cost", 4096) };
    let shared = caller.mmap(shared).await.unwrap().mmap_id;
    let own = caller.mmap(private("/cost", 8 * 4096)).await.unwrap().mmap_id;
    let fresh = caller.stats(shared).await.unwrap();
    assert_eq!((fresh.resident_bytes, fresh.dirty_bytes, fresh.major_faults), (0, 0, 0), "mapping costs nothing");
    caller.write(shared, 0, &b"x"[..]).await.unwrap();
    caller.write(own, 4095, &b"yz"[..]).await.unwrap();
    let stats = caller.with_pid(2).stats(shared).await.unwrap();
    let prot = v1::mmap_stats_response::Prot { read: true, write: true, exec: true };
    assert_eq!((stats.id, stats.path.as_str(), stats.offset, stats.length), (shared, "/cost", 4097, 4096));
    assert_eq!((stats.prot, stats.flags(), stats.owner_pid), (Some(prot), v1::Map::Shared, 1));
    // The range is 4,096 bytes that lie on two pages.
    assert_eq!((stats.file_size, stats.resident_bytes, stats.dirty_bytes), (40_960, 8192, 4096));
    assert_eq!((stats.private_bytes, stats.major_faults), (0, 1));
    let stats = caller.stats(own).await.unwrap();
    assert_eq!((stats.flags(), stats.private_bytes, stats.resident_bytes), (v1::Map::Private, 8192, 8192));
    assert_eq!(stats.dirty_bytes, 0);
}
