//! Unit tests of ends that meet something else: a mapping, a process or a file goes while a store's answer to
//! another call is held back.

use std::sync::Arc;
use std::time::Duration;

use super::fault_tests::{World, eventually};
use super::*;
use crate::error::Errno;
use crate::file::Leaving;
use crate::flags::{MapFlags, ProtFlags};
use crate::units::{BLOCK_LEN, BLOCK_SIZE, PAGE_LEN, PAGE_SIZE};
use crate::vfs::chaos::{Call, Fault};
use crate::vfs::{FileStore, Mount};

#[tokio::test]
async fn a_write_during_munmaps_sync_is_refused_or_stored() {
    let world = World::new().await;
    let id = world.map(1).await;
    world.manager.write(1, id, 0, b"a").await.unwrap();
    world.hold_back(Call::WriteBack);
    let manager = Arc::clone(&world.manager);
    let unmap = tokio::spawn(async move { manager.munmap(1, id).await });
    world.hanging(1).await;
    world.manager.write(1, id, 0, b"b").await.unwrap();
    world.chaos.release();
    assert_eq!(unmap.await.unwrap().unwrap(), PAGE_SIZE);
    eventually("what was acknowledged is stored", || world.file().dirty_bytes() == 0).await;
    assert_eq!(world.stored().await[0], b'b');
    assert_eq!(world.manager.write(1, id, 0, b"c").await.unwrap_err().errno(), Errno::BadF);
}

#[tokio::test]
async fn a_write_that_waits_for_a_block_while_its_mapping_goes_is_refused() {
    for flags in [MapFlags::Shared, MapFlags::Private] {
        let world = World::new().await;
        let length = 10 * BLOCK_SIZE;
        let id = world.manager.mmap(1, "/f".into(), 0, length, ProtFlags::read_write(), flags).await.unwrap();
        world.hold_back(Call::Read);
        let manager = Arc::clone(&world.manager);
        let write = tokio::spawn(async move { manager.write(1, id, 5, b"late").await });
        world.hanging(1).await;
        world.manager.munmap(1, id).await.unwrap();
        world.chaos.release();
        assert_eq!(write.await.unwrap().unwrap_err().errno(), Errno::BadF);
        assert_eq!((world.file().dirty_bytes(), world.manager.shared.private.used()), (0, 0));
    }
}

#[tokio::test]
async fn a_mapping_made_while_its_process_ends_is_refused_and_leaves_nothing() {
    let world = World::new().await;
    let id = world.map(1).await;
    world.manager.write(1, id, 0, b"x").await.unwrap();
    world.hold_back(Call::WriteBack);
    let exit = {
        let manager = Arc::clone(&world.manager);
        tokio::spawn(async move { manager.exit(1, false).await })
    };
    world.hanging(1).await;
    let late = world.manager.mmap(1, "/f".into(), 0, 1, ProtFlags::PROT_READ, MapFlags::Shared).await;
    assert_eq!(late.unwrap_err().errno(), Errno::Busy);
    // One end at a time.
    assert_eq!(world.manager.exit(1, false).await.unwrap_err().errno(), Errno::Srch);
    assert_eq!(world.manager.cleanup_process(1).await, 0);
    world.chaos.release();
    assert_eq!(exit.await.unwrap().unwrap(), Exited { unmapped: 1, synced_bytes: PAGE_SIZE });
    assert_eq!((world.file().mapped_by(), world.manager.mappings.len()), (0, 0));
}

#[tokio::test]
async fn a_caller_that_goes_away_in_the_middle_of_an_exit_leaves_it_to_be_finished() {
    let world = World::new().await;
    let id = world.map(1).await;
    world.manager.write(1, id, 0, b"x").await.unwrap();
    world.hold_back(Call::WriteBack);
    let manager = Arc::clone(&world.manager);
    let caller = tokio::spawn(async move { manager.exit(1, false).await });
    world.hanging(1).await;
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    world.chaos.release();
    eventually("the process is gone", || world.manager.mappings.is_empty()).await;
    assert_eq!(world.manager.exit(1, false).await.unwrap_err().errno(), Errno::Srch);
    assert_eq!(world.stored().await[0], b'x');
}

#[tokio::test]
async fn an_exit_that_fails_leaves_the_process_alive_and_can_be_repeated() {
    let world = World::new().await;
    let id = world.map(1).await;
    world.manager.write(1, id, 0, b"x").await.unwrap();
    world.chaos.push(Call::WriteBack, Fault::FailBefore);
    assert_eq!(world.manager.exit(1, false).await.unwrap_err().errno(), Errno::Io);
    assert_eq!(world.byte(1, id, 0).await, b'x');
    assert_eq!(world.manager.exit(1, false).await.unwrap().synced_bytes, PAGE_SIZE);
}

#[tokio::test]
async fn a_mapping_while_its_file_is_being_removed_is_of_no_file_at_all() {
    let world = World::new().await;
    for fault in [Fault::Hang, Fault::HangAfter] {
        if world.inner.stat("f").await.is_err() {
            world.put("f", &[1; 10]).await;
        }
        world.chaos.push(Call::Remove, fault);
        let manager = Arc::clone(&world.manager);
        let remove = tokio::spawn(async move { manager.remove_file(2, "/f").await });
        world.hanging(1).await;
        let manager = Arc::clone(&world.manager);
        let map =
            tokio::spawn(
                async move { manager.mmap(1, "/f".into(), 0, 1, ProtFlags::PROT_READ, MapFlags::Shared).await },
            );
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(world.file().mapped_by(), 0);
        world.chaos.release();
        remove.await.unwrap().unwrap();
        assert_eq!(map.await.unwrap().unwrap_err().errno(), Errno::NoEnt);
        assert_eq!(world.manager.mappings.len(), 0);
    }
}

#[tokio::test]
async fn two_processes_that_end_at_once_leave_every_byte_in_the_store() {
    let world = World::new().await;
    let (first, second) = (world.map(1).await, world.map(2).await);
    world.manager.write(1, first, 0, b"a").await.unwrap();
    world.manager.write(2, second, PAGE_SIZE, b"b").await.unwrap();
    for _ in 0..2 {
        world.chaos.push(Call::WriteBack, Fault::FailBefore);
    }
    let ends = tokio::join!(world.manager.cleanup_process(1), world.manager.cleanup_process(2));
    assert_eq!(ends, (1, 1));
    eventually("both are stored", || world.file().dirty_bytes() == 0 && !world.file().has_orphans()).await;
    let stored = world.stored().await;
    assert_eq!((stored[0], stored[PAGE_LEN]), (b'a', b'b'));
}

#[tokio::test]
async fn what_a_process_leaves_while_another_ones_is_stored_is_stored_too() {
    let world = World::new().await;
    let (first, second) = (world.map(1).await, world.map(2).await);
    world.manager.write(1, first, 0, b"a").await.unwrap();
    world.chaos.push(Call::WriteBack, Fault::FailBefore);
    world.hold_back(Call::WriteBack);
    world.manager.cleanup_process(1).await;
    world.hanging(1).await;
    world.manager.write(2, second, PAGE_SIZE, b"b").await.unwrap();
    world.file().unregister(second, Leaving::Unsynced);
    world.chaos.release();
    eventually("both are stored", || world.file().dirty_bytes() == 0 && !world.file().has_orphans()).await;
    let stored = world.stored().await;
    assert_eq!((stored[0], stored[PAGE_LEN]), (b'a', b'b'));
}

#[tokio::test]
async fn a_dead_processs_conflicting_page_stays_with_the_living_who_may_write_it() {
    let world = World::new().await;
    let (dead, living) = (world.map(1).await, world.map(2).await);
    world.manager.write(1, dead, 0, b"both").await.unwrap();
    world.replace(&vec![7; 10 * BLOCK_LEN], None).await;
    world.manager.cleanup_process(1).await;
    eventually("the orphan is seen to", || !world.file().has_orphans()).await;
    assert_eq!(world.file().dirty_bytes(), PAGE_SIZE);
    assert_eq!(world.byte(2, living, 0).await, b'b');
    assert_eq!(world.manager.msync(2, living).await.unwrap_err().errno(), Errno::Stale);
}

#[tokio::test]
async fn a_populate_that_fails_leaves_no_mapping() {
    let world = World::new().await;
    world.chaos.push(Call::Read, Fault::FailBefore);
    let request = MapRequest {
        path: "/f".into(),
        offset: 0,
        length: None,
        prot: ProtFlags::PROT_READ,
        flags: MapFlags::Shared,
        create: Create::Never,
        populate: Populate::Now,
    };
    assert_eq!(world.manager.map(1, request).await.unwrap_err().errno(), Errno::Io);
    assert_eq!((world.file().mapped_by(), world.manager.mappings.len()), (0, 0));
}

#[tokio::test]
async fn what_is_written_while_pages_are_being_kept_aside_is_kept_too() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::new().await;
    let mount = Mount::with_store("/", Arc::clone(&world.chaos) as Arc<dyn FileStore>).unwrap();
    let (vfs, state) = (Vfs::new(vec![mount]).unwrap(), StateDir::open(folder.path()).unwrap());
    world.manager = MmapManager::open(vfs, state, world.manager.limits().clone()).unwrap();
    let id = world.map(1).await;
    let mut last = 1u8;
    world.manager.write(1, id, BLOCK_SIZE, &[last; PAGE_LEN]).await.unwrap();
    world.replace(&[7; 10], None).await;
    let force = SyncRequest { on_change: OnChange::Force, ..SyncRequest::default() };
    let manager = Arc::clone(&world.manager);
    let sync = tokio::spawn(async move { manager.sync(1, id, force).await });
    // Some bytes are written while the first ones are on their way to the disk.
    while last < 10 && world.manager.write(1, id, BLOCK_SIZE, &[last + 1; PAGE_LEN]).await.is_ok() {
        last += 1;
        tokio::task::yield_now().await;
    }
    sync.await.unwrap().unwrap();
    assert!(last > 1, "nothing was written meanwhile");
    let kept = |conflict: &crate::aside::Conflict| {
        std::fs::read(folder.path().join("conflicts").join(format!("{}.pages", conflict.id))).unwrap()
    };
    assert!(world.manager.conflicts().unwrap().iter().any(|conflict| kept(conflict) == [last; PAGE_LEN]));
}

#[tokio::test]
async fn an_exit_that_may_not_discard_one_file_discards_nothing_of_the_others() {
    let world = World::new().await;
    let map = |pid: u32, name: &str| {
        world.manager.mmap(pid, format!("/{name}"), 0, 10, ProtFlags::read_write(), MapFlags::Shared)
    };
    let mut mine = Vec::new();
    for name in ["a", "b", "c", "d", "e", "g", "h", "shared"] {
        world.put(name, &[1; 10]).await;
        let id = map(1, name).await.unwrap();
        world.manager.write(1, id, 0, b"x").await.unwrap();
        mine.push(id);
    }
    map(2, "shared").await.unwrap();
    assert_eq!(world.manager.exit(1, true).await.unwrap_err().errno(), Errno::Busy);
    for id in mine {
        assert_eq!(world.byte(1, id, 0).await, b'x');
    }
}
