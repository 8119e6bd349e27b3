//! `put`, `get`, `cat` and `poke`: what arrives, what is refused, and what is left behind when it fails.

use std::{io::Read, process::Stdio, time::Duration};

use crate::bench::{Bench, Ran, arg, pattern};
use mmap_client::Reason;
use mmap_fake::fault::Fault;

/// Several pieces and a bit.
const SIZE: usize = (3 << 20) + 12_345;

#[test]
fn a_file_comes_back_as_it_was_put() {
    let bench = Bench::new();
    let local = bench.local("in", &pattern(SIZE));
    let put = bench.run(&["put", arg(&local), "/data/file"]);
    assert_eq!(put.code, 0, "{}", put.stderr);
    assert!(put.text().contains("/data/file") && put.text().contains("3.0 MiB"), "{}", put.text());
    assert!(bench.fake.stored("/data/file") == Some(pattern(SIZE)), "put reports only what is synced");

    let get = bench.run(&["get", "/data/file", "out"]);
    assert_eq!(get.code, 0, "{}", get.stderr);
    assert!(std::fs::read(bench.path("out")).expect("it is there") == pattern(SIZE), "the bytes differ");
    assert_eq!(bench.fake.pids(), [0_u32; 0], "no process is left behind");
    assert_eq!(bench.fake.mapping_ids(), [0_u64; 0], "no mapping is left behind");
}

#[test]
fn pipes_carry_files_both_ways() {
    let bench = Bench::new();
    let put = bench.run_with_input(&["put", "-", "/data/piped"], &pattern(SIZE));
    assert_eq!(put.code, 0, "{}", put.stderr);
    let get = bench.run(&["get", "/data/piped", "-"]);
    assert_eq!(get.code, 0, "{}", get.stderr);
    assert!(get.stdout == pattern(SIZE), "the bytes differ");
}

#[test]
fn an_empty_file_is_a_file() {
    let bench = Bench::new();
    let local = bench.local("empty", b"");
    assert_eq!(bench.run(&["put", arg(&local), "/empty"]).code, 0);
    assert_eq!(bench.fake.stored("/empty"), Some(Vec::new()));
    assert_eq!(bench.run(&["get", "/empty", "out"]).code, 0);
    assert_eq!(std::fs::read(bench.path("out")).expect("it is there"), b"");
    let cat = bench.run(&["cat", "/empty"]);
    assert_eq!((cat.code, cat.stdout), (0, Vec::new()));
}

#[test]
fn nothing_is_overwritten_silently() {
    let bench = Bench::new();
    bench.fake.put_file("/data/file", *b"old and longer");
    let local = bench.local("file", b"new");

    let put = bench.run(&["put", arg(&local), "/data/"]);
    assert_eq!(put.code, 5, "{}", put.stderr);
    assert!(put.stderr.contains("--force") && put.stderr.contains("EEXIST"), "{}", put.stderr);
    assert_eq!(bench.fake.stored("/data/file").as_deref(), Some(&b"old and longer"[..]));
    assert_eq!(bench.run(&["put", "--force", arg(&local), "/data/"]).code, 0);
    assert_eq!(bench.fake.stored("/data/file").as_deref(), Some(&b"new"[..]));

    bench.fake.put_file("/data/file", *b"changed");
    let get = bench.run(&["get", "/data/file", "."]);
    assert_eq!(get.code, 5, "{}", get.stderr);
    assert!(get.stderr.contains("--force"), "{}", get.stderr);
    assert_eq!(bench.fake.calls("MmapReadStream"), 0, "it is refused before anything is fetched");
    assert_eq!(std::fs::read(&local).expect("it is there"), b"new");
    assert_eq!(bench.run(&["get", "--force", "/data/file", "."]).code, 0);
    assert_eq!(std::fs::read(&local).expect("it is there"), b"changed");
}

#[test]
fn a_put_that_fails_leaves_no_half_a_file() {
    let bench = Bench::new();
    let local = bench.local("in", &pattern(SIZE));
    bench.fake.plan("MmapWriteStream", Fault::Cut(1, Reason::Io));
    let put = bench.run(&["put", arg(&local), "/data/file"]);
    assert_eq!(put.code, 6, "{}", put.stderr);
    assert!(bench.fake.stored("/data/file").is_none());
    assert_eq!(bench.fake.pids(), [0_u32; 0]);
}

#[test]
fn what_a_failed_put_cannot_remove_is_told_and_never_half_written() {
    let bench = Bench::new();
    let local = bench.local("in", &pattern(SIZE));
    bench.fake.plan("MmapWriteStream", Fault::Cut(1, Reason::Io));
    bench.fake.plan("RemoveFile", Fault::Refuse(Reason::Io, Duration::ZERO));
    let put = bench.run(&["put", arg(&local), "/data/file"]);
    assert_eq!(put.code, 6, "{}", put.stderr);
    assert!(put.stderr.contains("/data/file is incomplete"), "{}", put.stderr);
    assert!(bench.fake.stored("/data/file") == Some(vec![0; SIZE]), "what was written was given up");
}

#[test]
fn a_get_that_fails_leaves_no_local_file() {
    let bench = Bench::new();
    bench.fake.put_file("/data/file", pattern(SIZE));
    bench.fake.plan("MmapReadStream", Fault::Cut(1, Reason::UClean));
    let get = bench.run(&["get", "/data/file", "out"]);
    assert_eq!(get.code, 1, "{}", get.stderr);
    let left: Vec<_> = std::fs::read_dir(bench.path(".")).expect("the folder is ours").collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_missing_local_file_is_told_with_its_name_and_makes_nothing() {
    let bench = Bench::new();
    let put = bench.run(&["put", "nowhere", "/data/file"]);
    assert_eq!(put.code, 1);
    assert!(put.stderr.contains("nowhere"), "{}", put.stderr);
    assert_eq!(bench.fake.calls("TruncateFile"), 0);
}

#[test]
fn cat_prints_the_part_asked_for_and_no_more_than_there_is() {
    let bench = Bench::new();
    bench.fake.put_file("/data/file", *b"0123456789");
    for (arguments, expected) in [
        (&["cat", "/data/file"][..], "0123456789"),
        (&["cat", "/data/file", "--offset", "3", "--length", "4"], "3456"),
        (&["cat", "/data/file", "--offset", "8", "--length", "1GiB"], "89"),
        (&["cat", "/data/file", "--offset", "11"], ""),
        (&["cat", "/data/file", "--length", "0"], ""),
    ] {
        let cat = bench.run(arguments);
        assert_eq!((cat.code, cat.text()), (0, expected), "{arguments:?}");
    }
}

#[test]
fn a_reader_that_has_enough_is_no_failure() {
    let bench = Bench::new();
    bench.fake.put_file("/data/file", pattern(8 << 20));
    let mut child =
        bench.command(&["cat", "/data/file"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut some = [0; 100];
    child.stdout.take().expect("it is piped").read_exact(&mut some).expect("it writes");
    // The pipe's end is dropped here, long before 8 MiB went through it.
    let ran = Ran::of(child.wait_with_output().expect("it ends"));
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
}

#[test]
fn poke_writes_bytes_where_they_belong_and_syncs_them() {
    let bench = Bench::new();
    bench.fake.put_file("/data/file", *b"0123456789");
    let poke = bench.run(&["poke", "/data/file", "--offset", "2", "ab"]);
    assert_eq!(poke.code, 0, "{}", poke.stderr);
    assert_eq!(bench.run(&["poke", "/data/file", "--offset", "4", "--hex", "63 64"]).code, 0);
    assert_eq!(bench.run_with_input(&["poke", "/data/file", "--offset", "6", "--file", "-"], b"ef").code, 0);
    assert_eq!(bench.fake.stored("/data/file").as_deref(), Some(&b"01abcdef89"[..]));
}

#[test]
fn poke_behind_the_end_is_refused_because_it_would_be_dropped() {
    let bench = Bench::new();
    bench.fake.put_file("/data/file", *b"0123456789");
    let poke = bench.run(&["poke", "/data/file", "--offset", "9", "ab"]);
    assert_eq!(poke.code, 1);
    assert!(poke.stderr.contains("mmapctl truncate"), "{}", poke.stderr);
    assert_eq!(bench.fake.calls("MmapWrite"), 0);
    assert_eq!(bench.fake.stored("/data/file").as_deref(), Some(&b"0123456789"[..]));
}

#[test]
fn poke_takes_exactly_one_source_of_bytes() {
    let bench = Bench::new();
    assert_eq!(bench.run(&["poke", "/data/file", "--offset", "0"]).code, 2);
    assert_eq!(bench.run(&["poke", "/data/file", "--offset", "0", "ab", "--hex", "00"]).code, 2);
    assert_eq!(bench.run(&["poke", "/data/file", "--offset", "0", ""]).code, 2);
    assert_eq!(bench.run(&["poke", "/data/file", "--offset", "0", "--hex", "0"]).code, 2);
}
