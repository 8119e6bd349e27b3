//! What hot reads and writes allocate. No timing: the counts are the same on every machine.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::sync::Arc;

use bytes::Bytes;
use mmap_core::flags::{MapFlags, ProtFlags};
use mmap_core::limits::Limits;
use mmap_core::manager::{Caller, Create, MapRequest, MmapId, MmapManager, Populate};
use mmap_core::vfs::{MountSpec, Vfs};

const BLOCKS: u64 = 16;
const BLOCK: u64 = 65_536;
const PAGE: u64 = 4096;

/// A mapped file of which everything is in memory and was read and written once.
async fn hot() -> (Arc<MmapManager>, MmapId) {
    let vfs = Vfs::open(&[MountSpec::parse("/=memory:").unwrap()], &Limits::default()).unwrap();
    let manager = MmapManager::with_vfs(vfs);
    let request = MapRequest {
        path: "/hot".to_owned(),
        offset: 0,
        length: Some(2 * BLOCKS * BLOCK),
        prot: ProtFlags::read_write(),
        flags: MapFlags::Shared,
        create: Create::IfMissing,
        populate: Populate::Now,
    };
    let id = manager.map(1, request).await.unwrap().id;
    for block in 0..2 * BLOCKS {
        if block < BLOCKS {
            manager.write(1, id, block * BLOCK, b"written").await.unwrap();
        }
        // A buffer's first reader makes its counter.
        manager.read(1, id, block * BLOCK, 1).await.unwrap();
    }
    (manager, id)
}

fn allocations(calls: impl FnOnce()) -> u64 {
    allocation_counter::measure(calls).count_total
}

#[tokio::test]
async fn a_hot_read_allocates_nothing() {
    let (manager, id) = hot().await;
    let caller = Caller::from(1);
    let read = |offset, length| drop(manager.try_read(&caller, id, offset, length).unwrap().unwrap());
    for block in 0..2 * BLOCKS {
        assert_eq!(allocations(|| read(block * BLOCK + PAGE, PAGE)), 0, "block {block}");
    }
    assert_eq!(allocations(|| read(BLOCK - 1, 2)), 0, "of two blocks");
}

#[tokio::test]
async fn a_hot_write_allocates_nothing_and_the_next_read_no_more_than_the_counter_of_a_buffer() {
    let (manager, id) = hot().await;
    let (caller, data) = (Caller::from(1), [Bytes::from_static(&[7; 1000]), Bytes::from_static(&[8; 3096])]);
    let write = |offset| drop(manager.try_write(&caller, id, offset, &data).unwrap().unwrap());
    for block in 0..BLOCKS {
        // The first one takes the counter of the last reader down.
        write(block * BLOCK);
        assert_eq!(allocations(|| write(block * BLOCK + PAGE)), 0, "block {block}");
        let read = || drop(manager.try_read(&caller, id, block * BLOCK, PAGE).unwrap().unwrap());
        assert!(allocations(read) <= 1, "block {block}");
        assert_eq!(allocations(read), 0, "block {block}");
    }
}
