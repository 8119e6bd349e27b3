//! Unit tests of races that a single-threaded model cannot see: a store's answer is held back while something
//! else happens to the file. `end_tests` has those about the end of a mapping, a process or a file.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::fault_tests::{World, eventually};
use super::*;
use crate::error::{Errno, Result};
use crate::flags::{MapFlags, ProtFlags};
use crate::path::FilePath;
use crate::table::FileRef;
use crate::units::{BLOCK_LEN, BLOCK_SIZE, PAGE_LEN, PAGE_SIZE};
use crate::vfs::chaos::{Call, Fault};
use crate::vfs::{Base, CommitId, FileStore, Patch, WriteBack};

const BLOCKS: u64 = 10;

impl World {
    /// Somebody else replaces `/f`, with an attempt's mark if `commit` is given.
    pub(super) async fn replace(&self, data: &[u8], commit: Option<CommitId>) {
        let stat = self.inner.stat("f").await.unwrap();
        let patches = vec![Patch { offset: 0, data: Bytes::copy_from_slice(data), dirty: true }];
        let base = Base::At { version: stat.version, size: stat.size };
        let commit = commit.unwrap_or_else(CommitId::random);
        let change = WriteBack { base, size: data.len() as u64, patches, commit };
        self.inner.write_back("f", change).await.unwrap();
    }

    /// The next call of this kind takes effect, and is answered on release.
    pub(super) fn hold_back(&self, call: Call) {
        self.chaos.push(call, Fault::HangAfter);
    }

    fn spawn_read(&self, pid: u32, id: MmapId, offset: u64, length: u64) -> JoinHandle<Vec<u8>> {
        let manager = Arc::clone(&self.manager);
        tokio::spawn(async move { manager.read(pid, id, offset, length).await.unwrap().into_bytes().to_vec() })
    }

    pub(super) async fn byte(&self, pid: u32, id: MmapId, offset: u64) -> u8 {
        self.manager.read(pid, id, offset, 1).await.unwrap().into_bytes()[0]
    }

    async fn map_read_only(&self, pid: u32) -> MmapId {
        let length = BLOCKS * BLOCK_SIZE;
        self.manager.mmap(pid, "/f".into(), 0, length, ProtFlags::PROT_READ, MapFlags::Shared).await.unwrap()
    }

    async fn truncate(&self, size: u64) -> Result<Truncated> {
        self.manager.truncate_file(1, "/f", size, Create::Never).await
    }

    pub(super) fn file(&self) -> FileRef {
        self.manager.files.get(&FilePath::parse("/f").unwrap()).unwrap()
    }
}

/// A read of a page whose neighbour in the block is unsynced, its fetch answered on release.
async fn read_beside_an_unsynced_page(world: &World, writer: MmapId, reader: MmapId) -> JoinHandle<Vec<u8>> {
    world.manager.write(1, writer, 0, &[2; PAGE_LEN]).await.unwrap();
    world.hold_back(Call::Read);
    let read = world.spawn_read(2, reader, PAGE_SIZE, 1);
    world.hanging(1).await;
    read
}

#[tokio::test]
async fn a_fetch_that_a_commit_overtakes_brings_nothing_old_back() {
    let world = World::new().await;
    let (writer, reader) = (world.map(1).await, world.map_read_only(2).await);
    let read = read_beside_an_unsynced_page(&world, writer, reader).await;
    assert_eq!(world.manager.msync(1, writer).await.unwrap().bytes, PAGE_SIZE);
    world.chaos.release();
    assert_eq!(read.await.unwrap(), [1]);
    assert_eq!(world.byte(2, reader, 0).await, 2);
}

#[tokio::test]
async fn a_fetch_from_before_a_lost_commit_brings_nothing_old_back_when_its_pages_are_given_up() {
    let world = World::new().await;
    let (writer, reader) = (world.map(1).await, world.map_read_only(2).await);
    let read = read_beside_an_unsynced_page(&world, writer, reader).await;
    world.chaos.push(Call::WriteBack, Fault::FailAfter);
    assert_eq!(world.manager.msync(1, writer).await.unwrap_err().errno(), Errno::Io);
    world.manager.stat_file(1, "/f").await.unwrap();
    world.manager.unmap(1, writer, Unsynced::Discard).await.unwrap();
    world.chaos.release();
    assert_eq!(read.await.unwrap(), [1]);
    assert_eq!(world.byte(2, reader, 0).await, world.stored().await[0]);
}

#[tokio::test]
async fn a_fetch_that_a_truncation_overtakes_brings_nothing_behind_the_end_back() {
    let world = World::new().await;
    let id = world.map(1).await;
    world.hold_back(Call::Read);
    let read = world.spawn_read(1, id, 0, 1);
    world.hanging(1).await;
    world.truncate(100).await.unwrap();
    world.truncate(BLOCKS * BLOCK_SIZE).await.unwrap();
    world.chaos.release();
    assert_eq!(read.await.unwrap(), [1]);
    assert_eq!((world.byte(1, id, 99).await, world.byte(1, id, 100).await), (1, 0));
}

#[tokio::test]
async fn zeros_show_where_a_file_with_clean_blocks_in_memory_was_cut_and_grew_again() {
    let world = World::new().await;
    let id = world.map(1).await;
    for block in 0..BLOCKS {
        assert_eq!(world.byte(1, id, block * BLOCK_SIZE).await, 1);
    }
    world.truncate(BLOCK_SIZE + 100).await.unwrap();
    world.truncate(BLOCKS * BLOCK_SIZE).await.unwrap();
    assert_eq!((world.byte(1, id, BLOCK_SIZE + 99).await, world.byte(1, id, BLOCK_SIZE + 100).await), (1, 0));
    assert_eq!(world.byte(1, id, 2 * BLOCK_SIZE).await, 0);
}

#[tokio::test]
async fn a_read_whose_file_is_replaced_meanwhile_sees_one_version() {
    let world = World::new().await;
    let id = world.map_read_only(1).await;
    world.byte(1, id, BLOCK_SIZE).await;
    // Two requests, for the blocks before and behind the one that is there: only one of them is answered.
    let reads = world.chaos.calls(Call::Read);
    world.chaos.push(Call::Read, Fault::Pass);
    world.hold_back(Call::Read);
    let read = world.spawn_read(1, id, 0, 3 * BLOCK_SIZE);
    eventually("one of two fetches hangs", || world.chaos.hanging() == 1 && world.chaos.calls(Call::Read) == reads + 2)
        .await;
    world.replace(&vec![2; 10 * BLOCK_LEN], None).await;
    world.manager.stat_file(1, "/f").await.unwrap();
    world.chaos.release();
    let bytes = read.await.unwrap();
    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "two versions in one answer");
}

#[tokio::test]
async fn a_refresh_that_a_truncation_overtakes_takes_nothing_old_over() {
    let world = World::new().await;
    let id = world.map(1).await;
    world.hold_back(Call::Stat);
    let manager = Arc::clone(&world.manager);
    let stat = tokio::spawn(async move { manager.stat_file(2, "/f").await });
    world.hanging(1).await;
    world.truncate(3 * BLOCK_SIZE).await.unwrap();
    world.chaos.release();
    stat.await.unwrap().unwrap();
    let stats = world.manager.stats(1, id).unwrap();
    let stored = world.inner.stat("f").await.unwrap();
    assert_eq!((stats.file_size, stats.version), (3 * BLOCK_SIZE, stored.version.to_string()));
}

#[tokio::test]
async fn a_change_from_before_a_call_is_noticed_by_it_also_where_another_observation_comes_between() {
    let world = World::new().await;
    let id = world.map_read_only(1).await;
    for size in 1..30usize {
        // Both are answered at once: either may be the first to take over what it saw.
        let mut stats = Vec::new();
        for (calls, size) in [(1, 2 * size), (2, 2 * size + 1)] {
            world.replace(&vec![3; size], None).await;
            world.hold_back(Call::Stat);
            let manager = Arc::clone(&world.manager);
            stats.push(tokio::spawn(async move { manager.stat_file(2, "/f").await.unwrap() }));
            world.hanging(calls).await;
        }
        world.chaos.release();
        stats.pop().unwrap().await.unwrap();
        assert_eq!(world.manager.stats(1, id).unwrap().file_size, 2 * size as u64 + 1);
        stats.pop().unwrap().await.unwrap();
    }
}

#[tokio::test]
async fn somebody_who_puts_an_older_state_of_ours_back_is_noticed() {
    let world = World::new().await;
    let id = world.map(1).await;
    world.manager.write(1, id, 0, &[2; PAGE_LEN]).await.unwrap();
    world.manager.msync(1, id).await.unwrap();
    // A copy of an object keeps the mark of the attempt that made it.
    let ours = world.inner.stat("f").await.unwrap().commit;
    assert!(ours.is_some());
    assert_eq!(world.byte(1, id, 5 * BLOCK_SIZE).await, 1);
    world.replace(&vec![7; 10 * BLOCK_LEN], ours).await;
    world.manager.stat_file(1, "/f").await.unwrap();
    assert_eq!(world.byte(1, id, 5 * BLOCK_SIZE).await, 7);
}

#[tokio::test]
async fn a_discard_waits_for_the_write_back_that_is_under_way() {
    let world = World::new().await;
    let (writer, reader) = (world.map(1).await, world.map_read_only(2).await);
    world.manager.write(1, writer, 0, b"x").await.unwrap();
    world.chaos.push(Call::WriteBack, Fault::Hang);
    let manager = Arc::clone(&world.manager);
    let sync = tokio::spawn(async move { manager.msync(1, writer).await });
    world.hanging(1).await;
    let manager = Arc::clone(&world.manager);
    let discard = tokio::spawn(async move { manager.unmap(1, writer, Unsynced::Discard).await });
    tokio::time::sleep(Duration::from_millis(20)).await;
    // Whatever this read brings in must not outlive the change that is on its way.
    world.byte(2, reader, 0).await;
    world.chaos.release();
    assert_eq!(sync.await.unwrap().unwrap().bytes, PAGE_SIZE);
    discard.await.unwrap().unwrap();
    assert_eq!((world.byte(2, reader, 0).await, world.stored().await[0]), (b'x', b'x'));
}

#[tokio::test]
async fn giving_pages_up_after_a_lost_reply_is_no_conflict_for_the_other_pages() {
    let world = World::new().await;
    let length = BLOCK_SIZE;
    let map = |offset| world.manager.mmap(1, "/f".into(), offset, length, ProtFlags::read_write(), MapFlags::Shared);
    let (front, back) = (map(0).await.unwrap(), map(length).await.unwrap());
    world.manager.write(1, front, 0, b"b").await.unwrap();
    world.manager.write(1, back, 0, b"c").await.unwrap();
    world.chaos.push(Call::WriteBack, Fault::FailAfter);
    assert_eq!(world.manager.msync(1, front).await.unwrap_err().errno(), Errno::Io);
    world.manager.unmap(1, front, Unsynced::Discard).await.unwrap();
    assert_eq!(world.manager.msync(1, back).await.unwrap().bytes, PAGE_SIZE);
    assert_eq!(world.stored().await[BLOCK_LEN], b'c');
}

#[tokio::test]
async fn a_caller_that_goes_away_in_the_middle_of_a_truncation_leaves_it_to_be_finished() {
    let world = World::new().await;
    let id = world.map(1).await;
    world.hold_back(Call::WriteBack);
    let manager = Arc::clone(&world.manager);
    let caller = tokio::spawn(async move { manager.truncate_file(1, "/f", 5, Create::Never).await });
    world.hanging(1).await;
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    world.chaos.release();
    eventually("the end has moved", || world.manager.stats(1, id).unwrap().file_size == 5).await;
}

#[tokio::test]
async fn a_file_that_was_removed_and_is_made_again_has_zeros_beside_the_unsynced_pages() {
    let world = World::new().await;
    let id = world.map(1).await;
    assert_eq!((world.byte(1, id, 0).await, world.byte(1, id, 5 * BLOCK_SIZE).await), (1, 1));
    world.manager.write(1, id, 0, b"x").await.unwrap();
    world.inner.remove("f").await.unwrap();
    assert_eq!(world.manager.msync(1, id).await.unwrap_err().errno(), Errno::Stale);
    world.manager.truncate_file(1, "/f", BLOCKS * BLOCK_SIZE, Create::IfMissing).await.unwrap();
    assert_eq!((world.byte(1, id, 0).await, world.byte(1, id, 1).await), (b'x', 1));
    assert_eq!((world.byte(1, id, PAGE_SIZE).await, world.byte(1, id, 5 * BLOCK_SIZE).await), (0, 0));
    assert_eq!(world.manager.msync(1, id).await.unwrap().bytes, PAGE_SIZE);
}

#[tokio::test]
async fn giving_up_a_block_that_was_synced_in_part_shows_the_part_that_was_synced() {
    // The rest of the block is brought in by the first read, before the block is dirty or after.
    for page_read_first in [0, 1] {
        let world = World::new().await;
        let (writer, reader) = (world.map(1).await, world.map_read_only(2).await);
        if page_read_first == 0 {
            assert_eq!(world.byte(2, reader, 0).await, 1);
        }
        world.manager.write(1, writer, 0, &[2; PAGE_LEN]).await.unwrap();
        assert_eq!(world.byte(2, reader, PAGE_SIZE).await, 1);
        world.manager.write(1, writer, 2 * PAGE_SIZE, &[3; PAGE_LEN]).await.unwrap();
        let first_page = SyncRequest { length: Some(PAGE_SIZE), ..SyncRequest::default() };
        assert_eq!(world.manager.sync(1, writer, first_page).await.unwrap().bytes, PAGE_SIZE);
        world.manager.unmap(1, writer, Unsynced::Discard).await.unwrap();
        assert_eq!((world.byte(2, reader, 0).await, world.byte(2, reader, 2 * PAGE_SIZE).await), (2, 1));
    }
}

#[tokio::test]
async fn an_invalidate_of_one_of_two_conflicting_pages_is_stale_and_gives_nothing_up() {
    let world = World::new().await;
    let id = world.map(1).await;
    world.manager.write(1, id, 0, b"a").await.unwrap();
    world.manager.write(1, id, BLOCK_SIZE, b"b").await.unwrap();
    world.replace(&vec![7; 10 * BLOCK_LEN], None).await;
    let request = SyncRequest { length: Some(PAGE_SIZE), on_change: OnChange::Invalidate, ..SyncRequest::default() };
    assert_eq!(world.manager.sync(1, id, request).await.unwrap_err().errno(), Errno::Stale);
    assert_eq!((world.byte(1, id, 0).await, world.byte(1, id, BLOCK_SIZE).await), (b'a', b'b'));
}
