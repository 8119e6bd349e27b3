//! The layout `log` against the promises of a store, and against its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::counted::{Counted, Fate};
use super::{LogLayout, LogOptions};
use crate::units::ByteRange;
use crate::vfs::conformance::{Bench, run_all};
use crate::vfs::fault::StoreFault;
use crate::vfs::store::{Base, CommitId, FileStore, Patch, Stat, WriteBack};

const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

fn at(stat: &Stat) -> Base {
    Base::At { version: stat.version.clone(), size: stat.size }
}

fn change(base: Base, size: u64, patches: &[(u64, &[u8])]) -> WriteBack {
    let patch = |&(offset, data): &(u64, &[u8])| Patch { offset, data: Bytes::copy_from_slice(data), dirty: true };
    WriteBack { base, size, patches: patches.iter().map(patch).collect(), commit: CommitId::random() }
}

async fn read(store: &LogLayout, name: &str, start: u64, end: u64) -> Vec<u8> {
    let stat = store.stat(name).await.expect("it is there");
    store.read(name, &stat.version, ByteRange::new(start, end)).await.expect("it is read").concat()
}

fn over(store: &Arc<dyn ObjectStore>) -> LogLayout {
    LogLayout::new(Arc::clone(store), Path::from("mount"), false, LogOptions::default())
}

fn reader(store: &Arc<dyn ObjectStore>) -> LogLayout {
    LogLayout::new(Arc::clone(store), Path::from("mount"), true, LogOptions::default())
}

fn memory() -> Arc<dyn ObjectStore> {
    Arc::new(InMemory::new())
}

async fn objects(store: &Arc<dyn ObjectStore>) -> BTreeMap<String, u64> {
    use futures::TryStreamExt;
    let all: Vec<_> = store.list(None).try_collect().await.expect("a list");
    all.into_iter().map(|meta| (meta.location.to_string(), meta.size)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_keeps_the_promises_of_a_store_in_memory() {
    let store = LogLayout::in_memory();
    run_all(&Bench::new(&store, &store, "")).await;
    store.close().await.expect("it closes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_keeps_the_promises_of_a_store_in_a_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let client = LocalFileSystem::new_with_prefix(folder.path()).expect("a client").with_fsync(true);
    let options = LogOptions { has_if_match: false, ..LogOptions::default() };
    let store = LogLayout::new(Arc::new(client), Path::ROOT, false, options);
    run_all(&Bench::new(&store, &store, "")).await;
    store.close().await.expect("it closes");
}

#[tokio::test]
async fn a_page_of_a_sparse_1_gib_file_uploads_less_than_256_kib() {
    let (client, tally) = Counted::over(memory());
    let store = over(&client);
    let made = store.write_back("f", change(Base::Missing, GIB, &[])).await.expect("it is made");
    tally.reset();
    store.write_back("f", change(at(&made), GIB, &[(GIB / 2, &[7; 4096])])).await.expect("it is written");
    let (puts, bytes) = (tally.puts.load(Ordering::SeqCst), tally.bytes.load(Ordering::SeqCst));
    println!("one page of 1 GiB: {puts} PUT, {bytes} bytes");
    assert!(bytes <= 256 * 1024 && bytes >= 4096, "{bytes} bytes in {puts} PUTs");
    assert_eq!(read(&store, "f", GIB / 2, GIB / 2 + 4096).await, [7; 4096]);
    store.close().await.expect("it closes");
}

#[tokio::test]
async fn files_of_1_tib_cost_what_is_written_to_them() {
    let (client, tally) = Counted::over(memory());
    let store = Arc::new(over(&client));
    let names: Vec<String> = (0..10_000).map(|n| format!("sparse/{n:05}")).collect();
    for some in names.chunks(100) {
        let make = |name: &String| {
            let (store, name) = (Arc::clone(&store), name.clone());
            async move { store.write_back(&name, change(Base::Missing, TIB, &[(TIB - 8, b"the end.")])).await }
        };
        futures::future::try_join_all(some.iter().map(make)).await.expect("they are made");
    }
    let (puts, bytes) = (tally.puts.load(Ordering::SeqCst), tally.bytes.load(Ordering::SeqCst));
    println!("10,000 sparse files of 1 TiB: {puts} PUTs, {bytes} bytes");
    // A page each in the log, and again in a table.
    assert!(bytes < 10_000 * 4096 * 4, "{bytes}");
    assert_eq!(read(&store, &names[4711], TIB - 65_536, TIB).await[65_528..], *b"the end.");
    let stat = store.write_back(&names[0], change(at(&store.stat(&names[0]).await.expect("there")), 10, &[])).await;
    assert_eq!(stat.expect("it is cut").size, 10);
    let mut listed = Vec::new();
    while let Some(some) = Some(store.list("sparse/", listed.last().map(String::as_str), 999).await.expect("a list"))
        && !some.is_empty()
    {
        listed.extend(some.into_iter().map(|file| file.name));
    }
    assert_eq!(listed, names);
    store.close().await.expect("it closes");
}

#[tokio::test]
async fn what_was_cut_reads_as_zeros_however_it_grows_again_and_is_swept() {
    let client = memory();
    let store = over(&client);
    let full = vec![9u8; 3_000_000];
    let mut stat = store.write_back("f", change(Base::Missing, 3_000_000, &[(0, &full)])).await.expect("made");
    let mut model = full;
    // Sizes, each with a byte written at its end: more cuts than a record holds.
    let sizes = (0..100u64).map(|n| if n % 2 == 0 { 1_000_000 + n * 7001 } else { 2_999_000 - n });
    for size in sizes.chain([0, 5000, 4100, 4096, 4095, 2_000_000]) {
        let last = size.saturating_sub(1);
        let mark: &[(u64, &[u8])] = if size == 0 { &[] } else { &[(last, &[1])] };
        stat = store.write_back("f", change(at(&stat), size, mark)).await.expect("it is resized");
        model.resize(usize::try_from(size).expect("small"), 0);
        if let Some(end) = model.last_mut() {
            *end = 1;
        }
        assert!(read(&store, "f", 0, size).await == model, "at {size} bytes");
    }
    store.remove("f").await.expect("it is removed");
    let left = || async {
        let database = store.shelf.database().await.expect("it is open");
        let all = vec![0u8]..vec![0xFF];
        let mut pairs = database.scan(all, 1 << 20).await.expect("a scan").expect("a database");
        super::database::next(&mut pairs).await.expect("a pair").is_some()
    };
    for _ in 0..200 {
        if !left().await {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!left().await, "the sweep leaves nothing of a removed file");
    store.close().await.expect("it closes");
}

#[tokio::test]
async fn a_file_made_again_shows_nothing_of_the_one_before() {
    let store = LogLayout::in_memory();
    let old = store.write_back("f", change(Base::Missing, 100_000, &[(0, &[9; 100_000])])).await.expect("made");
    store.remove("f").await.expect("removed");
    let new = store.write_back("f", change(Base::Missing, 100_000, &[(50_000, b"x")])).await.expect("made again");
    assert_ne!(old.version, new.version);
    let mut expected = vec![0; 100_000];
    expected[50_000] = b'x';
    assert_eq!(read(&store, "f", 0, 100_000).await, expected);
    let stale = store.write_back("f", change(at(&old), 1, &[])).await;
    assert!(matches!(stale, Err(StoreFault::Changed)), "{stale:?}");
    store.close().await.expect("it closes");
}

#[tokio::test]
async fn every_character_a_path_can_have_is_kept_and_listed_in_order() {
    let store = LogLayout::in_memory();
    let characters = (0x20..0xD800).chain(0xE000..0xE100).chain([0xFFFF, 0x1_0000, 0x10_FFFF]);
    let characters = characters.filter_map(char::from_u32).filter(|c| !c.is_control() && *c != '/');
    let mut names: Vec<String> = Vec::new();
    for some in characters.step_by(7).collect::<Vec<_>>().chunks(50) {
        names.push(some.iter().collect());
    }
    names.push(vec!["x".repeat(255); 15].join("/"));
    for name in &names {
        assert!(store.check_name(name).is_ok());
        let mut page = name.as_bytes().to_vec();
        page.truncate(100);
        let made = change(Base::Missing, page.len() as u64, &[(0, &page)]);
        store.write_back(name, made).await.expect("it is made");
    }
    names.sort();
    let listed = store.list("", None, 100_000).await.expect("a list");
    assert_eq!(listed.iter().map(|file| &file.name).collect::<Vec<_>>(), names.iter().collect::<Vec<_>>());
    store.close().await.expect("it closes");
}

/// Runs `work` in a runtime of its own, which then dies with all its tasks, as a process that is killed.
fn killed<T: Send>(work: impl Future<Output = T> + Send) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("one");
    let outcome = runtime.block_on(work);
    runtime.shutdown_timeout(Duration::from_secs(5));
    outcome
}

/// What is found after a crash: the old content or the new.
async fn after(client: &Arc<dyn ObjectStore>, acknowledged: bool, put: u64) -> bool {
    let store = over(client);
    let stat = store.stat("f").await.expect("it is there");
    let content = store.read("f", &stat.version, ByteRange::new(0, stat.size)).await.expect("read").concat();
    let (old, new) = (vec![1u8; 200_000], vec![2u8; 150_000]);
    assert!(content == old || content == new, "PUT {put}: a mixture of {} bytes", content.len());
    assert!(!acknowledged || content == new, "PUT {put}: acknowledged and gone");
    // It can be written, and grows with zeros.
    let is_new = content == new;
    let grown = store.write_back("f", change(at(&stat), 300_000, &[])).await.expect("it grows");
    let mut expected = content;
    expected.resize(300_000, 0);
    let found = store.read("f", &grown.version, ByteRange::new(0, 300_000)).await.expect("read").concat();
    assert!(found == expected, "PUT {put}: what was cut came back");
    store.close().await.expect("it closes");
    is_new
}

#[test]
fn a_crash_at_any_put_leaves_the_old_content_or_the_new() {
    let (mut olds, mut news, mut lost) = (0, 0, 0);
    for fate in [Fate::DeadBefore, Fate::DeadAfter] {
        for put in 1..40 {
            let inner = memory();
            killed(async {
                let first = change(Base::Missing, 200_000, &[(0, &[1; 200_000])]);
                over(&inner).write_back("f", first).await.expect("it is made")
            });
            let (acknowledged, died) = killed(async {
                let (client, tally) = Counted::over(Arc::clone(&inner));
                tally.plan(put, fate);
                let store = over(&client);
                let write = async {
                    let stat = store.stat("f").await?;
                    store.write_back("f", change(at(&stat), 150_000, &[(0, &[2; 150_000])])).await
                };
                let died = async {
                    while !tally.came() {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                };
                let acknowledged = tokio::select! {
                    done = write => done.is_ok(),
                    () = died => false,
                };
                (acknowledged, tally.came())
            });
            let is_new = killed(after(&inner, acknowledged, put));
            match (acknowledged, is_new) {
                (true, _) => news += 1,
                (false, true) => lost += 1,
                (false, false) => olds += 1,
            }
            if !died {
                break;
            }
        }
    }
    println!("crashes: {olds} left the old content, {lost} the new one unacknowledged, {news} an acknowledged one");
    assert!(olds > 0 && lost > 0 && news > 0, "{olds} {lost} {news}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_that_fails_once_is_repeated_and_never_taken_for_another_servers() {
    let mut failures = 0;
    for fate in [Fate::FailsBefore, Fate::FailsAfter] {
        for put in 1..40 {
            let (client, tally) = Counted::over(memory());
            let store = over(&client);
            // The probe and the marker come before the database, and are the caller's to repeat.
            store.probe().await.expect("a verdict");
            tally.plan(put, fate);
            let made = match store.write_back("f", change(Base::Missing, 9_000, &[(0, &[1; 9_000])])).await {
                Ok(made) => made,
                Err(StoreFault::Failed(..)) if put == 1 => {
                    let again = change(Base::Missing, 9_000, &[(0, &[1; 9_000])]);
                    store.write_back("f", again).await.expect("it is repeated")
                }
                Err(other) => panic!("{fate:?} of PUT {put}: {other:?}"),
            };
            store.write_back("f", change(at(&made), 9_000, &[(0, &[2; 9_000])])).await.expect("it is written");
            assert_eq!(read(&store, "f", 0, 9_000).await, [2; 9_000]);
            let came = tally.came();
            store.close().await.expect("it closes");
            if !came {
                break;
            }
            failures += 1;
        }
    }
    println!("{failures} PUTs failed once");
    assert!(failures > 10, "{failures}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_server_fences_the_first() {
    let client = memory();
    let (first, second) = (over(&client), over(&client));
    let made = first.write_back("f", change(Base::Missing, 5, &[(0, b"first")])).await.expect("it is made");
    let seen = second.stat("f").await.expect("the second server opens it");
    assert_eq!(seen.version, made.version);
    let refused = first.write_back("f", change(at(&made), 5, &[(0, b"stale")])).await;
    assert!(matches!(refused, Err(StoreFault::Fenced)), "{refused:?}");
    second.write_back("f", change(at(&seen), 6, &[(0, b"second")])).await.expect("it is written");
    for _ in 0..2 {
        assert!(matches!(first.stat("f").await, Err(StoreFault::Fenced)), "it stays fenced");
        assert!(matches!(first.ping().await, Err(StoreFault::Fenced)));
    }
    assert_eq!(read(&second, "f", 0, 6).await, b"second");
    let third = reader(&client);
    assert_eq!(read(&third, "f", 0, 6).await, b"second");
    for store in [&first, &second, &third] {
        store.close().await.expect("it closes");
    }
}

#[tokio::test]
async fn a_reader_follows_the_writer_and_writes_nothing() {
    let inner = memory();
    let (client, tally) = Counted::over(Arc::clone(&inner));
    let reader = reader(&client);
    assert!(matches!(reader.stat("f").await, Err(StoreFault::Missing)), "there is no database yet");
    assert!(reader.list("", None, 10).await.expect("a list").is_empty());
    let writer = over(&inner);
    let made = writer.write_back("f", change(Base::Missing, 3, &[(0, b"one")])).await.expect("it is made");
    assert_eq!(read(&reader, "f", 0, 3).await, b"one");
    let two = writer.write_back("f", change(at(&made), 3, &[(0, b"two")])).await.expect("it is written");
    let mut seen = reader.stat("f").await.expect("there").version;
    for _ in 0..100 {
        if seen == two.version {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        seen = reader.stat("f").await.expect("there").version;
    }
    assert_eq!(read(&reader, "f", 0, 3).await, b"two");
    let old = reader.read("f", &made.version, ByteRange::new(0, 3)).await;
    assert!(matches!(old, Err(StoreFault::Changed)), "{old:?}");
    let refused = reader.write_back("f", change(at(&two), 3, &[])).await;
    assert!(matches!(refused, Err(StoreFault::Unsupported(_))), "{refused:?}");
    assert_eq!(tally.puts.load(Ordering::SeqCst), 0);
    reader.close().await.expect("it closes");
    writer.close().await.expect("it closes");
}

#[tokio::test]
async fn what_is_not_ours_is_refused_and_not_touched() {
    for (path, content, hint) in [
        ("mount/report.txt", "plain", "name an empty folder"),
        ("mount/manifest/00000000000000000001.manifest", "foreign", "not of an mmapd database"),
        ("mount/mmapd-log", "something", "not of an mmapd database"),
        ("mount/mmapd-log", "mmapd log 2", "use the newer mmapd"),
        ("mount/mmapd-log", &"mmapd log 1".repeat(20), "not of an mmapd database"),
    ] {
        let client = memory();
        client.put(&Path::from(path), content.to_owned().into()).await.expect("it is put");
        let before = objects(&client).await;
        for store in [over(&client), reader(&client)] {
            for refused in [store.ping().await.err(), store.stat("f").await.err(), store.list("", None, 1).await.err()]
            {
                let sentence = refused.expect("it is refused").to_string();
                assert!(sentence.contains(hint) && sentence.contains("nothing was touched"), "{path}: {sentence}");
            }
            store.close().await.expect("it closes");
        }
        assert_eq!(objects(&client).await, before);
    }
    let client = memory();
    client.put(&Path::from("beside/it"), "theirs".into()).await.expect("it is put");
    client.put(&Path::from("mounted"), "theirs".into()).await.expect("it is put");
    let store = over(&client);
    store.ping().await.expect("what lies beside it is of no interest");
    store.close().await.expect("it closes");
    assert!(matches!(store.stat("f").await, Err(StoreFault::Failed(..))), "it is closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_does_not_wait_for_a_write_back_that_hangs() {
    let (client, tally) = Counted::over(memory());
    let store = Arc::new(over(&client));
    let made = store.write_back("f", change(Base::Missing, 3, &[(0, b"old")])).await.expect("it is made");
    tally.plan(1, Fate::DeadBefore);
    let writer = tokio::spawn({
        let (store, made) = (Arc::clone(&store), made.clone());
        async move { store.write_back("f", change(at(&made), 3, &[(0, b"new")])).await }
    });
    while !tally.came() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let seen = tokio::time::timeout(Duration::from_secs(2), async {
        assert_eq!(store.stat("f").await.expect("there").version, made.version, "what is not durable is not seen");
        read(&store, "f", 0, 3).await
    });
    assert_eq!(seen.await.expect("it answers"), b"old");
    writer.abort();
}
