//! What writing back promises.

use bytes::Bytes;

use super::bench::{Bench, at, dirty, is_changed, is_missing, pattern, whole};
use crate::units::{BLOCK_LEN, MAX_OFFSET};
use crate::vfs::fault::StoreFault;
use crate::vfs::store::{Base, CommitId, Patch, WriteBack};

/// What is to be made and is there is left as it is.
pub async fn an_existing_file_is_not_made_again(bench: &Bench<'_>) {
    let name = bench.name("twice");
    bench.make(&name, b"first").await;
    let again = bench.store.write_back(&name, whole(Base::Missing, b"second")).await;
    assert!(matches!(again, Err(StoreFault::Exists)), "{again:?}");
    assert_eq!(bench.content(&name).await, b"first");
    bench.remove(&name).await;
}

/// Patches replace the base's bytes, what lies between them stays, and what lies behind its end is zeros.
pub async fn patches_land_on_the_base(bench: &Bench<'_>) {
    let name = bench.name("patched");
    let base_length = BLOCK_LEN * 3 + 500;
    let mut stat = bench.make(&name, &pattern(base_length, 5)).await;
    let mut expected = pattern(base_length, 5);
    // (size afterwards, patches): at the start, over a block's edge, many small, growing with a gap, shrinking.
    let steps: [(usize, &[(usize, usize)]); 5] = [
        (base_length, &[(0, 10)]),
        (base_length, &[(BLOCK_LEN - 5, 10), (BLOCK_LEN * 2, BLOCK_LEN)]),
        (base_length, &[(4096, 4096), (12_288, 4096), (20_480, 1), (base_length - 1, 1)]),
        (base_length + BLOCK_LEN, &[(base_length + 1000, 100)]),
        (BLOCK_LEN + 3, &[(BLOCK_LEN, 3)]),
    ];
    for (seed, (size, places)) in (10_u8..).zip(steps) {
        expected.resize(size, 0);
        let mut patches = Vec::new();
        for &(offset, length) in places {
            let data = pattern(length, seed);
            expected[offset..offset + length].copy_from_slice(&data);
            patches.push(dirty(offset as u64, &data));
        }
        let change = WriteBack { base: at(&stat), size: size as u64, patches, commit: CommitId::random() };
        stat = bench.store.write_back(&name, change).await.unwrap_or_else(|fault| panic!("step {seed}: {fault:?}"));
        assert_eq!(bench.content_at(&name, &stat).await, expected, "after step {seed}");
    }
    bench.remove(&name).await;
}

/// A patch that is not dirty has the base's bytes: with it or without it, the file is the same.
pub async fn a_clean_patch_changes_nothing(bench: &Bench<'_>) {
    let name = bench.name("clean");
    let mut expected = pattern(BLOCK_LEN * 2, 6);
    let stat = bench.make(&name, &expected).await;
    let clean = Patch { offset: 0, data: Bytes::copy_from_slice(&expected[..BLOCK_LEN]), dirty: false };
    expected[BLOCK_LEN..BLOCK_LEN + 4].copy_from_slice(b"mark");
    let patches = vec![clean, dirty(BLOCK_LEN as u64, b"mark")];
    let change = WriteBack { base: at(&stat), size: expected.len() as u64, patches, commit: CommitId::random() };
    bench.store.write_back(&name, change).await.expect("it is written");
    assert_eq!(bench.content(&name).await, expected);
    bench.remove(&name).await;
}

/// A change without patches cuts the file or adds zeros; what was cut does not come back.
pub async fn a_new_size_alone_cuts_or_adds_zeros(bench: &Bench<'_>) {
    let name = bench.name("resized");
    let mut expected = pattern(BLOCK_LEN + 4000, 7);
    let mut stat = bench.make(&name, &expected).await;
    for size in [5000, BLOCK_LEN * 2 + 1, 0, 10] {
        expected.resize(size, 0);
        let base = at(&stat);
        let change = WriteBack { base, size: size as u64, patches: Vec::new(), commit: CommitId::random() };
        let next = bench.store.write_back(&name, change).await.expect("it is resized");
        assert_ne!(next.version, stat.version, "another content is another version");
        stat = next;
        assert_eq!(bench.content_at(&name, &stat).await, expected, "at {size} bytes");
    }
    bench.remove(&name).await;
}

/// A change based on another version than the present one is refused, and nothing is overwritten.
pub async fn a_stale_write_back_is_refused(bench: &Bench<'_>) {
    let name = bench.name("stale");
    let old = bench.make(&name, &pattern(3000, 8)).await;
    let theirs = pattern(3000, 9);
    bench.intrude(&name, &theirs).await;
    let size_alone = WriteBack { base: at(&old), size: 10, patches: Vec::new(), commit: CommitId::random() };
    let mut patched = whole(at(&old), &theirs);
    patched.patches = vec![dirty(5, b"ours")];
    for change in [whole(at(&old), b"ours"), size_alone, patched] {
        let refused = bench.store.write_back(&name, change).await;
        assert!(refused.as_ref().is_err_and(is_changed), "{refused:?}");
        assert_eq!(bench.content(&name).await, theirs);
    }
    bench.remove(&name).await;
}

/// A change of a file that is gone is refused, and the file does not come back.
pub async fn a_write_back_to_a_removed_file_is_refused(bench: &Bench<'_>) {
    let name = bench.name("removed");
    let old = bench.make(&name, b"content").await;
    bench.other.remove(&name).await.expect("it is removed");
    let refused = bench.store.write_back(&name, whole(at(&old), b"ours")).await;
    assert!(refused.as_ref().is_err_and(is_changed), "{refused:?}");
    assert!(bench.store.stat(&name).await.is_err_and(|fault| is_missing(&fault)));
}

/// A file that the layout cannot write is refused before anything is sent.
pub async fn a_file_beyond_the_limit_is_refused(bench: &Bench<'_>) {
    let name = bench.name("huge");
    let max = bench.store.traits().max_file_size;
    for size in [max.saturating_add(1), u64::MAX] {
        let change = WriteBack { base: Base::Missing, size, patches: Vec::new(), commit: CommitId::random() };
        let refused = bench.store.write_back(&name, change).await;
        assert!(matches!(refused, Err(StoreFault::TooLarge { max: told }) if told <= MAX_OFFSET), "{refused:?}");
    }
    assert!(bench.store.stat(&name).await.is_err_and(|fault| is_missing(&fault)));
}

/// A removed file is gone for every handle, and can be made again.
pub async fn a_removed_file_is_gone(bench: &Bench<'_>) {
    let name = bench.name("gone");
    bench.make(&name, b"once").await;
    bench.remove(&name).await;
    assert!(bench.other.stat(&name).await.is_err_and(|fault| is_missing(&fault)));
    assert!(bench.store.list(&name, None, 10).await.expect("a list").is_empty());
    bench.make(&name, b"again").await;
    assert_eq!(bench.content(&name).await, b"again");
    bench.remove(&name).await;
}
