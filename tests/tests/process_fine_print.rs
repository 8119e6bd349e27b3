//! The contract's fine print on processes and lists, over the wire.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::time::Duration;

use mmap_proto::reason::Reason;
use mmap_proto::v1;
use mmap_tests::failure::expect;
use mmap_tests::mmapd::{Mmapd, Setup};
use mmap_tests::wire::{Caller, map_request};
use tonic::{Status, Streaming};

async fn attach(caller: &Caller, pid: Option<u32>, name: &str) -> Result<Streaming<v1::AttachResponse>, Status> {
    let request = caller.request(v1::AttachRequest { pid, name: name.into() });
    Ok(caller.process_service().attach(request).await?.into_inner())
}

fn server(args: &[&str]) -> Mmapd {
    Setup::new().args(args).start()
}

#[tokio::test]
async fn attach_takes_the_requests_pid_then_the_headers_then_a_new_one() {
    let server = server(&["--process-grace", "7s"]);
    let caller = Caller::connect(server.addr(), 5).await;
    let nobody = caller.without_pid();
    let mut by_request = attach(&nobody, Some(6), "by request").await.unwrap();
    let first = by_request.message().await.unwrap().unwrap();
    assert_eq!((first.pid, first.grace_ms), (6, 7000));
    let mut by_header = attach(&caller, None, "by header").await.unwrap();
    assert_eq!(by_header.message().await.unwrap().unwrap().pid, 5);
    let mut picked = attach(&nobody, None, "picked").await.unwrap();
    let pid = picked.message().await.unwrap().unwrap().pid;
    assert!(![0, 5, 6].contains(&pid), "{pid}");
    let same = caller.with_pid(8);
    let mut both = attach(&same, Some(8), "both").await.unwrap();
    assert_eq!(both.message().await.unwrap().unwrap().pid, 8);
    let differ = expect(Reason::Inval, attach(&caller, Some(9), "").await.map(|_| ()));
    assert_eq!((differ.value("pid"), differ.value("mmap-pid")), ("9", "5"));
    let busy = expect(Reason::Busy, attach(&nobody, Some(6), "again").await.map(|_| ()));
    assert_eq!(busy.value("pid"), "6");
    let mut listed: Vec<_> = nobody.list_processes().await.unwrap();
    listed.retain(|process| process.pid != pid);
    let listed: Vec<_> = listed.iter().map(|one| (one.pid, one.name.as_str(), one.attached)).collect();
    assert_eq!(listed, [(5, "by header", true), (6, "by request", true), (8, "both", true)]);
}

#[tokio::test]
async fn heartbeats_come_within_the_grace_time_and_exit_ends_the_stream_with_ok() {
    let server = server(&["--process-grace", "600ms"]);
    let caller = Caller::connect(server.addr(), 5).await;
    let mut stream = attach(&caller, None, "").await.unwrap();
    let first = stream.message().await.unwrap().unwrap();
    let beat = tokio::time::timeout(Duration::from_secs(5), stream.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(beat, first);
    let id = caller.map_shared("/beat", 4097).await;
    caller.write(id, 4095, &b"ab"[..]).await.unwrap();
    let exited = caller.exit(false).await.unwrap();
    assert_eq!((exited.unmapped, exited.synced_bytes), (1, 8192));
    let end = async {
        while stream.message().await?.is_some() {}
        Ok::<_, Status>(())
    };
    tokio::time::timeout(Duration::from_secs(5), end).await.unwrap().unwrap();
    expect(Reason::Srch, caller.exit(false).await);
    expect(Reason::BadF, caller.read(id, 0, 1).await);
}

#[tokio::test]
async fn an_exit_whose_sync_fails_leaves_the_process_and_may_be_called_again_with_discard() {
    let server = server(&[]);
    let caller = Caller::connect(server.addr(), 5).await;
    let mut stream = attach(&caller, None, "stays").await.unwrap();
    stream.message().await.unwrap().unwrap();
    let (torn, fine) = (caller.map_shared("/torn", 100).await, caller.map_shared("/fine", 100).await);
    caller.write(torn, 0, &b"mine"[..]).await.unwrap();
    caller.write(fine, 0, &b"fine"[..]).await.unwrap();
    std::fs::write(server.default_files().join("torn"), b"theirs").unwrap();
    assert_eq!(expect(Reason::Stale, caller.exit(false).await).value("path"), "/torn");
    assert_eq!(caller.read(torn, 0, 4).await.unwrap(), "mine", "the mapping stays");
    let listed = caller.list_processes().await.unwrap();
    assert_eq!((listed.len(), listed[0].mappings, listed[0].attached), (1, 2, true));
    assert_eq!(caller.exit(true).await.unwrap().unmapped, 2);
    assert_eq!(std::fs::read(server.default_files().join("torn")).unwrap(), b"theirs");
    assert_eq!(caller.without_pid().list_mappings(None).await.unwrap(), []);
}

#[tokio::test]
async fn lists_go_on_where_the_last_page_ended_and_know_whose_they_are() {
    let server = server(&[]);
    let caller = Caller::connect(server.addr(), 1).await;
    let mut ids = Vec::new();
    for name in ["/b", "/a/x", "/a/y", "/ab", "/c"] {
        ids.push(caller.map_shared(name, 10).await);
    }
    let others = caller.with_pid(2).map_shared("/a/x", 10).await;
    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let request = v1::ListMappingsRequest { page_size: 2, page_token: token, ..Default::default() };
        let page = caller.mmap_service().list_mappings(caller.request(request)).await.unwrap().into_inner();
        assert!(page.mappings.len() <= 2);
        seen.extend(page.mappings.iter().map(|mapping| mapping.id));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, ids, "one's own, in the order of their ids");
    let plain = caller.without_capabilities();
    assert_eq!(plain.list_mappings(Some(1)).await.unwrap().len(), 5, "one's own need no capability");
    let all: Vec<u64> = caller.without_pid().list_mappings(None).await.unwrap().iter().map(|one| one.id).collect();
    assert_eq!(all.last(), Some(&others));
    assert_eq!(all.len(), 6);
    assert_eq!(caller.list_mappings(Some(2)).await.unwrap()[0].owner_pid, 2);
    assert_eq!(caller.list_mappings(Some(3)).await.unwrap(), []);
}

async fn list_files(caller: &Caller, prefix: &str, page_size: u32) -> Vec<String> {
    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let request = v1::ListFilesRequest { prefix: prefix.into(), page_size, page_token: token };
        let page = caller.file_service().list_files(caller.request(request)).await.unwrap().into_inner();
        seen.extend(page.files.into_iter().map(|file| file.path));
        token = page.next_page_token;
        if token.is_empty() {
            return seen;
        }
    }
}

#[tokio::test]
async fn a_prefix_is_a_folder_or_the_start_of_a_name_and_empty_means_all() {
    let server = server(&[]);
    let caller = Caller::connect(server.addr(), 1).await;
    let all = ["/a/x", "/a/y", "/ab", "/b"];
    for path in all {
        caller.map_shared(path, 10).await;
    }
    for page_size in [0, 1, 3, u32::MAX] {
        assert_eq!(list_files(&caller, "", page_size).await, all);
        assert_eq!(list_files(&caller, "/", page_size).await, all);
        assert_eq!(list_files(&caller, "/a", page_size).await, ["/a/x", "/a/y", "/ab"]);
        assert_eq!(list_files(&caller, "/a/", page_size).await, ["/a/x", "/a/y"]);
        assert_eq!(list_files(&caller, "/a/y", page_size).await, ["/a/y"]);
        assert_eq!(list_files(&caller, "/z", page_size).await, [""; 0]);
    }
}

#[tokio::test]
async fn a_list_across_mounts_is_in_the_order_of_the_paths() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for name in ["a", "m-", "m0", "z"] {
        std::fs::write(one.path().join(name), b"1").unwrap();
    }
    // Hidden by the mount below it: never listed, and never reached.
    std::fs::create_dir(one.path().join("m")).unwrap();
    std::fs::write(one.path().join("m/hidden"), b"1").unwrap();
    std::fs::write(two.path().join("x"), b"22").unwrap();
    let (first, second) = (format!("file://{}", one.path().display()), format!("file://{}", two.path().display()));
    let server = Setup::new().mount("/", &first).mount("/m", &second).start();
    let caller = Caller::connect(server.addr(), 1).await;
    for page_size in [0, 1, 2] {
        assert_eq!(list_files(&caller, "", page_size).await, ["/a", "/m-", "/m/x", "/m0", "/z"]);
        assert_eq!(list_files(&caller, "/m", page_size).await, ["/m-", "/m/x", "/m0"]);
        assert_eq!(list_files(&caller, "/m/", page_size).await, ["/m/x"]);
    }
    expect(Reason::NoEnt, caller.stat_file("/m/hidden").await);
    assert_eq!(caller.stat_file("/m/x").await.unwrap().size, 2);
    expect(Reason::NoEnt, caller.mmap(map_request("/m/hidden", 1)).await);
}
