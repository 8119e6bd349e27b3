//! The layout `object` in memory: the conformance suite, and what only this layout promises.

use std::sync::atomic::Ordering;
use std::time::Duration;

use object_store::{Attribute, ObjectStoreExt};

use super::lookalike::{Lookalike, Vice};
use super::*;
use crate::vfs::conformance::{Bench, run_all};
use crate::vfs::store::{Base, CommitId, Patch};

fn layout(store: Arc<dyn ObjectStore>) -> ObjectLayout {
    ObjectLayout::new(store, Path::from("mounted/here"), ObjectOptions::default())
}

/// Parts from the second KiB on.
fn in_parts(store: Arc<dyn ObjectStore>) -> ObjectLayout {
    let options = ObjectOptions { single_put_max: 1024, part_min: 1000, ..ObjectOptions::default() };
    ObjectLayout::new(store, Path::ROOT, options)
}

fn change(base: Base, size: u64, patches: &[(u64, &'static [u8])]) -> WriteBack {
    let patch = |&(offset, data)| Patch { offset, data: Bytes::from_static(data), dirty: true };
    WriteBack { base, size, patches: patches.iter().map(patch).collect(), commit: CommitId::random() }
}

fn at(stat: &Stat) -> Base {
    Base::At { version: stat.version.clone(), size: stat.size }
}

#[tokio::test]
async fn the_layout_object_keeps_every_promise() {
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let (store, other) = (layout(Arc::clone(&memory)), layout(memory));
    run_all(&Bench::new(&store, &other, "")).await;
}

#[tokio::test]
async fn an_upload_in_parts_keeps_its_promises_but_for_races() {
    use crate::vfs::conformance as suite;
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let (store, other) = (in_parts(Arc::clone(&memory)), in_parts(memory));
    let bench = Bench::new(&store, &other, "");
    suite::a_file_reads_as_it_was_made(&bench).await;
    suite::reads_come_in_blocks_of_their_own(&bench).await;
    suite::patches_land_on_the_base(&bench).await;
    suite::a_clean_patch_changes_nothing(&bench).await;
    suite::a_new_size_alone_cuts_or_adds_zeros(&bench).await;
    suite::a_stale_write_back_is_refused(&bench).await;
    suite::an_existing_file_is_not_made_again(&bench).await;
    suite::a_write_back_to_a_removed_file_is_refused(&bench).await;
}

#[tokio::test]
async fn a_put_that_took_effect_although_its_reply_was_lost_is_a_success() {
    let store = layout(Lookalike::with(&[Vice::LosesReplies]));
    let made = store.write_back("a", change(Base::Missing, 3, &[(0, b"one")])).await.expect("it took effect");
    let changed = store.write_back("a", change(at(&made), 3, &[(0, b"two")])).await.expect("it took effect");
    let read = store.read("a", &changed.version, ByteRange::new(0, 3)).await.expect("it is there");
    assert_eq!(read.concat(), b"two");
    // Another's change is none of that.
    assert!(matches!(store.write_back("a", change(at(&made), 1, &[])).await, Err(StoreFault::Changed)));
    assert!(matches!(store.write_back("a", change(Base::Missing, 1, &[])).await, Err(StoreFault::Exists)));
}

#[tokio::test]
async fn a_store_that_ignores_conditions_is_found_out() {
    for (vice, hint) in [(Vice::IgnoresConditions, "If-None-Match"), (Vice::HasNoConditions, "no conditional writes")] {
        let look = Lookalike::with(&[vice]);
        let store = layout(look.clone());
        match store.probe().await.expect("a verdict") {
            Writability::Unsafe(reason) => assert!(reason.contains(hint), "{reason}"),
            Writability::Safe => panic!("{vice:?} was not noticed"),
        }
        assert_eq!(look.inner.list(None).count().await, 0, "the probe's object is removed");
    }
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_fails_or_whose_caller_goes_away_is_aborted() {
    for vice in [Vice::FailsParts, Vice::StallsParts] {
        let look = Lookalike::with(&[vice]);
        let store = in_parts(look.clone());
        let write = store.write_back("a", change(Base::Missing, 5000, &[(0, b"x")]));
        let outcome = tokio::time::timeout(Duration::from_secs(5), write).await;
        assert_eq!(outcome.is_err(), vice == Vice::StallsParts, "{outcome:?}");
        assert!(!matches!(outcome, Ok(Ok(_))));
        // What cleans up behind a dropped call is a task.
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(look.aborted.load(Ordering::Relaxed), 1, "{vice:?}");
        assert!(matches!(store.stat("a").await, Err(StoreFault::Missing)));
    }
}

#[tokio::test]
async fn an_upload_that_completed_although_its_reply_was_lost_is_a_success() {
    let store = in_parts(Lookalike::with(&[Vice::LosesCompletions]));
    let made = store.write_back("a", change(Base::Missing, 5000, &[(0, b"one")])).await.expect("it took effect");
    assert_eq!(
        store.stat("a").await.expect("there"),
        Stat { modified: store.stat("a").await.expect("there").modified, ..made }
    );
}

#[tokio::test]
async fn an_upload_whose_object_has_another_e_tag_than_its_completion_is_not_somebody_elses_change() {
    for (vices, conditions) in [
        (vec![Vice::RenamesCompletions], Conditions::Required),
        (vec![Vice::RenamesCompletions, Vice::ForgetsMetadata], Conditions::AskedBefore),
    ] {
        let options = ObjectOptions { single_put_max: 1024, part_min: 1000, conditions, ..ObjectOptions::default() };
        let store = ObjectLayout::new(Lookalike::with(&vices), Path::ROOT, options);
        let made = store.write_back("a", change(Base::Missing, 5000, &[(0, b"one")])).await.expect("made");
        let next = store.write_back("a", change(at(&made), 5000, &[(0, b"two")])).await.expect("its base is ours");
        assert_eq!(store.stat("a").await.expect("there").version, next.version);
        assert!(matches!(store.write_back("a", change(at(&made), 5000, &[])).await, Err(StoreFault::Changed)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_while_an_upload_runs_is_noticed_before_it_completes() {
    let look = Lookalike::with(&[]);
    let slow = object_store::throttle::ThrottledStore::new(
        look.inner.clone(),
        object_store::throttle::ThrottleConfig { wait_put_per_call: Duration::from_secs(1), ..Default::default() },
    );
    let (store, other) = (in_parts(Arc::new(slow)), in_parts(look));
    let made = other.write_back("a", change(Base::Missing, 5000, &[(0, b"one")])).await.expect("made");
    // All of it is known, so that nothing of the base is fetched on the way.
    let write = store.write_back("a", change(at(&made), 5000, &[(0, &[b'o'; 5000])]));
    let intrude = async {
        tokio::time::sleep(Duration::from_millis(2500)).await;
        other.write_back("a", change(at(&made), 5000, &[(0, b"theirs")])).await
    };
    let (ours, theirs) = tokio::join!(write, intrude);
    assert!(matches!(ours, Err(StoreFault::Changed)), "{ours:?}");
    assert_eq!(other.stat("a").await.expect("there").version, theirs.expect("they were first").version);
}

#[tokio::test]
async fn markers_of_folders_are_not_listed_as_files() {
    // The client cuts the `/` off a marker's key, so in memory a marker is what a list shows and a HEAD denies.
    let memory = Arc::new(InMemory::new());
    let markers = Lookalike::listing_markers((*memory).clone(), &["a", "m", "z"]);
    for name in ["a/1", "b", "empty", "m.txt", "m/2"] {
        let content: &'static [u8] = if name == "empty" { b"" } else { b"x" };
        memory.put(&Path::from(name), content.into()).await.expect("a file");
    }
    let store = ObjectLayout::new(markers, Path::ROOT, ObjectOptions::default());
    for limit in [1, 2, 100] {
        let mut names: Vec<String> = Vec::new();
        loop {
            let piece = store.list("", names.last().map(String::as_str), limit).await.expect("a list");
            if piece.is_empty() {
                break;
            }
            names.extend(piece.into_iter().map(|file| file.name));
        }
        assert_eq!(names, ["a/1", "b", "empty", "m.txt", "m/2"], "in pieces of {limit}");
    }
}

#[tokio::test]
async fn unsafe_overwrite_asks_for_the_version_before_it_writes() {
    let memory = Lookalike::with(&[Vice::HasNoConditions]);
    let options = ObjectOptions { conditions: Conditions::AskedBefore, ..ObjectOptions::default() };
    let store = ObjectLayout::new(memory, Path::ROOT, options);
    let made = store.write_back("a", change(Base::Missing, 3, &[(0, b"one")])).await.expect("it is made");
    let next = store.write_back("a", change(at(&made), 3, &[(0, b"two")])).await.expect("it is changed");
    assert!(matches!(store.write_back("a", change(at(&made), 3, &[])).await, Err(StoreFault::Changed)));
    assert!(matches!(store.write_back("a", change(Base::Missing, 3, &[])).await, Err(StoreFault::Exists)));
    assert_eq!(store.stat("a").await.expect("a stat").version, next.version);
}

#[tokio::test]
async fn a_store_that_ignores_if_match_on_get_does_not_serve_another_version() {
    let store = layout(Lookalike::with(&[Vice::IgnoresIfMatchOnGet]));
    let old = store.write_back("a", change(Base::Missing, 3, &[(0, b"one")])).await.expect("it is made");
    store.write_back("a", change(at(&old), 2, &[(0, b"2")])).await.expect("it is changed");
    for end in [2, 3] {
        let read = store.read("a", &old.version, ByteRange::new(0, end)).await;
        assert!(matches!(read, Err(StoreFault::Changed)), "{read:?}");
    }
}

#[tokio::test]
async fn a_body_that_ends_too_early_is_corrupt_and_not_short() {
    let look = Lookalike::with(&[]);
    let store = layout(look.clone());
    let made = store.write_back("a", change(Base::Missing, 3, &[(0, b"one")])).await.expect("it is made");
    look.vices.lock().push(Vice::CutsBodies);
    let read = store.read("a", &made.version, ByteRange::new(0, 3)).await;
    assert!(matches!(read, Err(StoreFault::Corrupt(_))), "{read:?}");
}

#[tokio::test]
async fn a_rewrite_keeps_content_type_and_user_metadata() {
    let memory = Arc::new(InMemory::new());
    let path = Path::from("page.html");
    let mine = Attribute::Metadata("mine".into());
    for options in [ObjectOptions::default(), ObjectOptions { single_put_max: 1, part_min: 2, ..Default::default() }] {
        let mut attributes = object_store::Attributes::new();
        attributes.insert(Attribute::ContentType, "text/html".into());
        attributes.insert(mine.clone(), "1".into());
        memory.put_opts(&path, "<p>".into(), attributes.into()).await.expect("others write it");
        // One that has seen the object, and one that has not.
        for seen in [true, false] {
            let store = ObjectLayout::new(memory.clone(), Path::ROOT, options);
            let meta = memory.head(&path).await.expect("it is there");
            let base = Base::At { version: Version::new(meta.e_tag.expect("a tag")), size: meta.size };
            if seen {
                store.stat("page.html").await.expect("it is there");
            }
            store.write_back("page.html", change(base, 4, &[(3, b"x")])).await.expect("it is written");
            let now = memory.get(&path).await.expect("it is there");
            assert_eq!(now.attributes.get(&Attribute::ContentType).map(|value| value.as_ref()), Some("text/html"));
            assert_eq!(now.attributes.get(&mine).map(|value| value.as_ref()), Some("1"));
        }
    }
}

#[tokio::test]
async fn names_that_stores_would_rewrite_or_refuse_are_refused() {
    let store = layout(Arc::new(InMemory::new()));
    for name in ["a/", "/a", "a//b", "a/./b", "..", "a\u{1}", &"x".repeat(1024)] {
        assert!(matches!(store.check_name(name), Err(StoreFault::BadName(_))), "{name:?}");
    }
    for name in ["a", "a/b c", "%", &"x".repeat(1000)] {
        assert!(store.check_name(name).is_ok(), "{name:?}");
    }
}

#[tokio::test]
async fn a_version_is_read_back_as_the_store_wants_it() {
    for (text, e_tag, generation) in [
        ("\"abc\"", "\"abc\"", None),
        ("\"a c\"", "\"a c\"", None),
        ("\"abc\" 1700", "\"abc\"", Some("1700")),
        ("abc", "abc", None),
    ] {
        let update = super::bucket::update_version(&Version::new(text));
        assert_eq!((update.e_tag.as_deref(), update.version.as_deref()), (Some(e_tag), generation), "{text}");
    }
}
