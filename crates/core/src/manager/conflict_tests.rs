//! Unit tests of conflicts: applied, dropped, read and listed, on stores that fail and in folders that people touched.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::fault_tests::World;
use super::*;
use crate::aside::{AsidePages, Conflict};
use crate::scope::{PathGrant, PathScope, Rights};
use crate::units::{BLOCK_SIZE, ByteRange, PAGE_LEN, PAGE_SIZE, PageIndex};
use crate::vfs::chaos::{Call, Fault};
use crate::vfs::object::ObjectLayout;
use crate::vfs::{Base, CommitId, FileStore, Mount, Patch, WriteBack};

const SIZE: u64 = 10 * BLOCK_SIZE;

/// Keeps pages of `/f` aside, each filled with its byte.
async fn keep(manager: &MmapManager, file_size: u64, pages: &[(u64, u8)]) -> Conflict {
    let page = |(page, fill): &(u64, u8)| (PageIndex(*page), Bytes::from(vec![*fill; PAGE_LEN]));
    let pages = pages.iter().map(page).collect();
    let kept = AsidePages { path: "/f".into(), base_version: "v0".into(), file_size, why: "test".into(), pages };
    manager.shared.aside.keep(kept).await.unwrap()
}

/// What somebody else puts into the store.
async fn overwrite(inner: &ObjectLayout, fill: u8, size: u64) {
    let stat = inner.stat("f").await.unwrap();
    let base = Base::At { version: stat.version, size: stat.size };
    let data = Bytes::from(vec![fill; usize::try_from(size).unwrap()]);
    let patches = vec![Patch { offset: 0, data, dirty: true }];
    inner.write_back("f", WriteBack { base, size, patches, commit: CommitId::random() }).await.unwrap();
}

fn at(page: u64) -> usize {
    usize::try_from(page * PAGE_SIZE).unwrap()
}

#[tokio::test]
async fn an_applied_conflict_is_in_the_store_and_in_every_mapping_at_once() {
    let world = World::new().await;
    let id = world.map(1).await;
    world.manager.read(1, id, 0, 100_000).await.unwrap();
    world.manager.write(1, id, 5 * PAGE_SIZE, b"unsynced elsewhere").await.unwrap();
    world.manager.write(1, id, 7 * PAGE_SIZE, b"unsynced here").await.unwrap();
    let conflict = keep(&world.manager, SIZE, &[(0, 7), (1, 7), (7, 8), (40, 9)]).await;
    let applied = world.manager.apply_conflict(2, &conflict.id).await.unwrap();
    assert_eq!((applied.path.as_str(), applied.size, applied.bytes), ("/f", SIZE, 4 * PAGE_SIZE));
    assert_eq!(applied.version, world.inner.stat("f").await.unwrap().version.as_str());
    let stored = world.stored().await;
    for (page, fill) in [(0, 7), (1, 7), (2, 1), (5, 1), (7, 8), (39, 1), (40, 9)] {
        assert_eq!(stored[at(page)], fill, "page {page} in the store");
    }
    for (page, fill) in [(0, 7), (1, 7), (2, 1), (5, b'u'), (7, 8), (39, 1), (40, 9)] {
        assert_eq!(world.manager.read(1, id, page * PAGE_SIZE, 1).await.unwrap(), [fill], "page {page} as mapped");
    }
    assert_eq!(world.manager.conflicts().unwrap(), []);
    assert_eq!(world.manager.apply_conflict(2, &conflict.id).await.unwrap_err().errno(), Errno::NoEnt);
    world.manager.msync(1, id).await.unwrap();
    let stored = world.stored().await;
    assert_eq!((stored[at(5)], stored[at(7)], stored[at(40)]), (b'u', 8, 9));
}

#[tokio::test]
async fn an_apply_that_the_store_refuses_changes_nothing_and_keeps_the_conflict() {
    let world = World::new().await;
    let conflict = keep(&world.manager, SIZE + PAGE_SIZE, &[(0, 7), (160, 7)]).await;
    let before = world.inner.stat("f").await.unwrap();
    world.chaos.push(Call::WriteBack, Fault::FailBefore);
    assert_eq!(world.manager.apply_conflict(1, &conflict.id).await.unwrap_err().errno(), Errno::Io);
    assert_eq!(world.inner.stat("f").await.unwrap(), before);
    assert_eq!(world.manager.conflicts().unwrap(), std::slice::from_ref(&conflict));
    assert_eq!(world.manager.stat_file(1, "/f").await.unwrap().dirty_bytes, 0);
    world.manager.drop_conflict(1, &conflict.id).await.unwrap();
    assert_eq!(world.inner.stat("f").await.unwrap(), before, "what was dropped never reaches the store");
}

#[tokio::test]
async fn an_apply_whose_answer_was_lost_can_be_repeated_and_is_no_conflict_with_ourselves() {
    let world = World::new().await;
    let id = world.map(1).await;
    assert_eq!(world.manager.read(1, id, 0, 1).await.unwrap(), [1]);
    world.manager.write(1, id, 5 * PAGE_SIZE, b"mine").await.unwrap();
    let conflict = keep(&world.manager, SIZE, &[(0, 7), (20, 7)]).await;
    world.chaos.push(Call::WriteBack, Fault::FailAfter);
    assert_eq!(world.manager.apply_conflict(1, &conflict.id).await.unwrap_err().errno(), Errno::Io);
    assert_eq!(world.manager.conflicts().unwrap().len(), 1, "it stays until the store is known to have it");
    // A sync of other pages meets the new version first, and must know it for our own, and memory for old.
    assert_eq!(world.manager.msync(1, id).await.unwrap().bytes, PAGE_SIZE);
    assert_eq!(world.manager.read(1, id, 0, 1).await.unwrap(), [7]);
    assert_eq!(world.manager.read(1, id, 20 * PAGE_SIZE, 1).await.unwrap(), [7]);
    let again = world.manager.apply_conflict(1, &conflict.id).await.unwrap();
    assert_eq!(again.bytes, 2 * PAGE_SIZE);
    let stored = world.stored().await;
    assert_eq!((stored[at(0)], &stored[at(5)..at(5) + 4], stored[at(20)]), (7, &b"mine"[..], 7));
    assert_eq!(world.manager.conflicts().unwrap(), []);
}

#[tokio::test]
async fn an_apply_grows_the_file_no_farther_than_its_pages_and_makes_a_missing_one() {
    let world = World::new().await;
    let id = world.map(1).await;
    // The last page ends within: five bytes of it are the file's.
    let longer = keep(&world.manager, SIZE + PAGE_SIZE + 5, &[(0, 7), (161, 7)]).await;
    let applied = world.manager.apply_conflict(1, &longer.id).await.unwrap();
    assert_eq!((applied.size, applied.bytes), (SIZE + PAGE_SIZE + 5, PAGE_SIZE + 5));
    let stored = world.stored().await;
    assert_eq!((stored.len() as u64, stored[at(160)], stored[at(161)]), (SIZE + PAGE_SIZE + 5, 0, 7));
    assert_eq!(world.manager.read(1, id, 0, 1).await.unwrap(), [7]);

    // Of a file that is longer now, what lies behind the kept bytes stays as it is, unsynced writes too.
    overwrite(&world.inner, 3, SIZE).await;
    world.manager.read(1, id, 0, 1).await.unwrap();
    world.manager.sync(1, id, SyncRequest { on_change: OnChange::Invalidate, ..SyncRequest::default() }).await.unwrap();
    world.manager.write(1, id, PAGE_SIZE + 50, b"live").await.unwrap();
    let shorter = keep(&world.manager, PAGE_SIZE + 10, &[(1, 8)]).await;
    assert_eq!(world.manager.apply_conflict(1, &shorter.id).await.unwrap().size, SIZE);
    let stored = world.stored().await;
    assert_eq!((stored[at(1) + 9], stored[at(1) + 10], stored[at(1) + 50]), (8, 3, 3));
    assert_eq!(world.manager.read(1, id, PAGE_SIZE + 9, 2).await.unwrap(), [8, 3]);
    assert_eq!(world.manager.read(1, id, PAGE_SIZE + 50, 4).await.unwrap(), b"live");
    world.manager.munmap(1, id).await.unwrap();

    let gone = keep(&world.manager, 3 * PAGE_SIZE, &[(1, 9)]).await;
    world.manager.remove_file(1, "/f").await.unwrap();
    assert_eq!(world.manager.apply_conflict(1, &gone.id).await.unwrap().size, 3 * PAGE_SIZE);
    let stored = world.stored().await;
    assert_eq!((stored.len(), stored[0], stored[at(1)], stored[at(2)]), (at(3), 0, 9, 0));
}

#[tokio::test]
async fn of_an_apply_and_a_drop_at_the_same_time_exactly_one_wins() {
    let world = World::new().await;
    let conflict = keep(&world.manager, SIZE, &[(0, 7)]).await;
    world.chaos.push(Call::WriteBack, Fault::Hang);
    let apply = {
        let (manager, id) = (Arc::clone(&world.manager), conflict.id.clone());
        tokio::spawn(async move { manager.apply_conflict(1, &id).await })
    };
    world.hanging(1).await;
    assert_eq!(world.manager.drop_conflict(1, &conflict.id).await.unwrap_err().errno(), Errno::Busy);
    assert_eq!(world.manager.apply_conflict(1, &conflict.id).await.unwrap_err().errno(), Errno::Busy);
    world.chaos.release();
    apply.await.unwrap().unwrap();
    assert_eq!(world.manager.drop_conflict(1, &conflict.id).await.unwrap_err().errno(), Errno::NoEnt);
    assert_eq!(world.stored().await[0], 7);
}

#[tokio::test]
async fn an_apply_whose_caller_goes_away_is_finished_and_its_conflict_removed() {
    let world = World::new().await;
    let conflict = keep(&world.manager, SIZE, &[(0, 7)]).await;
    world.chaos.push(Call::WriteBack, Fault::Hang);
    let (manager, id) = (Arc::clone(&world.manager), conflict.id.clone());
    let apply = tokio::spawn(async move { manager.apply_conflict(1, &id).await });
    world.hanging(1).await;
    apply.abort();
    assert!(apply.await.unwrap_err().is_cancelled());
    world.chaos.release();
    let gone = || world.manager.conflicts().unwrap().is_empty();
    super::fault_tests::eventually("the conflict is removed", gone).await;
    assert_eq!(world.stored().await[0], 7);
}

#[tokio::test]
async fn a_file_with_writes_on_an_older_version_is_not_applied_to() {
    let world = World::new().await;
    let id = world.map(1).await;
    world.manager.write(1, id, 0, b"mine").await.unwrap();
    overwrite(&world.inner, 3, SIZE).await;
    let conflict = keep(&world.manager, SIZE, &[(9, 7)]).await;
    assert_eq!(world.manager.apply_conflict(2, &conflict.id).await.unwrap_err().errno(), Errno::Stale);
    let stored = world.stored().await;
    assert_eq!((stored[0], stored[at(9)]), (3, 3));
    let force = SyncRequest { on_change: OnChange::Force, ..SyncRequest::default() };
    world.manager.sync(1, id, force).await.unwrap();
    world.manager.apply_conflict(2, &conflict.id).await.unwrap();
    let stored = world.stored().await;
    assert_eq!((&stored[..4], stored[at(9)]), (&b"mine"[..], 7));
}

#[tokio::test]
async fn a_change_that_comes_between_is_kept_beside_the_applied_pages() {
    let world = World::new().await;
    let conflict = keep(&world.manager, SIZE, &[(0, 7)]).await;
    world.chaos.push(Call::WriteBack, Fault::Hang);
    let (manager, id) = (Arc::clone(&world.manager), conflict.id.clone());
    let apply = tokio::spawn(async move { manager.apply_conflict(1, &id).await });
    world.hanging(1).await;
    overwrite(&world.inner, 4, SIZE).await;
    world.chaos.release();
    apply.await.unwrap().unwrap();
    let stored = world.stored().await;
    assert_eq!((stored[0], stored[at(1)]), (7, 4));
}

#[tokio::test]
async fn a_conflict_is_read_in_parts_without_gap_or_overlap() {
    let world = World::new().await;
    let conflict = keep(&world.manager, 4 * PAGE_SIZE + 5, &[(0, 5), (1, 6), (4, 7)]).await;
    let all = ReadConflict { offset: 0, length: None, ranges_only: false };
    let part = world.manager.read_conflict(1, &conflict.id, all).await.unwrap();
    assert_eq!(part.ranges, [ByteRange::new(0, 2 * PAGE_SIZE), ByteRange::new(4 * PAGE_SIZE, 4 * PAGE_SIZE + 5)]);
    assert_eq!((part.runs.len(), part.next_offset), (2, None));
    assert_eq!((part.runs[0].data[at(1)], &part.runs[1].data[..]), (6, &[7; 5][..]));
    let second = ReadConflict { offset: PAGE_SIZE + 1, length: Some(1), ranges_only: false };
    let part = world.manager.read_conflict(1, &conflict.id, second).await.unwrap();
    assert_eq!((part.ranges, part.next_offset), (vec![PageIndex(1).range()], Some(4 * PAGE_SIZE)));
    let ranges = ReadConflict { ranges_only: true, ..all };
    let part = world.manager.read_conflict(1, &conflict.id, ranges).await.unwrap();
    assert_eq!((part.ranges.len(), part.runs.len()), (2, 0));
    let behind = ReadConflict { offset: u64::MAX, ..all };
    assert_eq!(world.manager.read_conflict(1, &conflict.id, behind).await.unwrap().ranges, []);
    let error = world.manager.read_conflict(1, "../lock", all).await.unwrap_err();
    assert_eq!(error.errno(), Errno::NoEnt);
}

/// A manager with a state directory, and that one's conflicts folder.
fn in_folder(folder: &Path) -> Arc<MmapManager> {
    let store = Arc::new(ObjectLayout::in_memory()) as Arc<dyn FileStore>;
    let vfs = Vfs::new(vec![Mount::with_store("/", store).unwrap()]).unwrap();
    MmapManager::open(vfs, StateDir::open(folder).unwrap(), Limits::default()).unwrap()
}

#[tokio::test]
async fn damaged_and_foreign_files_are_named_and_hide_no_conflict() {
    let state = tempfile::tempdir().unwrap();
    let folder = state.path().join("conflicts");
    let manager = in_folder(state.path());
    let mut kept = Vec::new();
    for fill in 1..=5 {
        kept.push(keep(&manager, SIZE, &[(0, fill), (3, fill)]).await);
    }
    kept.sort_by(|left, right| left.id.cmp(&right.id));
    let name = |conflict: &Conflict, kind: &str| folder.join(format!("{}.{kind}", conflict.id));
    std::fs::write(name(&kept[0], "json"), b"{ torn").unwrap();
    std::fs::write(name(&kept[1], "pages"), b"short").unwrap();
    std::fs::remove_file(name(&kept[2], "json")).unwrap();
    std::fs::write(folder.join("notes \u{1b}.txt"), b"somebody's").unwrap();
    let mut moved = kept[3].clone();
    moved.offsets = vec![PAGE_SIZE, 0];
    std::fs::write(name(&kept[3], "json"), serde_json::to_vec(&moved).unwrap()).unwrap();

    let mut found = (Vec::new(), Vec::new());
    let mut token = String::new();
    for _ in 0..10 {
        let page = manager.list_conflicts(1, PageRequest { size: 1, token: token.clone() }).await.unwrap();
        found.0.extend(page.conflicts);
        found.1.extend(page.damaged);
        token = page.next;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!((token.as_str(), &found.0[..]), ("", &kept[4..]));
    let mut damaged: Vec<_> = found.1.into_iter().map(|damaged| damaged.file).collect();
    damaged.sort_unstable();
    let mut expected = vec![
        format!("{}.json", kept[0].id),
        format!("{}.json", kept[1].id),
        format!("{}.pages", kept[2].id),
        format!("{}.json", kept[3].id),
        "notes \\u{1b}.txt".to_owned(),
    ];
    expected.sort_unstable();
    assert_eq!(damaged, expected);
    assert_eq!(manager.apply_conflict(1, &kept[1].id).await.unwrap_err().errno(), Errno::UClean);
    manager.drop_conflict(1, &kept[1].id).await.unwrap();
    assert!(!name(&kept[1], "json").exists() && !name(&kept[1], "pages").exists());
}

#[tokio::test]
async fn a_conflict_outlives_the_server_and_is_gone_for_good_once_it_was_applied() {
    let state = tempfile::tempdir().unwrap();
    let first = in_folder(state.path());
    let conflict = keep(&first, 3 * PAGE_SIZE, &[(0, 7), (1, 8)]).await;
    first.shutdown(Duration::from_secs(1)).await;
    drop(first);
    let second = in_folder(state.path());
    assert_eq!(second.conflicts().unwrap(), std::slice::from_ref(&conflict));
    assert_eq!(second.apply_conflict(1, &conflict.id).await.unwrap().size, 3 * PAGE_SIZE);
    assert_eq!(std::fs::read_dir(state.path().join("conflicts")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_conflict_of_a_file_out_of_scope_is_not_there_and_one_in_scope_needs_the_right_to_change_it() {
    let world = World::new().await;
    let conflict = keep(&world.manager, SIZE, &[(0, 7)]).await;
    let scoped = |prefix, rights| {
        let grant = PathGrant::new(prefix, rights).unwrap();
        Caller { paths: PathScope::of([grant]), ..Caller::from(2) }
    };
    let what = ReadConflict { offset: 0, length: None, ranges_only: true };
    let stranger = scoped("/other", Rights::ReadWrite);
    let manager = &world.manager;
    assert!(manager.list_conflicts(&stranger, PageRequest::default()).await.unwrap().conflicts.is_empty());
    let refused = [
        manager.read_conflict(&stranger, &conflict.id, what).await.unwrap_err(),
        manager.apply_conflict(&stranger, &conflict.id).await.unwrap_err(),
        manager.drop_conflict(&stranger, &conflict.id).await.unwrap_err(),
    ];
    assert!(refused.iter().all(|error| error.errno() == Errno::NoEnt), "{refused:?}");
    let reader = scoped("/f", Rights::Read);
    assert_eq!(manager.list_conflicts(&reader, PageRequest::default()).await.unwrap().conflicts.len(), 1);
    manager.read_conflict(&reader, &conflict.id, what).await.unwrap();
    assert_eq!(manager.apply_conflict(&reader, &conflict.id).await.unwrap_err().errno(), Errno::Acces);
    assert_eq!(manager.drop_conflict(&reader, &conflict.id).await.unwrap_err().errno(), Errno::Acces);
    manager.apply_conflict(scoped("/f", Rights::ReadWrite), &conflict.id).await.unwrap();
}
