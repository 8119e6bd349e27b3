//! `ls`, `stat`, `maps`, `ps`, `truncate`, `rm`, `ping`, `completions`: what people and scripts see.

use crate::bench::Bench;
use mmap_client::{AttachOptions, Client, Prot};
use serde_json::json;

#[test]
fn ls_lists_every_page_for_people_and_for_scripts() {
    let bench = Bench::new();
    for name in ["a", "b", "c", "d", "e", "f", "g"] {
        bench.fake.put_file(&format!("/data/{name}"), vec![0; 1536]);
    }
    bench.fake.put_file("/other", *b"x");
    let ls = bench.run(&["ls", "/data/"]);
    assert_eq!(ls.code, 0, "{}", ls.stderr);
    let lines: Vec<_> = ls.text().lines().collect();
    assert_eq!(lines.len(), 7);
    assert_eq!(lines[0], "   1.5 KiB  2023-11-14 22:13:20Z  /data/a");

    let files = bench.json(&["ls"]);
    let files = files["files"].as_array().expect("a list");
    assert_eq!(files.len(), 8);
    assert_eq!(
        files[7],
        json!({"path": "/other", "size": 1, "version": "1", "modified": "2023-11-14T22:13:20Z", "mapped_by": 0,
               "dirty_bytes": 0})
    );
}

#[test]
fn ls_of_nothing_is_nothing() {
    let bench = Bench::new();
    let ls = bench.run(&["ls"]);
    assert_eq!((ls.code, ls.text()), (0, ""));
    assert_eq!(bench.json(&["ls"]), json!({"files": []}));
}

#[test]
fn stat_tells_what_a_file_is() {
    let bench = Bench::new();
    bench.fake.put_file("/data/file", vec![0; 5 << 20]);
    let stat = bench.run(&["stat", "/data/file"]);
    assert_eq!(stat.code, 0, "{}", stat.stderr);
    assert!(stat.text().contains("Size: 5.0 MiB (5242880 bytes)"), "{}", stat.text());
    assert_eq!(bench.json(&["stat", "/data/file"])["size"], 5 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn maps_and_ps_show_who_has_what() {
    let bench = Bench::new();
    bench.fake.put_file("/data/file", vec![0; 8192]);
    let client = Client::connect(bench.fake.address()).await.expect("it listens");
    let process = client.attach(AttachOptions { pid: Some(42), name: "writer".into() }).await.expect("it attaches");
    let shared = process.map("/data/file").offset(4096).prot(Prot::READ_WRITE).await.expect("it maps");
    let private = process.map("/data/file").length(4096).private().await.expect("it maps");

    let maps = bench.run(&["maps", "--pid", "42"]);
    assert_eq!(maps.code, 0, "{}", maps.stderr);
    let lines: Vec<Vec<_>> = maps.text().lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["RANGE", "PERMS", "PID", "ID", "RESIDENT", "UNSYNCED", "PATH"]);
    assert_eq!(lines[1], ["00001000-00002000", "rw-s", "42", "1", "4.0", "KiB", "0", "B", "/data/file"]);
    assert_eq!(lines[2][..2], ["00000000-00001000", "r--p"]);

    let maps = bench.json(&["maps"]);
    assert_eq!(maps["mappings"][0]["id"], shared.id());
    assert_eq!(maps["mappings"][0]["prot"], json!({"read": true, "write": true, "exec": false}));
    assert_eq!(maps["mappings"][1]["flags"], "MAP_PRIVATE");
    assert_eq!(maps["mappings"][1]["id"], private.id());

    let ps = bench.run(&["ps"]);
    let line: Vec<_> = ps.text().lines().nth(1).expect("one process").split_whitespace().collect();
    assert_eq!(line, ["42", "2", "yes", "1s", "writer"]);
    assert_eq!(
        bench.json(&["ps"]),
        json!({"processes": [{"pid": 42, "name": "writer", "mappings": 2, "attached": true, "idle_ms": 1500}], "waiting": []})
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn ps_shows_what_waits_to_be_stored_for_how_long_and_why() {
    let bench = Bench::new();
    for name in ["a", "b", "c", "d"] {
        bench.fake.put_file(&format!("/data/{name}"), vec![0; 8192]);
    }
    let client = Client::connect(bench.fake.address()).await.expect("it listens");
    let process = client.attach(AttachOptions { pid: Some(42), name: "writer".into() }).await.expect("it attaches");
    let mut mappings = Vec::new();
    for name in ["a", "b", "c", "d"] {
        let path = format!("/data/{name}");
        let mapping = process.map(&path).prot(Prot::READ_WRITE).await.expect("it maps");
        mapping.write(0, b"unsynced".as_slice()).await.expect("it writes");
        mappings.push(mapping);
    }
    let ps = bench.run(&["ps"]);
    let lines: Vec<_> = ps.text().lines().skip(2).collect();
    assert_eq!(
        lines[..3],
        ["", "  UNSYNCED      FOR  NOT STORED YET", "   8.0 KiB    1m30s  /data/a  (the store is away)"]
    );
    assert_eq!(lines.len(), 6, "of every page: {lines:?}");
    assert_eq!(
        bench.json(&["ps"])["waiting"][3],
        json!({"path": "/data/d", "dirty_bytes": 8192, "waiting_ms": 90_000, "last_error": "the store is away"})
    );
}

#[test]
fn truncate_makes_a_file_only_when_told() {
    let bench = Bench::new();
    assert_eq!(bench.run(&["truncate", "/data/file", "64KiB"]).code, 3);
    assert_eq!(bench.run(&["truncate", "--create", "/data/file", "64KiB"]).code, 0);
    assert_eq!(bench.fake.stored("/data/file").map(|bytes| bytes.len()), Some(64 << 10));
    assert_eq!(bench.json(&["truncate", "/data/file", "5"])["size"], 5);
    assert_eq!(bench.fake.stored("/data/file").map(|bytes| bytes.len()), Some(5));
}

#[test]
fn rm_removes_what_it_can_and_ends_as_the_first_failure_does() {
    let bench = Bench::new();
    bench.fake.put_file("/a", *b"x");
    bench.fake.put_file("/c", *b"x");
    let rm = bench.run(&["rm", "/a", "/b", "/c"]);
    assert_eq!(rm.code, 3);
    assert!(rm.stderr.contains("cannot remove /b") && rm.stderr.contains("ENOENT"), "{}", rm.stderr);
    assert_eq!((bench.fake.stored("/a"), bench.fake.stored("/c")), (None, None));
}

#[test]
fn ping_says_that_a_server_serves() {
    let bench = Bench::new();
    let ping = bench.run(&["ping"]);
    assert_eq!(ping.code, 0, "{}", ping.stderr);
    assert!(ping.text().contains(" serves: ") && ping.text().contains(" ms"), "{}", ping.text());
    assert_eq!(bench.json(&["ping"])["serving"], true);
}

#[test]
fn completions_are_made_without_a_server() {
    let mut bench = Bench::new();
    bench.fake.stop();
    for shell in ["bash", "zsh", "fish"] {
        let script = bench.run(&["completions", shell]);
        assert_eq!(script.code, 0, "{}", script.stderr);
        assert!(script.text().contains("mmapctl") && script.text().contains("truncate"));
    }
}
