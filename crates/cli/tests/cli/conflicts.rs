//! `conflicts`: what it shows, what it asks before bytes are gone, and what it says when the answer is lost.

use std::time::Duration;

use crate::bench::Bench;
use mmap_client::Reason;
use mmap_fake::fault::Fault;

fn bench() -> Bench {
    let bench = Bench::new();
    bench.fake.put_file("/data/file", vec![b'.'; 10_000]);
    bench.fake.put_conflict("17-a", "/data/file", 4096, [vec![b'x'; 4096], b"end".to_vec()].concat());
    bench
}

#[test]
fn every_conflict_is_listed_also_beside_damaged_ones_and_over_several_pages() {
    let bench = bench();
    for number in 0..5 {
        bench.fake.put_conflict(&format!("18-{number}"), "/other", 0, *b"other");
    }
    bench.fake.put_damaged_conflict("19-a.json");
    let list = bench.run(&["conflicts", "list"]);
    assert_eq!(list.code, 0, "{}", list.stderr);
    let text = list.text();
    assert!(text.contains("17-a") && text.contains("/data/file (the file changed in its store)"), "{text}");
    assert!((0..5).all(|number| text.contains(&format!("18-{number}"))), "{text}");
    assert!(text.contains("damaged: 19-a.json"), "{text}");
    let json = bench.json(&["conflicts", "list"]);
    assert_eq!(json["conflicts"].as_array().map(Vec::len), Some(6), "{json}");
    assert_eq!(json["conflicts"][0]["bytes"], 8192, "{json}");
    assert_eq!(json["damaged"][0]["file"], "19-a.json", "{json}");
    assert!(Bench::new().run(&["conflicts", "list"]).text().contains("no conflicts"));
}

#[test]
fn a_conflicts_pages_and_bytes_are_shown() {
    let bench = bench();
    let show = bench.run(&["conflicts", "show", "17-a"]);
    assert_eq!(show.code, 0, "{}", show.stderr);
    let text = show.text();
    assert!(text.contains("4096 bytes at 4096") && text.contains("3 bytes at 8192"), "{text}");
    let show = bench.run(&["conflicts", "show", "--hex", "17-a"]);
    let text = show.text();
    assert!(text.contains("78 78") && text.contains("\n*\n") && text.contains("65 6e 64"), "{text}");
    let json = bench.json(&["conflicts", "show", "--hex", "17-a"]);
    assert_eq!(json["path"], "/data/file", "{json}");
    assert_eq!(json["ranges"][1]["hex"], "656e64", "{json}");
    let missing = bench.run(&["conflicts", "show", "20-z"]);
    assert_eq!(missing.code, 3, "{}", missing.stderr);
    assert!(missing.stderr.contains("conflicts list"), "{}", missing.stderr);
}

#[test]
fn an_applied_conflict_is_in_the_file_and_gone_from_the_list() {
    let bench = bench();
    let apply = bench.run(&["conflicts", "apply", "17-a"]);
    assert_eq!(apply.code, 0, "{}", apply.stderr);
    assert!(apply.text().contains("/data/file") && apply.text().contains("version is 2"), "{}", apply.text());
    let stored = bench.fake.stored("/data/file").expect("it is there");
    assert_eq!((stored.len(), stored[4095], &stored[8191..8196]), (10_000, b'.', &b"xend."[..]));
    assert_eq!(bench.run(&["conflicts", "apply", "17-a"]).code, 3);
}

#[test]
fn a_lost_answer_to_an_apply_is_said_and_not_repeated_by_itself() {
    let bench = bench();
    bench.fake.plan("ApplyConflict", Fault::Hang);
    let apply = bench.run(&["--timeout", "300ms", "conflicts", "apply", "17-a"]);
    assert_eq!(apply.code, 6, "{}", apply.stderr);
    assert!(apply.stderr.contains("may be applied or not"), "{}", apply.stderr);
    bench.fake.plan("ApplyConflict", Fault::Refuse(Reason::Io, Duration::ZERO));
    let apply = bench.run(&["conflicts", "apply", "17-a"]);
    assert_eq!(apply.code, 6, "{}", apply.stderr);
    assert!(apply.stderr.contains("is not applied, and stays"), "{}", apply.stderr);
    assert_eq!(bench.fake.calls("ApplyConflict"), 2);
}

#[test]
fn nothing_is_dropped_without_being_asked_twice() {
    let bench = bench();
    let refused = bench.run(&["conflicts", "drop", "17-a"]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(refused.stderr.contains("--yes"), "{}", refused.stderr);
    assert_eq!(bench.fake.calls("DropConflict"), 0);
    let dropped = bench.run(&["conflicts", "drop", "--yes", "20-z", "17-a"]);
    assert_eq!(dropped.code, 3, "{}", dropped.stderr);
    assert!(dropped.stderr.contains("20-z") && dropped.text().contains("17-a is dropped"), "{}", dropped.stderr);
    assert_eq!(bench.fake.stored("/data/file"), Some(vec![b'.'; 10_000]));
}
