//! Unit tests of the reads and writes that do not wait: they answer as those that wait do, or `None` where these
//! would have to wait.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::fault_tests::World;
use super::*;
use crate::flags::{MapFlags, ProtFlags};
use crate::journal::sim::SimDisk;
use crate::journal::{Level, Options};
use crate::units::{BLOCK_LEN, BLOCK_SIZE, PAGE_LEN, PAGE_SIZE};
use crate::vfs::chaos::Call;
use crate::vfs::{FileStore, Mount};

const MAPPED: u64 = 10 * BLOCK_SIZE;

fn caller(pid: Option<u32>) -> Caller {
    Caller { pid, ..Caller::from(1) }
}

impl World {
    fn try_read(&self, id: MmapId, offset: u64, length: u64) -> Option<Vec<u8>> {
        let bytes = self.manager.try_read(&Caller::from(1), id, offset, length).unwrap();
        bytes.map(|bytes| bytes.into_bytes().to_vec())
    }

    fn try_write(&self, id: MmapId, offset: u64, data: &[u8]) -> Option<Written> {
        self.manager.try_write(&Caller::from(1), id, offset, &[data]).unwrap()
    }

    /// The world with a journal on `disk`.
    async fn journaled(disk: &SimDisk) -> (Self, MmapId) {
        let world = Self::new().await;
        let mount = Mount::with_store("/", Arc::clone(&world.chaos) as Arc<dyn FileStore>).unwrap();
        let (segment_bytes, queue_bytes) = (128 << 10, 64 << 10);
        let options = Options { level: Level::Process, segment_bytes, queue_bytes, ..Options::default() };
        let (limits, disk) = (world.manager.limits().clone(), Arc::new(disk.clone()));
        let vfs = Vfs::new(vec![mount]).unwrap();
        let recovered = MmapManager::recover(vfs, StateDir::none(), limits, disk, options).await.unwrap();
        let world = Self { manager: recovered.0, ..world };
        let id = world.map(1).await;
        world.manager.read(1, id, 0, 2 * BLOCK_SIZE).await.unwrap();
        (world, id)
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_call_is_found_in_the_same_order_by_the_form_that_does_not_wait() {
    let world = World::new().await;
    let manager = &world.manager;
    let whole = world.map(1).await;
    let map = async |prot| manager.mmap(1, "/f".into(), 0, MAPPED + 3 * BLOCK_SIZE, prot, MapFlags::Shared).await;
    let ids = [
        whole,
        MmapId(77),
        map(ProtFlags::default()).await.unwrap(),
        map(ProtFlags::PROT_READ).await.unwrap(),
        map(ProtFlags::read_write()).await.unwrap(),
    ];
    manager.read(1, whole, 0, 256 * 1024).await.unwrap();
    let offsets = [0, 5, MAPPED - 1, MAPPED, MAPPED + 3 * BLOCK_SIZE, u64::MAX];
    let lengths = [0usize, 1, 4096, 256 * 1024 + 1];
    let (mut refused, mut answered) = (0, 0);
    for (pid, id) in [None, Some(1), Some(2)].into_iter().flat_map(|pid| ids.map(|id| (pid, id))) {
        for (offset, length) in offsets.into_iter().flat_map(|offset| lengths.map(|length| (offset, length))) {
            let (caller, data) = (caller(pid), vec![1; length]);
            let case = format!("pid {pid:?}, mapping {id}, {length} bytes at {offset}");
            let tried = manager.try_read(&caller, id, offset, length as u64).map_err(|error| error.to_string());
            let waited = manager.read(&caller, id, offset, length as u64).await.map_err(|error| error.to_string());
            refused += usize::from(waited.is_err());
            answered += usize::from(matches!(tried, Ok(Some(_))));
            match tried {
                Ok(None) => assert!(waited.is_ok(), "{case}: {waited:?}"),
                Ok(Some(tried)) => assert!(waited.unwrap() == tried.into_bytes(), "{case}"),
                Err(tried) => assert_eq!(waited.unwrap_err(), tried, "{case}"),
            }
            let tried = manager.try_write(&caller, id, offset, &[&data]).map_err(|error| error.to_string());
            let waited = manager.write(&caller, id, offset, &data).await.map_err(|error| error.to_string());
            let tried = tried.map(|tried| tried.map(|written| written.bytes()));
            if tried != Ok(None) {
                assert_eq!(tried, waited.map(Some), "{case}");
            } else {
                assert!(waited.is_ok(), "{case}: {waited:?}");
            }
        }
    }
    assert!(refused > 200 && answered > 10, "{refused} refused, {answered} answered");
}

#[tokio::test]
async fn what_is_not_in_memory_is_neither_read_nor_written_in_part_without_waiting() {
    let world = World::new().await;
    let id = world.map(1).await;
    assert_eq!(world.try_read(id, 0, 1), None);
    assert!(world.try_write(id, 1, b"part").is_none());
    assert_eq!(world.chaos.calls(Call::Read), 0, "trying fetches nothing");
    assert_eq!(world.manager.stats(1, id).unwrap().minor_faults, 0, "and counts nothing");
    let page = world.try_write(id, PAGE_SIZE, &[7; PAGE_LEN]).expect("a whole page needs nothing of the store");
    assert!(!page.is_pending());
    assert_eq!(page.wait().await.unwrap(), PAGE_SIZE);
    assert_eq!(world.try_read(id, PAGE_SIZE, PAGE_SIZE), Some(vec![7; PAGE_LEN]));
    assert_eq!(world.try_read(id, PAGE_SIZE - 1, 2), None, "of a block with one known page");
    assert_eq!(world.manager.read(1, id, PAGE_SIZE - 1, 2).await.unwrap(), [1, 7]);
    assert_eq!(world.try_read(id, PAGE_SIZE - 1, 2), Some(vec![1, 7]));
    assert_eq!(world.try_read(id, BLOCK_SIZE - 1, 2), None, "the next block is missing");
    assert!(world.try_write(id, 1, b"part").is_some());
}

#[tokio::test]
async fn a_write_that_finds_no_memory_is_not_made_without_waiting() {
    let world = World::new().await;
    let id = world.map(1).await;
    world.manager.read(1, id, 0, 2 * BLOCK_SIZE).await.unwrap();
    let dirty = &world.manager.shared.dirty;
    let held = dirty.try_take(dirty.total()).unwrap();
    assert!(world.try_write(id, 0, b"refused").is_none());
    assert_eq!(world.try_read(id, 0, 7), Some(vec![1; 7]));
    drop(held);
    assert!(world.try_write(id, 0, b"written").is_some());
    let held = dirty.try_take(dirty.total() - dirty.used()).unwrap();
    assert!(world.try_write(id, 1, b"again").is_some(), "a block that is dirty already needs none");
    assert!(world.try_write(id, BLOCK_SIZE, b"refused").is_none());
    drop(held);
    let private = world.manager.mmap(1, "/f".into(), 0, 10, ProtFlags::read_write(), MapFlags::Private).await.unwrap();
    let own = world.manager.shared.private.try_reserve(u64::MAX).unwrap();
    assert!(world.try_write(private, 0, b"x").is_none());
    drop(own);
    assert!(world.try_write(private, 0, b"x").is_some());
    assert_eq!(world.try_read(private, 0, 2), Some(b"xa".to_vec()));
}

#[tokio::test]
async fn a_write_shows_to_those_who_do_not_wait_when_the_journal_has_it() {
    let disk = SimDisk::new();
    let (world, id) = World::journaled(&disk).await;
    disk.hold_writes(true);
    let first = world.try_write(id, 0, b"first").expect("everything it needs is in memory");
    let second = world.manager.begin_write(&Caller::from(1), id, 1, &[b"second"]).await.unwrap();
    assert!(first.is_pending() && second.is_pending());
    assert_eq!(world.try_read(id, 0, 1), None, "a killed server would take it back");
    assert_eq!(world.try_read(id, BLOCK_SIZE, 1), Some(vec![1]), "another block");
    let both = first.and(second);
    assert_eq!(both.bytes(), 11);
    let mut waiting = std::pin::pin!(both.wait());
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut waiting).await.is_err());
    disk.hold_writes(false);
    assert_eq!(waiting.await.unwrap(), 11);
    assert_eq!(world.try_read(id, 0, 7), Some(b"fsecond".to_vec()));
}

#[tokio::test]
async fn a_write_whose_caller_went_away_gets_into_the_journal_all_the_same() {
    let disk = SimDisk::new();
    let (world, id) = World::journaled(&disk).await;
    let written = world.try_write(id, 0, b"left").expect("everything it needs is in memory");
    assert!(written.is_pending());
    drop(written);
    tokio::time::timeout(Duration::from_secs(10), async {
        while world.try_read(id, 0, 4).is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .expect("nobody waits for it, and it is written");
}

#[tokio::test]
async fn a_write_that_finds_no_room_in_the_journal_is_not_made_without_waiting() {
    let disk = SimDisk::new();
    let (world, id) = World::journaled(&disk).await;
    disk.hold_writes(true);
    let mut written = Vec::new();
    while let Some(more) = world.try_write(id, 0, &[u8::try_from(written.len()).unwrap(); 3]) {
        written.push(more);
        assert!(written.len() < 64, "the queue has 64 KiB, and a record at least 4");
    }
    let last = u8::try_from(written.len() - 1).unwrap();
    disk.hold_writes(false);
    for written in written {
        assert_eq!(written.wait().await.unwrap(), 3);
    }
    assert_eq!(world.try_read(id, 0, 3), Some(vec![last; 3]), "what found no room left nothing behind");
}

#[tokio::test]
async fn a_journal_that_failed_refuses_writes_and_reads_go_on() {
    let disk = SimDisk::new();
    let (world, id) = World::journaled(&disk).await;
    disk.fail_writes(Some(std::io::ErrorKind::Other));
    assert_eq!(world.try_write(id, 0, b"lost").unwrap().wait().await.unwrap_err().errno(), Errno::Io);
    assert!(world.try_write(id, 0, b"refused").is_none());
    assert_eq!(world.try_read(id, BLOCK_SIZE, 1), Some(vec![1]));
    assert_eq!(world.try_read(id, 0, 4), None);
    assert_eq!(world.manager.read(1, id, 0, 4).await.unwrap(), b"lost");
}

#[tokio::test]
async fn slices_go_into_blocks_and_own_pages_whatever_their_borders_are() {
    let world = World::new().await;
    let shared = world.map(1).await;
    let length = 10 * BLOCK_SIZE;
    let private = world.manager.mmap(2, "/f".into(), 0, length, ProtFlags::read_write(), MapFlags::Private).await;
    let start = BLOCK_SIZE - 5000;
    let data = Bytes::from((0..251).cycle().take(BLOCK_LEN + 10_000).collect::<Vec<u8>>());
    for (pid, id) in [(1, shared), (2, private.unwrap())] {
        world.manager.read(pid, id, 0, 3 * BLOCK_SIZE).await.unwrap();
        for cut in [1, 904, 4999, 5000, 5001, 5000 + BLOCK_LEN - 1, 5000 + BLOCK_LEN, 5001 + BLOCK_LEN] {
            let clear = vec![0; data.len()];
            world.manager.write(pid, id, start, &clear).await.unwrap();
            let slices = [data.slice(..cut / 2), Bytes::new(), data.slice(cut / 2..cut), data.slice(cut..)];
            let written = world.manager.try_write(&Caller::from(pid), id, start, &slices).unwrap().unwrap();
            assert_eq!(written.wait().await.unwrap(), data.len() as u64);
            let read = world.manager.read(pid, id, start - 1, data.len() as u64 + 2).await.unwrap().into_bytes();
            assert!(read[1..=data.len()] == data && read[0] == 1 && read[data.len() + 1] == 1, "cut at {cut}");
        }
    }
}
