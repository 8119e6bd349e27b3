//! The layout `local` in a temporary folder: the conformance suite, and what only this layout promises.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt, symlink};

use tempfile::TempDir;

use super::temp::TurnGuard;
use super::*;
use crate::vfs::conformance::{Bench, run_all};
use crate::vfs::store::{Base, CommitId, Patch};

fn opened() -> (TempDir, LocalLayout) {
    let folder = tempfile::tempdir().expect("a folder");
    let layout = LocalLayout::open(folder.path()).expect("it opens");
    (folder, layout)
}

fn change(base: Base, size: u64, patches: &[(u64, &'static [u8])]) -> WriteBack {
    let patch = |&(offset, data)| Patch { offset, data: Bytes::from_static(data), dirty: true };
    WriteBack { base, size, patches: patches.iter().map(patch).collect(), commit: CommitId::random() }
}

fn at(stat: &Stat) -> Base {
    Base::At { version: stat.version.clone(), size: stat.size }
}

fn temporaries(folder: &TempDir) -> usize {
    fs::read_dir(folder.path().join(".mmapd-tmp")).map_or(0, |entries| entries.count())
}

#[tokio::test]
async fn the_layout_local_keeps_every_promise() {
    let (folder, store) = opened();
    let other = LocalLayout::open(folder.path()).expect("it opens again");
    run_all(&Bench::new(&store, &other, "")).await;
    assert_eq!(temporaries(&folder), 0, "nothing is left beside");
}

#[tokio::test]
async fn a_sparse_file_of_one_tebibyte_costs_what_its_data_costs() {
    let (folder, store) = opened();
    let size = 1 << 40;
    let made = store.write_back("sparse", change(Base::Missing, size, &[(1 << 30, b"here")])).await.expect("made");
    let started = std::time::Instant::now();
    let patches: &[(u64, &[u8])] = &[(size - 5, b"there")];
    let changed = store.write_back("sparse", change(at(&made), size, patches)).await.expect("changed");
    assert!(started.elapsed().as_secs() < 10, "the holes were copied");
    let metadata = fs::metadata(folder.path().join("sparse")).expect("it is there");
    assert_eq!(metadata.len(), size);
    assert!(metadata.blocks() * 512 < 1 << 20, "{} bytes are allocated", metadata.blocks() * 512);
    for (offset, expected) in [(1 << 30, &b"here"[..]), (size - (1 << 16), &[0; 10])] {
        let range = ByteRange::new(offset, offset + expected.len() as u64);
        assert_eq!(store.read("sparse", &changed.version, range).await.expect("read").concat(), expected);
    }
    let end = ByteRange::new(size - (1 << 16), size);
    assert!(store.read("sparse", &changed.version, end).await.expect("read").concat().ends_with(b"there"));
}

#[tokio::test]
async fn a_link_that_leads_out_of_the_folder_is_never_followed() {
    let outside = tempfile::tempdir().expect("a folder");
    fs::write(outside.path().join("secret"), "secret").expect("a file outside");
    let (folder, store) = opened();
    let escape = outside.path().strip_prefix("/").expect("absolute");
    let climbing = std::path::Path::new("../../../../../../../../..").join(escape);
    symlink(outside.path().join("secret"), folder.path().join("file-link")).expect("a link");
    symlink(outside.path(), folder.path().join("folder-link")).expect("a link");
    symlink(&climbing, folder.path().join("climbing-link")).expect("a link");
    symlink("nowhere", folder.path().join("dangling-link")).expect("a link");
    for name in ["file-link", "folder-link/secret", "climbing-link/secret", "folder-link/new", "dangling-link"] {
        let stat = store.stat(name).await;
        assert!(matches!(stat, Err(StoreFault::BadName(_))), "stat {name}: {stat:?}");
        let made = store.write_back(name, change(Base::Missing, 3, &[(0, b"bad")])).await;
        assert!(matches!(made, Err(StoreFault::BadName(_) | StoreFault::Exists)), "make {name}: {made:?}");
        let version = Version::new("x");
        let changed = store.write_back(name, change(Base::At { version, size: 6 }, 3, &[(0, b"bad")])).await;
        assert!(matches!(changed, Err(StoreFault::BadName(_))), "change {name}: {changed:?}");
    }
    assert!(store.remove("folder-link/secret").await.is_err());
    assert_eq!(fs::read(outside.path().join("secret")).expect("still there"), b"secret");
    assert_eq!(fs::read_dir(outside.path()).expect("a folder").count(), 1);
    assert!(store.list("", None, 100).await.expect("a list").is_empty());
}

#[tokio::test]
async fn a_link_that_stays_inside_is_followed_and_stays_a_link() {
    let (folder, store) = opened();
    fs::create_dir(folder.path().join("real")).expect("a folder");
    fs::write(folder.path().join("real/file"), "one").expect("a file");
    symlink("real/file", folder.path().join("link")).expect("a link");
    symlink("real", folder.path().join("folder-link")).expect("a link");
    let stat = store.stat("link").await.expect("it is followed");
    store.write_back("link", change(at(&stat), 3, &[(0, b"two")])).await.expect("it is changed");
    assert_eq!(fs::read(folder.path().join("real/file")).expect("there"), b"two");
    assert!(fs::symlink_metadata(folder.path().join("link")).expect("there").is_symlink());
    let stat = store.stat("folder-link/file").await.expect("it is followed");
    store.write_back("folder-link/file", change(at(&stat), 1, &[])).await.expect("it is cut");
    assert_eq!(fs::read(folder.path().join("real/file")).expect("there"), b"t");
    let names: Vec<String> = store.list("", None, 9).await.expect("a list").into_iter().map(|file| file.name).collect();
    assert_eq!(names, ["link", "real/file"], "folders are not descended through links");
}

#[tokio::test]
async fn what_is_no_regular_file_is_no_file() {
    let (folder, store) = opened();
    fs::create_dir(folder.path().join("folder")).expect("a folder");
    fs::write(folder.path().join("file"), "x").expect("a file");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        folder.path().join("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .expect("a pipe");
    for name in ["folder", "pipe"] {
        assert!(matches!(store.stat(name).await, Err(StoreFault::BadName(_))), "{name}");
        assert!(matches!(store.remove(name).await, Err(StoreFault::BadName(_))), "{name}");
    }
    assert!(matches!(store.stat("file/below").await, Err(StoreFault::Missing)));
    assert!(matches!(store.remove("file/below").await, Err(StoreFault::Missing)));
    let made = store.write_back("file/below", change(Base::Missing, 0, &[])).await;
    assert!(matches!(made, Err(StoreFault::BadName(_))), "{made:?}");
    let made = store.write_back("folder", change(Base::Missing, 0, &[])).await;
    assert!(matches!(made, Err(StoreFault::BadName(_))), "{made:?}");
    assert_eq!(store.list("", None, 9).await.expect("a list").len(), 1);
}

#[tokio::test]
async fn a_change_waits_for_another_servers_turn_and_then_sees_its_change() {
    let (folder, store) = opened();
    let other = LocalLayout::open(folder.path()).expect("it opens again");
    let made = store.write_back("a", change(Base::Missing, 3, &[(0, b"one")])).await.expect("made");
    for (size, patches) in [(4, &[(0, &b"ours"[..])][..]), (2, &[])] {
        let turn = TurnGuard::take(&other.root);
        let base = at(&store.stat("a").await.expect("there"));
        let write = store.write_back("a", change(base, size, patches));
        let mut write = std::pin::pin!(write);
        let waited = tokio::time::timeout(std::time::Duration::from_millis(200), &mut write).await;
        assert!(waited.is_err(), "it did not wait: {waited:?}");
        fs::write(folder.path().join("a"), "theirs").expect("the other's change");
        drop(turn);
        assert!(matches!(write.await, Err(StoreFault::Changed)), "{made:?}");
        assert_eq!(fs::read(folder.path().join("a")).expect("there"), b"theirs");
    }
}

#[tokio::test]
async fn a_killed_servers_leftovers_are_removed_and_a_living_ones_are_not() {
    let (folder, store) = opened();
    let living = Temp::create(&store.root).expect("a temporary file");
    fs::write(folder.path().join(".mmapd-tmp/left"), "half a file").expect("a leftover");
    assert_eq!(temporaries(&folder), 2);
    LocalLayout::open_read_only(folder.path()).expect("it opens");
    assert_eq!(temporaries(&folder), 2, "a read-only mount touches nothing");
    LocalLayout::open(folder.path()).expect("it opens");
    assert_eq!(temporaries(&folder), 1);
    drop(living);
    assert_eq!(temporaries(&folder), 0);
    let mode = fs::metadata(folder.path().join(".mmapd-tmp")).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[tokio::test]
async fn a_change_keeps_the_files_mode() {
    let (folder, store) = opened();
    let path = folder.path().join("tool");
    fs::write(&path, "#!").expect("a file");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).expect("a mode");
    let stat = store.stat("tool").await.expect("there");
    store.write_back("tool", change(at(&stat), 3, &[(2, b"x")])).await.expect("changed");
    assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o7777, 0o750);
}

#[tokio::test]
async fn a_commit_is_told_until_another_program_changes_the_file() {
    let (folder, store) = opened();
    let made = change(Base::Missing, 3, &[(0, b"one")]);
    let commit = made.commit;
    let stat = store.write_back("a", made).await.expect("made");
    let Some(kept) = stat.commit else {
        assert!(store.stat("a").await.expect("there").commit.is_none(), "a file system without attributes");
        return;
    };
    assert_eq!(kept, commit);
    assert_eq!(store.stat("a").await.expect("there").commit, Some(commit));
    let cut = change(at(&stat), 2, &[]);
    let (cut_commit, stat) = (cut.commit, store.write_back("a", cut).await.expect("cut"));
    assert_eq!((stat.commit, store.stat("a").await.expect("there")), (Some(cut_commit), stat));
    fs::write(folder.path().join("a"), "theirs").expect("another program writes");
    assert_eq!(store.stat("a").await.expect("there").commit, None);
}

#[tokio::test]
async fn a_folder_that_was_removed_does_not_answer_a_ping() {
    let (folder, store) = opened();
    assert!(store.ping().await.is_ok());
    folder.close().expect("removed");
    assert!(matches!(store.ping().await, Err(StoreFault::Failed(..))));
    assert!(store.probe().await.is_err());
}

#[tokio::test]
async fn a_folder_larger_than_a_batch_is_listed_whole_and_in_order() {
    let (folder, store) = opened();
    let mut names: Vec<String> = (0..9000).map(|n| format!("big/{:05}", (n * 7919) % 9000)).collect();
    fs::create_dir(folder.path().join("big")).expect("a folder");
    for name in &names {
        fs::write(folder.path().join(name), "").expect("a file");
    }
    names.sort();
    let all = store.list("", None, 10_000).await.expect("a list");
    assert!(all.iter().map(|file| &file.name).eq(&names));
    let some = store.list("big/", Some("big/04500"), 3).await.expect("a list");
    assert!(some.iter().map(|file| &file.name).eq(&names[4501..4504]));
}
