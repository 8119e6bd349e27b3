//! Unit tests of the syscalls on a store that fails, answers late, or loses its replies; and of callers that
//! go away in the middle.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::caller::Caller;
use crate::error::Errno;
use crate::flags::{MapFlags, ProtFlags};
use crate::limits::Limits;
use crate::state::StateDir;
use crate::units::{BLOCK_SIZE, ByteRange, PAGE_LEN, PAGE_SIZE};
use crate::vfs::chaos::{Call, ChaosStore, Fault};
use crate::vfs::object::ObjectLayout;
use crate::vfs::{Base, CommitId, FileStore, Mount, Patch, Vfs, WriteBack};

/// A manager over a store that can fail, and the store under it.
pub(super) struct World {
    pub(super) manager: Arc<MmapManager>,
    pub(super) chaos: Arc<ChaosStore>,
    pub(super) inner: Arc<ObjectLayout>,
}

impl World {
    /// A file `/f` of ten blocks of ones.
    pub(super) async fn new() -> Self {
        let inner = Arc::new(ObjectLayout::in_memory());
        let chaos = Arc::new(ChaosStore::new(Arc::clone(&inner) as Arc<dyn FileStore>));
        let mount = Mount::with_store("/", Arc::clone(&chaos) as Arc<dyn FileStore>).unwrap();
        let limits = Limits { max_message: 256 * 1024, ..Limits::with_memory(4 << 20) };
        let manager = MmapManager::open(Vfs::new(vec![mount]).unwrap(), StateDir::none(), limits).unwrap();
        let world = Self { manager, chaos, inner };
        world.put("f", &vec![1; 10 * 65_536]).await;
        world
    }

    pub(super) async fn put(&self, name: &str, data: &[u8]) {
        let patches = vec![Patch { offset: 0, data: Bytes::copy_from_slice(data), dirty: true }];
        let size = data.len() as u64;
        let change = WriteBack { base: Base::Missing, size, patches, commit: CommitId::random() };
        self.inner.write_back(name, change).await.unwrap();
    }

    pub(super) async fn map(&self, pid: u32) -> MmapId {
        let length = 10 * BLOCK_SIZE;
        self.manager.mmap(pid, "/f".into(), 0, length, ProtFlags::read_write(), MapFlags::Shared).await.unwrap()
    }

    pub(super) async fn stored(&self) -> Vec<u8> {
        let stat = self.inner.stat("f").await.unwrap();
        self.inner.read("f", &stat.version, ByteRange::new(0, stat.size)).await.unwrap().concat()
    }

    /// Waits until so many calls hang.
    pub(super) async fn hanging(&self, calls: u64) {
        eventually("calls hang", || self.chaos.hanging() == calls).await;
    }
}

pub(super) async fn eventually(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..1000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within 10 s: {what}");
}

#[tokio::test]
async fn a_failed_write_back_keeps_the_pages_and_the_mapping() {
    let world = World::new().await;
    let id = world.map(1).await;
    world.manager.write(1, id, 0, b"kept").await.unwrap();
    for _ in 0..2 {
        world.chaos.push(Call::WriteBack, Fault::FailBefore);
    }
    assert_eq!(world.manager.msync(1, id).await.unwrap_err().errno(), Errno::Io);
    assert_eq!(world.manager.munmap(1, id).await.unwrap_err().errno(), Errno::Io);
    assert_eq!(world.manager.stats(1, id).unwrap().dirty_bytes, PAGE_SIZE);
    assert_eq!(world.manager.munmap(1, id).await.unwrap(), PAGE_SIZE);
    assert_eq!(world.stored().await[..5], *b"kept\x01");
}

#[tokio::test]
async fn a_reply_lost_after_the_write_took_effect_is_not_taken_for_somebody_elses_change() {
    let world = World::new().await;
    let id = world.map(1).await;
    world.manager.write(1, id, 0, b"first").await.unwrap();
    world.chaos.push(Call::WriteBack, Fault::FailAfter);
    assert_eq!(world.manager.msync(1, id).await.unwrap_err().errno(), Errno::Io);
    assert_eq!(world.stored().await[..5], *b"first");
    // A fetch, too, meets the new version first and must know it for our own.
    assert_eq!(world.manager.read(1, id, 5 * BLOCK_SIZE, 2).await.unwrap(), [1, 1]);
    world.manager.write(1, id, 0, b"secnd").await.unwrap();
    assert_eq!(world.manager.msync(1, id).await.unwrap().bytes, PAGE_SIZE);
    assert_eq!(world.stored().await[..5], *b"secnd");
}

#[tokio::test]
async fn a_creation_whose_reply_was_lost_has_nothing_of_the_file_that_was_there_before() {
    let world = World::new().await;
    let id = world.map(1).await;
    // The block's other pages are in memory, and ones, when the file goes away under an unsynced page.
    world.manager.read(1, id, 0, BLOCK_SIZE).await.unwrap();
    world.manager.write(1, id, PAGE_SIZE, b"kept").await.unwrap();
    world.inner.remove("f").await.unwrap();
    world.chaos.push(Call::WriteBack, Fault::FailAfter);
    let made = world.manager.truncate_file(2, "/f", BLOCK_SIZE, Create::IfMissing).await;
    assert_eq!(made.unwrap_err().errno(), Errno::Io);
    assert_eq!(world.manager.msync(1, id).await.unwrap().bytes, PAGE_SIZE);
    // Unsynced pages are kept whole; all others are the new file's.
    let mut expected = vec![0; 65_536];
    expected[PAGE_LEN..2 * PAGE_LEN].fill(1);
    expected[PAGE_LEN..PAGE_LEN + 4].copy_from_slice(b"kept");
    assert!(world.stored().await == expected, "bytes of the removed file came back");
    assert!(world.manager.read(1, id, 0, BLOCK_SIZE).await.unwrap() == expected);
}

#[tokio::test]
async fn a_dead_processs_writes_are_stored_when_the_store_is_back() {
    let world = World::new().await;
    let id = world.map(1).await;
    world.manager.write(1, id, 0, b"orphan").await.unwrap();
    for _ in 0..3 {
        world.chaos.push(Call::WriteBack, Fault::FailBefore);
    }
    assert_eq!(world.manager.cleanup_process(1).await, 1);
    assert_eq!(world.manager.remove_file(1, "/f").await.unwrap_err().errno(), Errno::Busy);
    let file = world.manager.files.get(&crate::path::FilePath::parse("/f").unwrap()).unwrap();
    eventually("the orphan is stored", || file.dirty_bytes() == 0 && !file.has_orphans()).await;
    assert_eq!(world.stored().await[..6], *b"orphan");
}

#[tokio::test]
async fn concurrent_msyncs_share_a_write_back_and_readers_do_not_wait_for_it() {
    let world = World::new().await;
    let id = world.map(1).await;
    let sync = || {
        let manager = Arc::clone(&world.manager);
        tokio::spawn(async move { manager.msync(1, id).await.unwrap().bytes })
    };
    world.manager.read(1, id, BLOCK_SIZE, 1).await.unwrap();
    world.manager.write(1, id, 0, b"a").await.unwrap();
    world.chaos.push(Call::WriteBack, Fault::Hang);
    let first = sync();
    world.hanging(1).await;
    // Written after the cut: the first write-back does not bring it, one more does, for all who wait.
    world.manager.write(1, id, PAGE_SIZE, b"b").await.unwrap();
    let others: Vec<_> = (0..10).map(|_| sync()).collect();
    let reads = async {
        assert_eq!(world.manager.read(1, id, 0, 1).await.unwrap(), b"a");
        assert_eq!(world.manager.read(1, id, BLOCK_SIZE, 1).await.unwrap(), [1]);
        assert_eq!(world.manager.read(1, id, 7 * BLOCK_SIZE, 1).await.unwrap(), [1]);
    };
    tokio::time::timeout(Duration::from_secs(5), reads).await.expect("readers do not wait for write-back");
    let before = world.chaos.calls(Call::WriteBack);
    world.chaos.release();
    assert_eq!(first.await.unwrap(), PAGE_SIZE);
    for other in others {
        assert_eq!(other.await.unwrap(), PAGE_SIZE);
    }
    assert_eq!(world.chaos.calls(Call::WriteBack) - before, 1);
    assert_eq!(world.stored().await[PAGE_LEN], b'b');
}

#[tokio::test]
async fn a_missing_block_is_fetched_once_however_many_wait_for_it() {
    let world = World::new().await;
    let id = world.map(1).await;
    world.chaos.push(Call::Read, Fault::Hang);
    let before = world.chaos.calls(Call::Read);
    let readers: Vec<_> = (0..20u64)
        .map(|offset| {
            let manager = Arc::clone(&world.manager);
            tokio::spawn(async move { manager.read(1, id, offset, 3).await.unwrap() })
        })
        .collect();
    world.hanging(1).await;
    world.chaos.release();
    for reader in readers {
        assert_eq!(reader.await.unwrap(), [1, 1, 1]);
    }
    assert_eq!(world.chaos.calls(Call::Read) - before, 1);
}

#[tokio::test]
async fn a_caller_that_goes_away_in_the_middle_of_a_sync_leaves_it_to_be_finished() {
    let world = World::new().await;
    let id = world.map(1).await;
    world.manager.write(1, id, 0, b"x").await.unwrap();
    world.chaos.push(Call::WriteBack, Fault::Hang);
    let manager = Arc::clone(&world.manager);
    let caller = tokio::spawn(async move { manager.msync(1, id).await });
    world.hanging(1).await;
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    world.chaos.release();
    eventually("the write-back ends", || world.manager.stats(1, id).unwrap().dirty_bytes == 0).await;
    assert_eq!(world.stored().await[0], b'x');
}

#[tokio::test]
async fn a_writer_over_the_limit_of_unsynced_bytes_waits_for_write_back_and_else_learns_why() {
    let world = World::new().await;
    world.put("big", &vec![1; 64 * 65_536]).await;
    let manager = &world.manager;
    let length = 64 * BLOCK_SIZE;
    let id = manager.mmap(1, "/big".into(), 0, length, ProtFlags::read_write(), MapFlags::Shared).await.unwrap();
    // Over half of it write-back begins by itself, before or after the last of these writes.
    world.chaos.push(Call::WriteBack, Fault::Hang);
    // A quarter of 4 MiB holds 16 blocks.
    for block in 0..16 {
        manager.write(1, id, block * BLOCK_SIZE, b"w").await.unwrap();
    }
    let deadline = Some(tokio::time::Instant::now() + Duration::from_millis(300));
    let hasty = Caller { deadline, ..Caller::from(1) };
    let error = manager.write(hasty, id, 16 * BLOCK_SIZE, b"w").await.unwrap_err();
    assert_eq!(error.errno(), Errno::DQuot);
    assert_eq!(manager.read(1, id, 16 * BLOCK_SIZE, 1).await.unwrap(), [1]);
    let writer = {
        let manager = Arc::clone(manager);
        tokio::spawn(async move { manager.write(1, id, 16 * BLOCK_SIZE, b"w").await })
    };
    world.chaos.release();
    writer.await.unwrap().unwrap();
    assert!(manager.shared.dirty.used() <= manager.shared.dirty.total());
    manager.msync(1, id).await.unwrap();
    let stat = world.inner.stat("big").await.unwrap();
    let stored = world.inner.read("big", &stat.version, ByteRange::new(0, stat.size)).await.unwrap();
    assert!(stored.iter().take(17).all(|block| block[0] == b'w'));
}

#[tokio::test]
async fn private_pages_over_their_limit_are_refused_and_change_nothing() {
    let world = World::new().await;
    let manager = &world.manager;
    let length = 10 * BLOCK_SIZE;
    let id = manager.mmap(1, "/f".into(), 0, length, ProtFlags::read_write(), MapFlags::Private).await.unwrap();
    let piece = vec![2; 128 * 1024];
    // An eighth of 4 MiB holds four pieces.
    for number in 0..4 {
        manager.write(1, id, number * 128 * 1024, &piece).await.unwrap();
    }
    let error = manager.write(1, id, 4 * 128 * 1024, &piece).await.unwrap_err();
    assert_eq!(error.errno(), Errno::NoMem);
    assert_eq!(manager.read(1, id, 4 * 128 * 1024 - 1, 2).await.unwrap(), [2, 1]);
    manager.munmap(1, id).await.unwrap();
    assert_eq!(manager.shared.private.used(), 0);
}

#[tokio::test]
async fn what_cannot_be_stored_at_shutdown_is_named_and_kept_aside() {
    let world = World::new().await;
    let id = world.map(1).await;
    world.manager.write(1, id, 0, b"last").await.unwrap();
    for _ in 0..100 {
        world.chaos.push(Call::WriteBack, Fault::FailBefore);
    }
    let report = world.manager.shutdown(Duration::from_millis(200)).await;
    assert_eq!(report.synced_bytes, 0);
    let [(path, bytes, _)] = &report.unsynced[..] else { panic!("{report:?}") };
    assert_eq!((path.as_str(), *bytes), ("/f", PAGE_SIZE));
    assert_eq!(world.manager.conflicts().unwrap().len(), 1);
}
