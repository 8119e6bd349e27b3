//! What lists, the probe and the ping promise.

use super::bench::Bench;
use crate::path::RESERVED_PREFIX;
use crate::vfs::store::Writability;

/// Names whose order shows whether they are compared as bytes of the whole name: `-` and `.` sort before `/`,
/// digits and letters behind it.
const NAMES: [&str; 12] =
    ["A", "a-b", "a.b", "a/b", "a/b-c/d", "a/b/c", "a/z", "a0", "a0/x", "aa", "b/\u{e9}", "b/\u{1F600}"];

async fn filled(bench: &Bench<'_>, layout_takes_both: bool) -> (String, Vec<String>) {
    let folder = bench.name("listed");
    let mut names = Vec::new();
    for name in NAMES {
        // A folder and a file of one name are for stores of objects only.
        if !layout_takes_both && ["a/b", "a0"].contains(&name) {
            continue;
        }
        let name = format!("{folder}/{name}");
        bench.make(&name, name.as_bytes()).await;
        names.push(name);
    }
    names.sort();
    (folder, names)
}

async fn takes_both(bench: &Bench<'_>) -> bool {
    let name = bench.name("both");
    bench.make(&name, b"file").await;
    let below = format!("{name}/below");
    let change = super::bench::whole(crate::vfs::store::Base::Missing, b"x");
    let made = bench.store.write_back(&below, change).await.is_ok();
    if made {
        bench.remove(&below).await;
    }
    bench.remove(&name).await;
    made
}

async fn listed(bench: &Bench<'_>, prefix: &str, after: Option<&str>, limit: usize) -> Vec<String> {
    let files = bench.store.list(prefix, after, limit).await.expect("a list");
    files.into_iter().map(|file| file.name).collect()
}

async fn clear(bench: &Bench<'_>, names: &[String]) {
    for name in names {
        bench.remove(name).await;
    }
}

/// A list shows every file below a prefix, in the byte order of whole names, with its size and version.
pub async fn a_list_is_in_the_order_of_names(bench: &Bench<'_>) {
    let (folder, names) = filled(bench, takes_both(bench).await).await;
    let files = bench.store.list(&format!("{folder}/"), None, 100).await.expect("a list");
    assert_eq!(files.iter().map(|file| file.name.clone()).collect::<Vec<_>>(), names);
    for file in &files {
        assert_eq!(file.stat.size, file.name.len() as u64, "the size of {}", file.name);
    }
    clear(bench, &names).await;
}

/// With `after` and `limit` a list can be had piece by piece, whatever the pieces; `after` need not be a name.
pub async fn a_list_goes_on_where_it_ended(bench: &Bench<'_>) {
    let (folder, names) = filled(bench, takes_both(bench).await).await;
    let prefix = format!("{folder}/");
    for limit in [1, 2, 5] {
        let mut pieces: Vec<String> = Vec::new();
        loop {
            let piece = listed(bench, &prefix, pieces.last().map(String::as_str), limit).await;
            assert!(piece.len() <= limit);
            if piece.is_empty() {
                break;
            }
            pieces.extend(piece);
        }
        assert_eq!(pieces, names, "in pieces of {limit}");
    }
    for after in ["", "a", "a.", "a/", "a/b-", "a/zzz", "a\u{10FFFF}", "b/\u{e9}", "zzz"] {
        let after = format!("{prefix}{after}");
        let expected: Vec<&String> = names.iter().filter(|name| **name > after).collect();
        assert_eq!(listed(bench, &prefix, Some(&after), 100).await.iter().collect::<Vec<_>>(), expected, "{after}");
    }
    assert!(listed(bench, &prefix, None, 0).await.is_empty());
    clear(bench, &names).await;
}

/// A prefix may end in the middle of a name, and may be a name.
pub async fn a_prefix_is_text_and_not_a_folder(bench: &Bench<'_>) {
    let (folder, names) = filled(bench, takes_both(bench).await).await;
    for prefix in ["", "a", "a/", "a/b", "a/b-c", "a0", "aa", "b/\u{1F600}", "nothing", "a/nothing/x"] {
        let prefix = format!("{folder}/{prefix}");
        let expected: Vec<&String> = names.iter().filter(|name| name.starts_with(&prefix)).collect();
        assert_eq!(listed(bench, &prefix, None, 100).await.iter().collect::<Vec<_>>(), expected, "{prefix}");
        if let [first, rest @ ..] = expected.as_slice() {
            let found = listed(bench, &prefix, Some(first.as_str()), 100).await;
            assert_eq!(found.iter().collect::<Vec<_>>(), rest, "{prefix} behind its first");
        }
    }
    clear(bench, &names).await;
}

/// A store that keeps these promises is found safe, answers a ping, and shows nothing of the probe.
pub async fn the_probe_finds_it_safe_and_leaves_nothing(bench: &Bench<'_>) {
    assert_eq!(bench.store.probe().await.expect("a verdict"), Writability::Safe);
    bench.store.ping().await.expect("an answer");
    let left = listed(bench, RESERVED_PREFIX, None, 100).await;
    assert!(left.is_empty(), "the probe left {left:?}");
}
