//! What reading promises.

use super::bench::{Bench, at, is_changed, is_missing, pattern, whole};
use crate::units::{BLOCK_LEN, BLOCK_SIZE, ByteRange};
use crate::vfs::store::Base;
use crate::vfs::version::Version;

/// Nothing is known of a file that is not there, and to remove it is an error.
pub async fn a_missing_file_is_missing(bench: &Bench<'_>) {
    let name = bench.name("nothing/here");
    assert!(bench.store.stat(&name).await.is_err_and(|fault| is_missing(&fault)), "stat");
    assert!(bench.store.remove(&name).await.is_err_and(|fault| is_missing(&fault)), "remove");
    let version = Version::new("\"0\"");
    let read = bench.store.read(&name, &version, ByteRange::new(0, 1)).await;
    assert!(read.is_err_and(|fault| is_missing(&fault)), "read");
}

/// What was written is what is read, by every handle, and the write-back's own answer says the same as a stat.
pub async fn a_file_reads_as_it_was_made(bench: &Bench<'_>) {
    let name = bench.name("made");
    let content = pattern(BLOCK_LEN + 77, 1);
    let change = whole(Base::Missing, &content);
    let commit = change.commit;
    let made = bench.store.write_back(&name, change).await.expect("it is made");
    let stat = bench.other.stat(&name).await.expect("it is there");
    assert_eq!((made.size, &made.version), (content.len() as u64, &stat.version), "answer and stat");
    assert_eq!(made.size, stat.size);
    assert!(stat.commit.is_none_or(|kept| kept == commit), "a commit that is kept is the one that made it");
    assert_eq!(bench.content(&name).await, content);
    bench.remove(&name).await;
}

/// A file of no bytes can be made, seen, grown and emptied again.
pub async fn an_empty_file_is_a_file(bench: &Bench<'_>) {
    let name = bench.name("empty");
    let made = bench.make(&name, b"").await;
    assert_eq!(bench.store.stat(&name).await.expect("it is there").size, 0);
    assert!(bench.content(&name).await.is_empty());
    let grown = bench.store.write_back(&name, whole(at(&made), b"now some")).await.expect("it grows");
    assert_eq!(bench.content(&name).await, b"now some");
    bench.store.write_back(&name, whole(at(&grown), b"")).await.expect("it is emptied");
    assert!(bench.content(&name).await.is_empty());
    bench.remove(&name).await;
}

/// A range is answered with one buffer a block, the last one cut where the range ends.
pub async fn reads_come_in_blocks_of_their_own(bench: &Bench<'_>) {
    let name = bench.name("blocks");
    let content = pattern(BLOCK_LEN * 5 + 1000, 2);
    let stat = bench.make(&name, &content).await;
    let end = content.len() as u64;
    for (start, end) in
        [(0, end), (0, 1), (BLOCK_SIZE, BLOCK_SIZE * 3), (BLOCK_SIZE * 2, BLOCK_SIZE * 3 + 7), (BLOCK_SIZE * 5, end)]
    {
        let range = ByteRange::new(start, end);
        let blocks = bench.store.read(&name, &stat.version, range).await.expect("a range in the file");
        let expected: Vec<usize> = range.blocks().map(|block| range.within(block).len()).collect();
        assert_eq!(blocks.iter().map(bytes::Bytes::len).collect::<Vec<_>>(), expected, "the blocks of {range}");
        let (start, end) = (usize::try_from(start).expect("small"), usize::try_from(end).expect("small"));
        assert_eq!(blocks.concat(), content[start..end], "the bytes of {range}");
    }
    bench.remove(&name).await;
}

/// The bytes of a version that is no longer there are refused, also where the file became shorter or is gone.
pub async fn an_old_version_is_not_read(bench: &Bench<'_>) {
    let name = bench.name("old");
    let old = bench.make(&name, &pattern(5000, 3)).await;
    let range = ByteRange::new(0, 5000);
    bench.intrude(&name, &pattern(5000, 4)).await;
    assert!(bench.store.read(&name, &old.version, range).await.is_err_and(|fault| is_changed(&fault)), "changed");
    bench.intrude(&name, b"short").await;
    assert!(bench.store.read(&name, &old.version, range).await.is_err_and(|fault| is_changed(&fault)), "shorter");
    bench.other.remove(&name).await.expect("it is removed");
    assert!(bench.store.read(&name, &old.version, range).await.is_err_and(|fault| is_missing(&fault)), "gone");
}

/// A name that the store takes is kept to the letter: what it would have to rewrite, `check_name` refuses.
pub async fn odd_names_stay_as_they_are(bench: &Bench<'_>) {
    let folder = bench.name("names");
    for odd in ["a b", "100%", "%41", "ä/ö/ü", "q?x=1&y#z", "[a]*{b}", "..x", "x..", "~`'\"\\", "日本", "e\u{301}"]
    {
        let name = format!("{folder}/{odd}");
        if bench.store.check_name(&name).is_err() {
            continue;
        }
        bench.make(&name, odd.as_bytes()).await;
        assert_eq!(bench.content(&name).await, odd.as_bytes(), "{odd}");
        let listed = bench.store.list(&name, None, 10).await.expect("a list");
        assert!(listed.iter().any(|file| file.name == name), "{odd} is listed as it is: {listed:?}");
        bench.remove(&name).await;
    }
}
