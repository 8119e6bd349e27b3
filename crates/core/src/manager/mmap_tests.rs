//! Unit tests of the syscalls on an in-memory store; the examples of the system that this one implements
//! stand here word for word where they can.

use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::caller::Caller;
use crate::capability::{Capability, CapabilitySet};
use crate::error::Errno;
use crate::flags::{MapFlags, ProtFlags};
use crate::units::{BLOCK_SIZE, PAGE_LEN, PAGE_SIZE};
use crate::vfs::object::ObjectLayout;
use crate::vfs::{Base, CommitId, FileStore, Mount, Patch, StoreFault, Vfs, WriteBack};

/// A manager, and the store under it as somebody else would see it.
struct World {
    mmap_manager: Arc<MmapManager>,
    store: Arc<ObjectLayout>,
}

impl World {
    fn new() -> Self {
        let store = Arc::new(ObjectLayout::in_memory());
        let mount = Mount::with_store("/", Arc::clone(&store) as Arc<dyn FileStore>).unwrap();
        Self { mmap_manager: MmapManager::with_vfs(Vfs::new(vec![mount]).unwrap()), store }
    }

    /// Puts a file into the store behind the manager's back.
    async fn put(&self, path: &str, data: &[u8]) {
        let name = path.trim_start_matches('/');
        let base = match self.store.stat(name).await {
            Ok(stat) => Base::At { version: stat.version, size: stat.size },
            Err(_) => Base::Missing,
        };
        let patches = if data.is_empty() {
            Vec::new()
        } else {
            vec![Patch { offset: 0, data: Bytes::copy_from_slice(data), dirty: true }]
        };
        let change = WriteBack { base, size: data.len() as u64, patches, commit: CommitId::random() };
        self.store.write_back(name, change).await.unwrap();
    }

    /// What the store has, as an independent reader sees it.
    async fn stored(&self, path: &str) -> Option<Vec<u8>> {
        let name = path.trim_start_matches('/');
        let stat = match self.store.stat(name).await {
            Ok(stat) => stat,
            Err(StoreFault::Missing) => return None,
            Err(fault) => panic!("{fault}"),
        };
        if stat.size == 0 {
            return Some(Vec::new());
        }
        let range = crate::units::ByteRange::new(0, stat.size);
        Some(self.store.read(name, &stat.version, range).await.unwrap().concat())
    }
}

fn errno<T: std::fmt::Debug>(result: crate::error::Result<T>) -> Errno {
    result.unwrap_err().errno()
}

#[tokio::test]
async fn mmap_example_creating_reading_writing_syncing_and_unmapping() -> crate::error::Result<()> {
    let world = World::new();
    world.put("/data/myfile.dat", &[7; 8192]).await;
    let (mmap_manager, pid) = (&world.mmap_manager, 42);

    let mmap_id = mmap_manager
        .mmap(
            pid,
            "/data/myfile.dat".to_string(),
            0,    // offset in file
            4096, // length to map
            ProtFlags::read_write(),
            MapFlags::Shared,
        )
        .await?;

    let data = mmap_manager
        .read(
            pid, mmap_id, 0,    // offset in mapping
            1024, // length to read
        )
        .await?;
    assert_eq!(data, [7; 1024]);

    let data = b"Hello, mmap!";
    mmap_manager
        .write(
            pid, mmap_id, 0, // offset in mapping
            data,
        )
        .await?;
    assert_eq!(world.stored("/data/myfile.dat").await.unwrap(), [7; 8192]);

    // Force write-back to file (for shared writable mappings)
    mmap_manager.msync(pid, mmap_id).await?;
    assert_eq!(world.stored("/data/myfile.dat").await.unwrap()[..14], *b"Hello, mmap!\x07\x07");

    // Automatically syncs shared writable mappings
    mmap_manager.write(pid, mmap_id, 100, b"bye").await?;
    mmap_manager.munmap(pid, mmap_id).await?;
    assert_eq!(world.stored("/data/myfile.dat").await.unwrap()[100..103], *b"bye");
    assert_eq!(errno(mmap_manager.read(pid, mmap_id, 0, 1).await), Errno::BadF);
    Ok(())
}

#[tokio::test]
async fn mmap_example_large_file_processing() -> crate::error::Result<()> {
    let world = World::new();
    let file: Vec<u8> = (0..5 * BLOCK_SIZE + 77).map(|i| (i % 251) as u8).collect();
    world.put("/data/large_dataset.bin", &file).await;
    let (mmap_manager, pid, file_size) = (&world.mmap_manager, 1, file.len() as u64);

    // Map large file into memory for random access
    let mmap_id = mmap_manager
        .mmap(pid, "/data/large_dataset.bin".to_string(), 0, file_size, ProtFlags::PROT_READ, MapFlags::Private)
        .await?;

    // Read specific sections efficiently
    let at = |position: u64| usize::try_from(position).unwrap();
    for (offset, chunk_size) in [(0, 10), (BLOCK_SIZE - 5, 10), (1000, 3 * BLOCK_SIZE), (file_size - 1, 1)] {
        let chunk = mmap_manager.read(pid, mmap_id, offset, chunk_size).await?;
        assert_eq!(chunk, file[at(offset)..at(offset + chunk_size)]);
    }
    Ok(())
}

#[tokio::test]
async fn mmap_example_inter_process_communication() -> crate::error::Result<()> {
    let world = World::new();
    world.put("/tmp/shared.dat", &[0; 4096]).await;
    let (mmap_manager, pid_a, pid_b) = (&world.mmap_manager, 1, 2);

    // Process A creates shared mapping
    let mmap_id_a = mmap_manager
        .mmap(pid_a, "/tmp/shared.dat".to_string(), 0, 4096, ProtFlags::read_write(), MapFlags::Shared)
        .await?;

    // Process B maps same file
    let mmap_id_b = mmap_manager
        .mmap(pid_b, "/tmp/shared.dat".to_string(), 0, 4096, ProtFlags::read_write(), MapFlags::Shared)
        .await?;

    // Process A writes
    mmap_manager.write(pid_a, mmap_id_a, 0, b"Hello").await?;
    mmap_manager.msync(pid_a, mmap_id_a).await?;

    // Process B reads
    let data = mmap_manager.read(pid_b, mmap_id_b, 0, 5).await?;
    assert!(data == b"Hello");
    Ok(())
}

#[tokio::test]
async fn mmap_example_configuration_file_update() -> crate::error::Result<()> {
    let world = World::new();
    world.put("/config/app.conf", b"level = info \nport = 80\n").await;
    let (mmap_manager, pid, config_size) = (&world.mmap_manager, 9, 24);
    let (offset, new_config) = (8, b"debug");

    // Map config file
    let mmap_id = mmap_manager
        .mmap(pid, "/config/app.conf".to_string(), 0, config_size, ProtFlags::read_write(), MapFlags::Shared)
        .await?;

    // Modify in memory
    mmap_manager.write(pid, mmap_id, offset, new_config).await?;

    // Sync to disk
    mmap_manager.msync(pid, mmap_id).await?;
    assert_eq!(world.stored("/config/app.conf").await.unwrap(), b"level = debug\nport = 80\n");
    Ok(())
}

#[tokio::test]
async fn mmap_example_automatic_cleanup_syncs_and_drops_everything() -> crate::error::Result<()> {
    let world = World::new();
    world.put("/f", &[0; 10]).await;
    let (mmap_manager, pid) = (&world.mmap_manager, 3);
    let shared = mmap_manager.mmap(pid, "/f".into(), 0, 10, ProtFlags::read_write(), MapFlags::Shared).await?;
    let private = mmap_manager.mmap(pid, "/f".into(), 0, 10, ProtFlags::all(), MapFlags::Private).await?;
    mmap_manager.write(pid, shared, 0, b"shared").await?;
    mmap_manager.write(pid, private, 0, b"private").await?;

    let cleaned = mmap_manager.cleanup_process(pid).await;

    assert_eq!(cleaned, 2);
    assert_eq!(world.stored("/f").await.unwrap(), b"shared\0\0\0\0");
    assert_eq!(mmap_manager.cleanup_process(pid).await, 0);
    for id in [shared, private] {
        assert_eq!(errno(mmap_manager.stats(pid, id)), Errno::BadF);
    }
    Ok(())
}

#[tokio::test]
async fn mmap_stats_tell_what_the_seed_told() -> crate::error::Result<()> {
    let world = World::new();
    world.put("/data/myfile.dat", &[1; 10_000]).await;
    let id = world
        .mmap_manager
        .mmap(42, "/data/myfile.dat".into(), 0, 4096, ProtFlags::read_write(), MapFlags::Shared)
        .await?;
    world.mmap_manager.write(42, id, 10, b"x").await?;
    let stats = world.mmap_manager.stats(42, id)?;
    assert_eq!((stats.id, stats.path.as_str(), stats.offset, stats.length), (id, "/data/myfile.dat", 0, 4096));
    assert_eq!((stats.prot, stats.flags, stats.owner_pid), (ProtFlags::read_write(), MapFlags::Shared, 42));
    assert_eq!((stats.file_size, stats.dirty_bytes, stats.resident_bytes), (10_000, 4096, 4096));
    assert_eq!(stats.major_faults, 1);
    Ok(())
}

#[tokio::test]
async fn mmap_private_writes_are_seen_by_their_mapping_alone() -> crate::error::Result<()> {
    let world = World::new();
    world.put("/f", &[1; 3 * PAGE_LEN]).await;
    let manager = &world.mmap_manager;
    let length = 3 * PAGE_SIZE;
    let own = manager.mmap(1, "/f".into(), 0, length, ProtFlags::read_write(), MapFlags::Private).await?;
    let shared = manager.mmap(2, "/f".into(), 0, length, ProtFlags::read_write(), MapFlags::Shared).await?;
    manager.write(1, own, PAGE_SIZE - 1, &[9, 9]).await?;
    assert_eq!(manager.read(2, shared, PAGE_SIZE - 1, 2).await?, [1, 1]);
    // Pages that it has not written show the file's present bytes; once written, they stay its own.
    manager.write(2, shared, 0, &[5; 3 * PAGE_LEN]).await?;
    assert_eq!(manager.read(1, own, PAGE_SIZE - 2, 4).await?, [1, 9, 9, 1]);
    assert_eq!(manager.read(1, own, 2 * PAGE_SIZE - 1, 2).await?, [1, 5]);
    assert_eq!(manager.msync(1, own).await?.bytes, 0);
    assert_eq!(manager.munmap(1, own).await?, 0);
    assert_eq!(world.stored("/f").await.unwrap(), [1; 3 * PAGE_LEN]);
    Ok(())
}

#[tokio::test]
async fn mmap_msync_of_a_range_stores_its_pages_and_no_others() -> crate::error::Result<()> {
    let world = World::new();
    world.put("/f", &[0; 10 * PAGE_LEN]).await;
    let manager = &world.mmap_manager;
    let id = manager.mmap(1, "/f".into(), 0, 10 * PAGE_SIZE, ProtFlags::read_write(), MapFlags::Shared).await?;
    manager.write(1, id, 10, b"a").await?;
    manager.write(1, id, 5 * PAGE_SIZE, b"b").await?;
    let request = SyncRequest { offset: Some(0), length: Some(1), ..SyncRequest::default() };
    assert_eq!(manager.sync(1, id, request).await?.bytes, PAGE_SIZE);
    let stored = world.stored("/f").await.unwrap();
    assert_eq!((stored[10], stored[5 * PAGE_LEN]), (b'a', 0));
    assert_eq!(manager.msync(1, id).await?.bytes, PAGE_SIZE);
    assert_eq!(world.stored("/f").await.unwrap()[5 * PAGE_LEN], b'b');
    assert_eq!(manager.msync(1, id).await?.bytes, 0);
    Ok(())
}

#[tokio::test]
async fn mmap_past_the_end_reads_zeros_in_the_last_page_and_is_sigbus_behind_it() -> crate::error::Result<()> {
    let world = World::new();
    world.put("/f", &[1; 100]).await;
    let manager = &world.mmap_manager;
    let id = manager.mmap(1, "/f".into(), 0, 4 * PAGE_SIZE, ProtFlags::read_write(), MapFlags::Shared).await?;
    assert_eq!(manager.read(1, id, 99, 3).await?, [1, 0, 0]);
    manager.write(1, id, 98, &[7; 50]).await?;
    assert_eq!(manager.read(1, id, 97, 5).await?, [1, 7, 7, 0, 0]);
    assert_eq!(errno(manager.read(1, id, PAGE_SIZE - 1, 2).await), Errno::SigBus);
    assert_eq!(errno(manager.write(1, id, PAGE_SIZE, &[1]).await), Errno::SigBus);
    manager.msync(1, id).await?;
    let stored = world.stored("/f").await.unwrap();
    assert_eq!((stored.len(), stored[97], stored[98], stored[99]), (100, 1, 7, 7));
    Ok(())
}

#[tokio::test]
async fn mmap_truncation_moves_the_end_for_existing_mappings_at_once() -> crate::error::Result<()> {
    let world = World::new();
    world.put("/f", &[1; 3 * PAGE_LEN]).await;
    let manager = &world.mmap_manager;
    let shared = manager.mmap(1, "/f".into(), 0, 3 * PAGE_SIZE, ProtFlags::read_write(), MapFlags::Shared).await?;
    let own = manager.mmap(1, "/f".into(), 0, 3 * PAGE_SIZE, ProtFlags::read_write(), MapFlags::Private).await?;
    manager.write(1, shared, 0, &[2; 3 * PAGE_LEN]).await?;
    manager.write(1, own, 0, &[3; 3 * PAGE_LEN]).await?;
    let cut = manager.truncate_file(1, "/f", PAGE_SIZE + 1, Create::Never).await?;
    assert_eq!(cut.size, PAGE_SIZE + 1);
    // The new size is in the store, the unsynced bytes are not.
    assert_eq!(world.stored("/f").await.unwrap(), [1; PAGE_LEN + 1]);
    for (id, byte) in [(shared, 2), (own, 3)] {
        assert_eq!(manager.read(1, id, PAGE_SIZE, 3).await?, [byte, 0, 0]);
        assert_eq!(errno(manager.read(1, id, 2 * PAGE_SIZE, 1).await), Errno::SigBus);
    }
    manager.truncate_file(1, "/f", 3 * PAGE_SIZE, Create::Never).await?;
    for id in [shared, own] {
        assert_eq!(manager.read(1, id, PAGE_SIZE + 1, 2 * PAGE_SIZE - 1).await?, [0; 2 * PAGE_LEN - 1]);
    }
    manager.msync(1, shared).await?;
    let stored = world.stored("/f").await.unwrap();
    assert_eq!((stored[PAGE_LEN], stored[PAGE_LEN + 1], stored.len()), (2, 0, 3 * PAGE_LEN));
    Ok(())
}

#[tokio::test]
async fn mmap_a_change_in_the_store_under_unsynced_writes_is_never_overwritten() -> crate::error::Result<()> {
    let world = World::new();
    world.put("/f", &[1; 2 * PAGE_LEN]).await;
    let manager = &world.mmap_manager;
    let id = manager.mmap(1, "/f".into(), 0, 2 * PAGE_SIZE, ProtFlags::read_write(), MapFlags::Shared).await?;
    manager.write(1, id, 0, b"mine").await?;
    world.put("/f", &[2; 2 * PAGE_LEN]).await;
    assert_eq!(errno(manager.msync(1, id).await), Errno::Stale);
    assert_eq!(errno(manager.munmap(1, id).await), Errno::Stale);
    assert_eq!(world.stored("/f").await.unwrap(), [2; 2 * PAGE_LEN]);
    assert_eq!(manager.read(1, id, 0, 5).await?, *b"mine\x01");
    let force = SyncRequest { on_change: OnChange::Force, ..SyncRequest::default() };
    assert_eq!(manager.sync(1, id, force).await?.bytes, PAGE_SIZE);
    let stored = world.stored("/f").await.unwrap();
    assert_eq!((&stored[..5], stored[PAGE_LEN]), (&b"mine\x01"[..], 2));
    Ok(())
}

#[tokio::test]
async fn mmap_invalidate_gives_unsynced_writes_up_only_if_the_store_changed() -> crate::error::Result<()> {
    let world = World::new();
    world.put("/f", &[1; PAGE_LEN]).await;
    let manager = &world.mmap_manager;
    let id = manager.mmap(1, "/f".into(), 0, PAGE_SIZE, ProtFlags::read_write(), MapFlags::Shared).await?;
    let invalidate = SyncRequest { on_change: OnChange::Invalidate, ..SyncRequest::default() };
    manager.write(1, id, 0, b"kept").await?;
    assert_eq!(manager.sync(1, id, invalidate).await?.bytes, PAGE_SIZE);
    assert_eq!(world.stored("/f").await.unwrap()[..4], *b"kept");
    manager.write(1, id, 0, b"lost").await?;
    world.put("/f", &[3; PAGE_LEN]).await;
    let other = manager.mmap(2, "/f".into(), 0, PAGE_SIZE, ProtFlags::read_write(), MapFlags::Shared).await?;
    assert_eq!(errno(manager.sync(1, id, invalidate).await), Errno::Busy);
    assert_eq!(manager.read(2, other, 0, 4).await?, *b"lost");
    manager.unmap(2, other, Unsynced::DiscardForce).await?;
    assert_eq!(manager.sync(1, id, invalidate).await?.bytes, 0);
    assert_eq!(manager.read(1, id, 0, 4).await?, [3; 4]);
    Ok(())
}

#[tokio::test]
async fn mmap_force_keeps_pages_behind_the_new_end_aside() -> crate::error::Result<()> {
    let world = World::new();
    world.put("/f", &[1; 3 * PAGE_LEN]).await;
    let manager = &world.mmap_manager;
    let id = manager.mmap(1, "/f".into(), 0, 3 * PAGE_SIZE, ProtFlags::read_write(), MapFlags::Shared).await?;
    manager.write(1, id, 0, b"front").await?;
    manager.write(1, id, 2 * PAGE_SIZE, b"back").await?;
    world.put("/f", &[2; 10]).await;
    let force = SyncRequest { on_change: OnChange::Force, ..SyncRequest::default() };
    assert_eq!(manager.sync(1, id, force).await?.bytes, PAGE_SIZE);
    assert_eq!(world.stored("/f").await.unwrap(), b"front\x01\x01\x01\x01\x01");
    let conflicts = manager.conflicts()?;
    assert_eq!(conflicts.iter().map(|kept| kept.offsets.clone()).collect::<Vec<_>>(), [[2 * PAGE_SIZE]]);
    Ok(())
}

#[tokio::test]
async fn mmap_a_dead_processs_conflicting_pages_are_kept_aside_and_the_file_is_the_new_content()
-> crate::error::Result<()> {
    let world = World::new();
    world.put("/f", &[1; PAGE_LEN]).await;
    let manager = &world.mmap_manager;
    let id = manager.mmap(1, "/f".into(), 0, PAGE_SIZE, ProtFlags::read_write(), MapFlags::Shared).await?;
    manager.write(1, id, 0, b"mine").await?;
    world.put("/f", &[2; PAGE_LEN]).await;
    assert_eq!(manager.cleanup_process(1).await, 1);
    for _ in 0..500 {
        if !manager.conflicts()?.is_empty() && manager.stat_file(1, "/f").await?.dirty_bytes == 0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(manager.conflicts()?.len(), 1);
    let id = manager.mmap(2, "/f".into(), 0, 4, ProtFlags::PROT_READ, MapFlags::Shared).await?;
    assert_eq!(manager.read(2, id, 0, 4).await?, [2; 4]);
    assert_eq!(world.stored("/f").await.unwrap(), [2; PAGE_LEN]);
    Ok(())
}

#[tokio::test]
async fn mmap_protection_bounds_and_owners_are_checked_in_order() -> crate::error::Result<()> {
    let world = World::new();
    world.put("/f", &[1; 100]).await;
    let manager = &world.mmap_manager;
    let read_only = manager.mmap(1, "/f".into(), 0, 100, ProtFlags::PROT_READ, MapFlags::Shared).await?;
    let none = manager.mmap(1, "/f".into(), 0, 100, ProtFlags::PROT_NONE, MapFlags::Shared).await?;
    assert_eq!(errno(manager.write(1, read_only, 0, b"x").await), Errno::SegvAccErr);
    assert_eq!(errno(manager.read(1, none, 0, 1).await), Errno::SegvAccErr);
    assert_eq!(errno(manager.read(1, none, 100, 1).await), Errno::SegvMapErr);
    assert_eq!(errno(manager.read(2, read_only, 0, 1).await), Errno::BadF);
    assert_eq!(errno(manager.read(2, read_only, 0, 0).await), Errno::Inval);
    assert_eq!(errno(manager.read(1, read_only, u64::MAX, 2).await), Errno::Inval);
    assert_eq!(errno(manager.munmap(2, read_only).await), Errno::BadF);
    let weak = Caller { capabilities: CapabilitySet::default().with(Capability::FileRead), ..Caller::from(1) };
    let mapped = manager.mmap(&weak, "/f".into(), 0, 1, ProtFlags::PROT_WRITE, MapFlags::Private).await;
    assert_eq!(errno(mapped), Errno::Acces);
    assert_eq!(errno(manager.stats(&weak, read_only)), Errno::Acces);
    assert_eq!(errno(manager.mmap(1, "/missing".into(), 0, 1, ProtFlags::all(), MapFlags::Shared).await), Errno::NoEnt);
    Ok(())
}

#[tokio::test]
async fn mmap_exit_syncs_and_a_pid_can_be_used_again() -> crate::error::Result<()> {
    let world = World::new();
    world.put("/f", &[0; 10]).await;
    let manager = &world.mmap_manager;
    let attachment = manager.attach(7, None, "worker".into())?;
    assert_eq!(errno(manager.attach(7, None, String::new())), Errno::Busy);
    let id = manager.mmap(7, "/f".into(), 0, 10, ProtFlags::read_write(), MapFlags::Shared).await?;
    manager.write(7, id, 0, b"bye").await?;
    let exited = manager.exit(7, false).await?;
    assert_eq!(exited, Exited { unmapped: 1, synced_bytes: PAGE_SIZE });
    attachment.ended().await;
    assert_eq!(world.stored("/f").await.unwrap()[..3], *b"bye");
    assert_eq!(errno(manager.exit(7, false).await), Errno::Srch);
    let again = manager.mmap(7, "/f".into(), 0, 10, ProtFlags::PROT_READ, MapFlags::Shared).await?;
    assert!(again > id);
    Ok(())
}

#[tokio::test]
async fn mmap_a_file_that_is_mapped_is_not_removed() -> crate::error::Result<()> {
    let world = World::new();
    world.put("/f", &[0; 10]).await;
    let manager = &world.mmap_manager;
    let id = manager.mmap(1, "/f".into(), 0, 10, ProtFlags::PROT_READ, MapFlags::Shared).await?;
    assert_eq!(errno(manager.remove_file(1, "/f").await), Errno::Busy);
    manager.munmap(1, id).await?;
    manager.remove_file(1, "/f").await?;
    assert_eq!(world.stored("/f").await, None);
    assert_eq!(errno(manager.remove_file(1, "/f").await), Errno::NoEnt);
    Ok(())
}

#[tokio::test]
async fn mmap_shutdown_stores_what_is_unsynced_and_refuses_later_calls() -> crate::error::Result<()> {
    let world = World::new();
    world.put("/f", &[0; 10]).await;
    let manager = &world.mmap_manager;
    let id = manager.mmap(1, "/f".into(), 0, 10, ProtFlags::read_write(), MapFlags::Shared).await?;
    manager.write(1, id, 0, b"late").await?;
    let report = manager.shutdown(std::time::Duration::from_secs(10)).await;
    assert_eq!((report.synced_bytes, report.unsynced.len()), (PAGE_SIZE, 0));
    assert_eq!(world.stored("/f").await.unwrap()[..4], *b"late");
    assert_eq!(errno(manager.mmap(1, "/f".into(), 0, 1, ProtFlags::all(), MapFlags::Shared).await), Errno::Io);
    Ok(())
}
