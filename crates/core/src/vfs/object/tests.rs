//! The layout `object` in memory: the conformance suite, and what only this layout promises.

use std::fmt;
use std::ops::Range;

use futures::stream::BoxStream;
use object_store::{
    Attribute, CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use parking_lot::Mutex;

use super::*;
use crate::vfs::conformance::{Bench, run_all};
use crate::vfs::store::{Base, CommitId, Patch};

/// What a look-alike gets wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Vice {
    IgnoresConditions,
    IgnoresIfMatchOnGet,
    LosesReplies,
    CutsBodies,
    HasNoConditions,
}

/// A store in memory with vices.
#[derive(Debug, Default)]
struct Lookalike {
    inner: InMemory,
    vices: Mutex<Vec<Vice>>,
}

impl Lookalike {
    fn with(vices: &[Vice]) -> Arc<Self> {
        Arc::new(Self { inner: InMemory::new(), vices: Mutex::new(vices.to_vec()) })
    }

    fn has(&self, vice: Vice) -> bool {
        self.vices.lock().contains(&vice)
    }
}

impl fmt::Display for Lookalike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lookalike")
    }
}

#[async_trait]
impl ObjectStore for Lookalike {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        mut opts: PutOptions,
    ) -> object_store::Result<PutResult> {
        if self.has(Vice::HasNoConditions) && opts.mode != object_store::PutMode::Overwrite {
            return Err(object_store::Error::NotImplemented { operation: "put".into(), implementer: "it".into() });
        }
        if self.has(Vice::IgnoresConditions) {
            opts.mode = object_store::PutMode::Overwrite;
        }
        let put = self.inner.put_opts(location, payload.clone(), opts.clone()).await?;
        match self.has(Vice::LosesReplies) {
            false => Ok(put),
            // As object_store's client does: it repeats, and the store refuses what took effect before.
            true => self.inner.put_opts(location, payload, opts).await,
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, mut options: GetOptions) -> object_store::Result<GetResult> {
        if self.has(Vice::IgnoresIfMatchOnGet) {
            options.if_match = None;
        }
        let cut = self.has(Vice::CutsBodies) && !options.head;
        let mut answer = self.inner.get_opts(location, options).await?;
        if cut {
            let (range, meta, attributes) = (answer.range.clone(), answer.meta.clone(), answer.attributes.clone());
            let bytes = answer.bytes().await?;
            let bytes = bytes.slice(..bytes.len() - 1);
            let payload = futures::stream::once(async { Ok(bytes) }).boxed();
            let payload = object_store::GetResultPayload::Stream(payload);
            answer = GetResult { payload, meta, range, attributes, extensions: Default::default() };
        }
        Ok(answer)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> object_store::Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

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
