//! Unit tests of what happens when unsynced bytes come faster than stores take them: the soft limit, the hard
//! one, a store that fails or hangs beside one that does not, and readers meanwhile.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::fault_tests::eventually;
use super::*;
use crate::error::Errno;
use crate::flags::{MapFlags, ProtFlags};
use crate::limits::Limits;
use crate::state::StateDir;
use crate::units::{BLOCK_SIZE, ByteRange, PAGE_SIZE};
use crate::vfs::chaos::{Call, ChaosStore, Fault};
use crate::vfs::object::ObjectLayout;
use crate::vfs::{Base, CommitId, FileStore, Mount, Patch, Vfs, WriteBack};

/// Blocks of each file.
const BLOCKS: u64 = 16;

/// Two mounts, `/a` and `/b`, whose stores can fail. The unsynced share is 64 blocks: the soft limit is 32 blocks,
/// and one mount can have 48.
struct Worlds {
    manager: Arc<MmapManager>,
    a: Arc<ChaosStore>,
    b: Arc<ChaosStore>,
    inner: Arc<ObjectLayout>,
}

impl Worlds {
    async fn new() -> Self {
        let inner = Arc::new(ObjectLayout::in_memory());
        let store = || Arc::new(ChaosStore::new(Arc::clone(&inner) as Arc<dyn FileStore>));
        let (a, b) = (store(), store());
        let mount = |prefix, store: &Arc<ChaosStore>| Mount::with_store(prefix, Arc::clone(store) as _).unwrap();
        let mounts = vec![mount("/a", &a), mount("/b", &b)];
        let limits = Limits { max_message: 256 * 1024, ..Limits::with_memory(16 << 20) };
        let manager = MmapManager::open(Vfs::new(mounts).unwrap(), StateDir::none(), limits).unwrap();
        let worlds = Self { manager, a, b, inner };
        for number in 0..8 {
            let patches = vec![Patch { offset: 0, data: Bytes::from(vec![1; 16 * 65_536]), dirty: true }];
            let size = BLOCKS * BLOCK_SIZE;
            let change = WriteBack { base: Base::Missing, size, patches, commit: CommitId::random() };
            worlds.inner.write_back(&number.to_string(), change).await.unwrap();
        }
        worlds
    }

    /// Maps file `number` of a mount: both have the same files, so a test uses each in one of them.
    async fn map(&self, mount: &str, number: u64) -> MmapId {
        let path = format!("{mount}/{number}");
        let length = BLOCKS * BLOCK_SIZE;
        self.manager.mmap(1, path, 0, length, ProtFlags::read_write(), MapFlags::Shared).await.unwrap()
    }

    async fn write(&self, id: MmapId, blocks: std::ops::Range<u64>) {
        for block in blocks {
            self.manager.write(1, id, block * BLOCK_SIZE, b"w").await.unwrap();
        }
    }

    /// As one page a block would be counted in blocks.
    fn unsynced(&self, id: MmapId) -> u64 {
        self.manager.stats(1, id).unwrap().dirty_bytes / PAGE_SIZE
    }

    async fn stored(&self, number: u64) -> Vec<u8> {
        let name = number.to_string();
        let stat = self.inner.stat(&name).await.unwrap();
        self.inner.read(&name, &stat.version, ByteRange::new(0, stat.size)).await.unwrap().concat()
    }
}

fn hang(store: &ChaosStore, calls: usize) {
    for _ in 0..calls {
        store.push(Call::WriteBack, Fault::Hang);
    }
}

fn fail(store: &ChaosStore, calls: usize) {
    for _ in 0..calls {
        store.push(Call::WriteBack, Fault::FailBefore);
    }
}

fn within(time: Duration) -> Caller {
    Caller { deadline: Some(Instant::now() + time), ..Caller::from(1) }
}

#[tokio::test]
async fn up_to_the_soft_limit_nothing_is_written_back_before_it_is_asked_for() {
    let worlds = Worlds::new().await;
    let (first, second) = (worlds.map("/a", 0).await, worlds.map("/b", 1).await);
    worlds.write(first, 0..16).await;
    worlds.write(second, 0..16).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!((worlds.a.calls(Call::WriteBack), worlds.b.calls(Call::WriteBack)), (0, 0));
    assert_eq!((worlds.unsynced(first), worlds.unsynced(second)), (16, 16));
}

#[tokio::test]
async fn over_the_soft_limit_what_has_been_unsynced_longest_is_written_back_and_no_more_than_needed() {
    let worlds = Worlds::new().await;
    let mut ids = Vec::new();
    for number in 0..3 {
        let id = worlds.map("/a", number).await;
        worlds.write(id, 0..15).await;
        ids.push(id);
    }
    eventually("the first file is written back", || worlds.unsynced(ids[0]) == 0).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!((worlds.unsynced(ids[1]), worlds.unsynced(ids[2])), (15, 15));
    assert_eq!(worlds.stored(0).await[0], b'w');
    assert_eq!(worlds.a.calls(Call::WriteBack), 1);
}

#[tokio::test]
async fn a_file_that_fails_holds_up_no_other_file_of_its_mount() {
    let worlds = Worlds::new().await;
    let (bad, good) = (worlds.map("/a", 0).await, worlds.map("/a", 1).await);
    fail(&worlds.a, 1);
    worlds.write(bad, 0..16).await;
    assert_eq!(worlds.manager.msync(1, bad).await.unwrap_err().errno(), Errno::Io);
    for _ in 0..9 {
        fail(&worlds.a, 1);
        worlds.manager.msync(1, bad).await.unwrap_err();
    }
    // It has failed so often that its turn does not come again for half a minute.
    let path = crate::path::FilePath::parse("/a/0").unwrap();
    let due = worlds.manager.shared.backlog.next_try("/a", &path).unwrap();
    assert!(due > Instant::now() + Duration::from_secs(20));
    worlds.write(good, 0..16).await;
    let more = worlds.map("/a", 2).await;
    worlds.write(more, 0..8).await;
    eventually("the good file is written back", || worlds.unsynced(good) == 0).await;
    assert_eq!(worlds.unsynced(bad), 16);
    worlds.manager.msync(1, bad).await.unwrap();
    assert_eq!(worlds.manager.shared.backlog.troubles(), []);
}

#[tokio::test]
async fn a_dead_store_that_holds_all_it_can_leaves_room_for_writers_of_other_mounts() {
    let worlds = Worlds::new().await;
    fail(&worlds.a, 10_000);
    let mut dead = Vec::new();
    for number in 0..4 {
        dead.push(worlds.map("/a", number).await);
    }
    for id in &dead[..3] {
        worlds.write(*id, 0..16).await;
    }
    // Three quarters of the share is what one of several mounts can have.
    let started = Instant::now();
    let error = worlds.manager.write(within(Duration::from_secs(1)), dead[3], 0, b"w").await.unwrap_err();
    assert!(started.elapsed() >= Duration::from_millis(900), "it waits for its deadline");
    assert_eq!(error.errno(), Errno::DQuot);
    assert!(error.message().contains("the mount /a has not taken its bytes"), "{error}");
    assert!(error.details().contains(&("mount", "/a".to_owned())), "{error:?}");
    // Four files of 16 blocks go through the 16 blocks that are left.
    for number in 4..8 {
        let id = worlds.map("/b", number).await;
        worlds.write(id, 0..16).await;
    }
    eventually("the other mount's bytes are stored", || worlds.b.calls(Call::WriteBack) >= 3).await;
    assert!(worlds.manager.shared.dirty.used() <= worlds.manager.shared.dirty.total());
    worlds.a.calm();
    for id in dead {
        worlds.manager.msync(1, id).await.unwrap();
    }
    assert_eq!(worlds.manager.shared.backlog.troubles(), []);
}

#[tokio::test]
async fn a_mount_whose_store_hangs_does_not_take_the_write_back_of_others_with_it() {
    let worlds = Worlds::new().await;
    hang(&worlds.a, 8);
    let (mut hanging, mut others) = (Vec::new(), Vec::new());
    for number in 0..3 {
        let id = worlds.map("/a", number).await;
        worlds.write(id, 0..12).await;
        hanging.push(id);
    }
    eventually("a write-back hangs", || worlds.a.hanging() > 0).await;
    for number in 3..6 {
        let id = worlds.map("/b", number).await;
        worlds.write(id, 0..16).await;
        others.push(id);
    }
    eventually("the others are written back", || worlds.unsynced(others[0]) == 0).await;
    let error = worlds.manager.write(within(Duration::from_millis(300)), hanging[2], 15 * BLOCK_SIZE, b"w").await;
    // While it has not failed yet, whoever has most is named.
    if let Err(error) = error {
        assert!(error.details().contains(&("mount", "/a".to_owned())), "{error:?}");
    }
    worlds.a.release();
    worlds.a.calm();
}

#[tokio::test]
async fn readers_wait_neither_for_write_back_nor_for_its_memory() {
    let worlds = Worlds::new().await;
    hang(&worlds.a, 8);
    let mut ids = Vec::new();
    for number in 0..3 {
        let id = worlds.map("/a", number).await;
        worlds.write(id, 0..15).await;
        ids.push(id);
    }
    eventually("a write-back hangs", || worlds.a.hanging() > 0).await;
    let syncs: Vec<_> = ids
        .iter()
        .map(|id| {
            let (manager, id) = (Arc::clone(&worlds.manager), *id);
            tokio::spawn(async move { manager.msync(1, id).await })
        })
        .collect();
    let cold_file = worlds.map("/a", 4).await;
    let reads = async {
        for id in &ids {
            assert_eq!(worlds.manager.read(1, *id, 0, 2).await.unwrap(), [b'w', 1], "hot");
            assert_eq!(worlds.manager.read(1, *id, 15 * BLOCK_SIZE, 2).await.unwrap(), [1, 1], "cold, of that file");
        }
        for block in 0..BLOCKS {
            assert_eq!(worlds.manager.read(1, cold_file, block * BLOCK_SIZE, 1).await.unwrap(), [1], "cold");
        }
        let again = worlds.map("/a", 0).await;
        assert_eq!(worlds.manager.read(1, again, 0, 1).await.unwrap(), b"w", "mapped meanwhile");
    };
    tokio::time::timeout(Duration::from_secs(5), reads).await.expect("no read waits");
    assert!(worlds.a.hanging() > 0, "a write-back hangs all the while");
    worlds.a.calm();
    let released = tokio::spawn({
        let a = Arc::clone(&worlds.a);
        async move {
            loop {
                a.release();
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    });
    for sync in syncs {
        sync.await.unwrap().unwrap();
    }
    released.abort();
}

#[tokio::test]
async fn a_block_written_while_it_is_written_back_pays_for_its_copy() {
    let worlds = Worlds::new().await;
    let dirty = || worlds.manager.shared.dirty.used() / BLOCK_SIZE;
    let id = worlds.map("/a", 0).await;
    worlds.write(id, 0..4).await;
    assert_eq!(dirty(), 4);
    hang(&worlds.a, 1);
    let sync = tokio::spawn({
        let manager = Arc::clone(&worlds.manager);
        async move { manager.msync(1, id).await }
    });
    eventually("it hangs", || worlds.a.hanging() == 1).await;
    worlds.write(id, 0..2).await;
    worlds.write(id, 0..2).await;
    assert_eq!(dirty(), 6, "two copies, each paid for once");
    worlds.a.release();
    sync.await.unwrap().unwrap();
    assert_eq!((dirty(), worlds.unsynced(id)), (2, 2));
}

#[tokio::test]
async fn trouble_ends_when_what_failed_was_given_up() {
    let worlds = Worlds::new().await;
    let id = worlds.map("/a", 0).await;
    worlds.write(id, 0..1).await;
    fail(&worlds.a, 1);
    worlds.manager.msync(1, id).await.unwrap_err();
    assert_eq!(worlds.manager.shared.backlog.troubles().len(), 1);
    worlds.manager.unmap(1, id, Unsynced::Discard).await.unwrap();
    worlds.manager.shared.kick();
    eventually("nothing is to be stored", || worlds.manager.shared.backlog.troubles().is_empty()).await;
}
