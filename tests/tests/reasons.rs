//! Over the wire, a test for each reason that can be reached without a store's failing: code, reason,
//! domain, metadata, and that nothing changed. Those of a failing store are in `failing_store.rs`.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::path::Path;

use mmap_proto::reason::Reason;
use mmap_proto::v1;
use mmap_tests::failure::{Failure, expect};
use mmap_tests::mmapd::{Mmapd, Setup};
use mmap_tests::snapshot::Snapshot;
use mmap_tests::wire::{Caller, map_request};
use tempfile::TempDir;
use tonic::Status;

/// A server over a folder, and process 1 on it.
struct Scene {
    folder: TempDir,
    // Held: it ends with the scene.
    _server: Mmapd,
    caller: Caller,
}

impl Scene {
    async fn with(query: &str, args: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("old"), b"old content").unwrap();
        let url = format!("file://{}{query}", folder.path().display());
        let server = Setup::new().mount("/data", &url).args(args).start();
        let caller = Caller::connect(server.addr(), 1).await;
        Self { folder, _server: server, caller }
    }

    async fn new() -> Self {
        Self::with("", &[]).await
    }

    fn root(&self) -> &Path {
        self.folder.path()
    }

    /// What `call` fails with: for `reason`, and with nothing changed.
    async fn refused<T: std::fmt::Debug>(
        &self,
        reason: Reason,
        call: impl AsyncFnOnce(&Caller) -> Result<T, Status>,
    ) -> Failure {
        let before = Snapshot::take(&self.caller, self.root()).await;
        let failure = expect(reason, call(&self.caller).await);
        assert_eq!(Snapshot::take(&self.caller, self.root()).await, before, "{failure:?}");
        failure
    }
}

#[tokio::test]
async fn einval_names_the_field_and_its_value() {
    let scene = Scene::new().await;
    let id = scene.caller.map_shared("/data/old", 11).await;
    let failure = scene.refused(Reason::Inval, async |caller| caller.read(id, 3, 0).await).await;
    assert_eq!((failure.fields.as_slice(), failure.value("length")), (["length".to_owned()].as_slice(), "0"));
    let call = async |caller: &Caller| caller.mmap(v1::MmapRequest { prot: 8, ..map_request("/data/old", 1) }).await;
    let failure = scene.refused(Reason::Inval, call).await;
    assert_eq!((failure.fields.as_slice(), failure.value("prot")), (["prot".to_owned()].as_slice(), "8"));
    // A folder is not a file.
    std::fs::create_dir(scene.root().join("folder")).unwrap();
    let failure = scene.refused(Reason::Inval, async |caller| caller.stat_file("/data/folder").await).await;
    assert_eq!(failure.value("path"), "/data/folder");
    let failure = scene.refused(Reason::Inval, async |caller| caller.stat_file("/data/../x").await).await;
    assert_eq!((failure.fields.as_slice(), failure.value("path")), (["path".to_owned()].as_slice(), "/data/../x"));
}

#[tokio::test]
async fn enoent_names_the_path() {
    let scene = Scene::new().await;
    let map = async |caller: &Caller| caller.mmap(map_request("/data/new", 1)).await;
    assert_eq!(scene.refused(Reason::NoEnt, map).await.value("path"), "/data/new");
    let stat = async |caller: &Caller| caller.stat_file("/data/new").await;
    assert_eq!(scene.refused(Reason::NoEnt, stat).await.value("path"), "/data/new");
    let remove = async |caller: &Caller| caller.remove("/data/new").await;
    assert_eq!(scene.refused(Reason::NoEnt, remove).await.value("path"), "/data/new");
    let request = v1::TruncateFileRequest { path: "/data/new".into(), size: 1, ..Default::default() };
    scene.refused(Reason::NoEnt, async |caller| caller.truncate(request).await).await;
    // No mount covers it.
    let outside = async |caller: &Caller| caller.stat_file("/elsewhere").await;
    assert_eq!(scene.refused(Reason::NoEnt, outside).await.value("path"), "/elsewhere");
}

#[tokio::test]
async fn ebadf_is_the_same_for_no_mapping_and_for_anothers() {
    let scene = Scene::new().await;
    let id = scene.caller.map_shared("/data/old", 11).await;
    let anothers = scene.refused(Reason::BadF, async |caller| caller.with_pid(2).read(id, 0, 1).await).await;
    assert_eq!(anothers.value("mmap_id"), id.to_string());
    let nobodys = scene.refused(Reason::BadF, async |caller| caller.with_pid(2).read(id + 1, 0, 1).await).await;
    assert_eq!(anothers.message.replace(&id.to_string(), ""), nobodys.message.replace(&(id + 1).to_string(), ""));
    scene.caller.munmap(id).await.unwrap();
    scene.refused(Reason::BadF, async |caller| caller.munmap(id).await).await;
}

#[tokio::test]
async fn esrch_names_the_pid() {
    let scene = Scene::new().await;
    let failure = scene.refused(Reason::Srch, async |caller| caller.with_pid(77).exit(false).await).await;
    assert_eq!(failure.value("pid"), "77");
}

#[tokio::test]
async fn eexist_leaves_the_file_alone() {
    let scene = Scene::new().await;
    let exclusive = v1::TruncateFileRequest { path: "/data/old".into(), size: 1, create: true, exclusive: true };
    let failure = scene.refused(Reason::Exist, async |caller| caller.truncate(exclusive).await).await;
    assert_eq!(failure.value("path"), "/data/old");
}

#[tokio::test]
async fn eacces_names_the_capability_that_is_missing() {
    let scene = Scene::new().await;
    let id = scene.caller.map_shared("/data/old", 11).await;
    let read_only = scene.caller.with_capabilities("FileRead");
    let map = map_request("/data/old", 1);
    // FileWrite for a writable mapping, shared or private, and to make a file.
    for request in [
        map.clone(),
        v1::MmapRequest { shared: false, ..map.clone() },
        v1::MmapRequest { prot: 1, create: true, ..map.clone() },
    ] {
        let failure = scene.refused(Reason::Acces, async |_: &Caller| read_only.mmap(request).await).await;
        assert_eq!(failure.value("capability"), "FileWrite");
    }
    let nothing = scene.caller.without_capabilities();
    let reading = v1::MmapRequest { prot: 1, ..map };
    let failure = scene.refused(Reason::Acces, async |_: &Caller| nothing.mmap(reading).await).await;
    assert_eq!(failure.value("capability"), "FileRead");
    for failure in [
        scene.refused(Reason::Acces, async |_: &Caller| read_only.stats(id).await).await,
        scene.refused(Reason::Acces, async |_: &Caller| read_only.list_processes().await).await,
        scene.refused(Reason::Acces, async |_: &Caller| read_only.list_mappings(Some(2)).await).await,
        scene.refused(Reason::Acces, async |_: &Caller| read_only.without_pid().list_mappings(None).await).await,
    ] {
        assert_eq!(failure.value("capability"), "SystemInfo");
    }
    let truncate = v1::TruncateFileRequest { path: "/data/old".into(), ..Default::default() };
    for failure in [
        scene.refused(Reason::Acces, async |_: &Caller| read_only.truncate(truncate).await).await,
        scene.refused(Reason::Acces, async |_: &Caller| read_only.remove("/data/old").await).await,
    ] {
        assert_eq!(failure.value("capability"), "FileWrite");
    }
    scene.refused(Reason::Acces, async |_: &Caller| nothing.stat_file("/data/old").await).await;
    // It comes before ENOENT: who may not read learns nothing of what is there.
    scene.refused(Reason::Acces, async |_: &Caller| nothing.stat_file("/data/missing").await).await;
    // What needs none: access to one's own mapping, which was checked when it was made.
    assert_eq!(nothing.read(id, 0, 11).await.unwrap(), "old content");
    assert_eq!(nothing.write(id, 0, &b"o"[..]).await.unwrap(), 1);
    assert_eq!(nothing.list_mappings(None).await.unwrap().len(), 1);
    nothing.msync(id).await.unwrap();
    nothing.munmap(id).await.unwrap();
}

#[tokio::test]
async fn segv_accerr_is_what_the_protection_forbids() {
    let scene = Scene::new().await;
    let map = map_request("/data/old", 11);
    for (prot, may_read, may_write) in [(0, false, false), (1, true, false), (2, false, true), (4, false, false)] {
        for shared in [true, false] {
            let id = scene.caller.mmap(v1::MmapRequest { prot, shared, ..map.clone() }).await.unwrap().mmap_id;
            if !may_read {
                let failure = scene.refused(Reason::SegvAccErr, async |caller| caller.read(id, 0, 1).await).await;
                assert_eq!(failure.value("mmap_id"), id.to_string());
            }
            if !may_write {
                scene.refused(Reason::SegvAccErr, async |caller| caller.write(id, 0, vec![1]).await).await;
            }
            assert!(!may_read || scene.caller.read(id, 0, 1).await.is_ok());
            scene.caller.munmap(id).await.unwrap();
        }
    }
}

#[tokio::test]
async fn segv_maperr_comes_before_segv_accerr_and_sigbus() {
    let scene = Scene::new().await;
    let map = v1::MmapRequest { prot: 1, offset: 2, ..map_request("/data/old", 100_000) };
    let id = scene.caller.mmap(map).await.unwrap().mmap_id;
    let failure = scene.refused(Reason::SegvMapErr, async |caller| caller.read(id, 99_999, 2).await).await;
    let values = (failure.value("mmap_id"), failure.value("offset"), failure.value("length"));
    assert_eq!(values, (id.to_string().as_str(), "99999", "2"));
    // Not writable either, and behind the end of the file too.
    scene.refused(Reason::SegvMapErr, async |caller| caller.write(id, 100_000, vec![1]).await).await;
    scene.refused(Reason::SegvAccErr, async |caller| caller.write(id, 50_000, vec![1]).await).await;
}

#[tokio::test]
async fn sigbus_is_what_lies_on_pages_behind_the_end() {
    let scene = Scene::new().await;
    let id = scene.caller.map_shared("/data/old", 100_000).await;
    // The last page is there in whole, zeros behind the end.
    let page = scene.caller.read(id, 0, 4096).await.unwrap();
    assert!(page.starts_with(b"old content") && page[11..].iter().all(|byte| *byte == 0));
    let failure = scene.refused(Reason::SigBus, async |caller| caller.read(id, 4095, 2).await).await;
    let values = (failure.value("path"), failure.value("offset"), failure.value("end"), failure.value("file_size"));
    assert_eq!(values, ("/data/old", "4095", "4097", "11"));
    scene.refused(Reason::SigBus, async |caller| caller.write(id, 4096, vec![1]).await).await;
    // Truncation moves the line at once.
    let request = v1::TruncateFileRequest { path: "/data/old".into(), size: 8193, ..Default::default() };
    scene.caller.truncate(request.clone()).await.unwrap();
    assert_eq!(scene.caller.read(id, 8192, 4096).await.unwrap(), vec![0; 4096]);
    scene.caller.truncate(v1::TruncateFileRequest { size: 4096, ..request }).await.unwrap();
    scene.refused(Reason::SigBus, async |caller| caller.read(id, 4096, 1).await).await;
}

#[tokio::test]
async fn erofs_is_every_change_below_a_read_only_mount() {
    let scene = Scene::with("?ro", &[]).await;
    let request = map_request("/data/old", 11);
    let failure = scene.refused(Reason::RoFs, async |caller| caller.mmap(request.clone()).await).await;
    assert_eq!(failure.value("mount"), "/data");
    let create = v1::MmapRequest { prot: 1, create: true, ..map_request("/data/new", 1) };
    scene.refused(Reason::RoFs, async |caller| caller.mmap(create).await).await;
    // Also to the size that it has.
    for size in [1, 11] {
        let truncate = v1::TruncateFileRequest { path: "/data/old".into(), size, ..Default::default() };
        scene.refused(Reason::RoFs, async |caller| caller.truncate(truncate).await).await;
    }
    scene.refused(Reason::RoFs, async |caller| caller.remove("/data/old").await).await;
}

#[tokio::test]
async fn ebusy_is_what_somebody_else_still_uses() {
    let scene = Scene::new().await;
    let other = scene.caller.with_pid(2);
    let id = scene.caller.map_shared("/data/old", 11).await;
    let others = other.map_shared("/data/old", 11).await;
    let failure = scene.refused(Reason::Busy, async |caller| caller.remove("/data/old").await).await;
    assert_eq!(failure.value("path"), "/data/old");
    other.write(others, 0, &b"OLD"[..]).await.unwrap();
    // Another may still write the pages that this one would give up.
    let discard = v1::MunmapRequest { mmap_id: id, discard: true, force: false };
    scene.refused(Reason::Busy, async |caller| caller.munmap_with(discard).await).await;
    let invalidate = v1::MsyncRequest { mmap_id: id, invalidate: true, ..Default::default() };
    std::fs::write(scene.root().join("old"), b"changed from outside").unwrap();
    scene.refused(Reason::Busy, async |caller| caller.msync_with(invalidate).await).await;
    scene.refused(Reason::Busy, async |caller| caller.exit(true).await).await;
    // By force it goes, and the store's content is what everybody sees.
    let by_force = v1::MunmapRequest { mmap_id: id, discard: true, force: true };
    assert_eq!(scene.caller.munmap_with(by_force).await.unwrap(), 0);
    assert_eq!(other.read(others, 0, 11).await.unwrap(), "changed fro");
    assert_eq!(std::fs::read(scene.root().join("old")).unwrap(), b"changed from outside");
}

#[tokio::test]
async fn enomem_names_the_limit_and_its_value() {
    let limits = ["--max-mappings-per-process", "2", "--max-processes", "2", "--memory", "64MiB"];
    let scene = Scene::with("", &limits).await;
    let id = scene.caller.map_shared("/data/old", 11).await;
    scene.caller.map_shared("/data/old", 11).await;
    let third = async |caller: &Caller| caller.mmap(map_request("/data/old", 11)).await;
    let failure = scene.refused(Reason::NoMem, third).await;
    assert_eq!(failure.value("max"), "2", "{failure:?}");
    // What was given back can be had again.
    scene.caller.munmap(id).await.unwrap();
    let big = v1::MmapRequest { shared: false, create: true, ..map_request("/data/big", 64 << 20) };
    let private = scene.caller.mmap(big).await.unwrap().mmap_id;

    scene.caller.with_pid(2).map_shared("/data/old", 11).await;
    let failure = scene.refused(Reason::NoMem, async |caller| third(&caller.with_pid(3)).await).await;
    assert_eq!(failure.value("max"), "2", "{failure:?}");

    // Private pages: an eighth of 64 MiB.
    let page = vec![7_u8; 1 << 20];
    for index in 0..7 {
        scene.caller.write(private, index << 20, page.clone()).await.unwrap();
    }
    let too_many = async |caller: &Caller| caller.write(private, 7 << 20, vec![7; (1 << 20) + 4096]).await;
    let failure = scene.refused(Reason::NoMem, too_many).await;
    assert_eq!(failure.value("max"), (8_u64 << 20).to_string(), "{failure:?}");
    assert_eq!(scene.caller.read(private, 0, 1 << 20).await.unwrap(), page);
    assert_eq!(scene.caller.read(private, 7 << 20, 10).await.unwrap(), [0; 10].as_slice());
}

#[tokio::test]
async fn estale_overwrites_nothing_and_keeps_both_contents() {
    let scene = Scene::new().await;
    let file = scene.root().join("old");
    let id = scene.caller.map_shared("/data/old", 11).await;
    scene.caller.write(id, 0, &b"new"[..]).await.unwrap();
    std::fs::write(&file, b"changed from outside").unwrap();
    let failure = scene.refused(Reason::Stale, async |caller| caller.msync(id).await).await;
    assert_eq!(failure.value("path"), "/data/old");
    scene.refused(Reason::Stale, async |caller| caller.munmap(id).await).await;
    scene.refused(Reason::Stale, async |caller| caller.exit(false).await).await;
    assert_eq!(scene.caller.read(id, 0, 11).await.unwrap(), "new content", "one's own is still there");
    assert_eq!(std::fs::read(&file).unwrap(), b"changed from outside", "and so is the other");
    // Force puts the unsynced page onto the new content, whose size wins.
    let force = v1::MsyncRequest { mmap_id: id, force: true, ..Default::default() };
    scene.caller.msync_with(force).await.unwrap();
    let bytes = std::fs::read(&file).unwrap();
    assert_eq!((&bytes[..11], bytes.len()), (&b"new content"[..], 20));
}

#[tokio::test]
async fn estale_is_resolved_by_invalidate_in_the_stores_favour() {
    let scene = Scene::new().await;
    let file = scene.root().join("old");
    let id = scene.caller.map_shared("/data/old", 11).await;
    scene.caller.write(id, 0, &b"new"[..]).await.unwrap();
    std::fs::write(&file, b"changed from outside").unwrap();
    scene.refused(Reason::Stale, async |caller| caller.msync(id).await).await;
    let invalidate = v1::MsyncRequest { mmap_id: id, invalidate: true, ..Default::default() };
    scene.caller.msync_with(invalidate).await.unwrap();
    assert_eq!(scene.caller.read(id, 0, 11).await.unwrap(), "changed fro");
    assert_eq!(std::fs::read(&file).unwrap(), b"changed from outside");
}
