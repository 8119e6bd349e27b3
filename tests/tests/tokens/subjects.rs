//! What belongs to one subject is not there for another, and a scope is what it says.

use mmap_proto::reason::Reason;
use mmap_proto::v1;
use mmap_tests::failure::expect;
use mmap_tests::mmapd::Mmapd;
use mmap_tests::wire::{Caller, map_request};
use serde_json::json;

use super::scene::Scene;

/// A caller who may read and write, and see nothing of others.
async fn plain(scene: &Scene, server: &Mmapd, subject: &str, pid: u32) -> Caller {
    let mut claims = Scene::claims(subject);
    claims["capabilities"] = json!("FileRead FileWrite");
    Caller::connect(server.addr(), pid).await.with_token(&scene.token(&claims))
}

/// Everything that `bob` could try at a mapping of somebody else's process with the same pid.
async fn try_all(bob: &Caller, id: u64) {
    expect(Reason::BadF, bob.read(id, 0, 1).await);
    expect(Reason::BadF, bob.write(id, 0, vec![9]).await);
    expect(Reason::BadF, bob.msync(id).await);
    expect(Reason::BadF, bob.munmap(id).await);
    let discard = v1::MunmapRequest { mmap_id: id, discard: true, force: true };
    expect(Reason::BadF, bob.munmap_with(discard).await);
    let stream = bob.request(v1::MmapReadStreamRequest { mmap_id: id, length: 1, ..Default::default() });
    let mut stream = bob.mmap_service().mmap_read_stream(stream).await.unwrap().into_inner();
    expect(Reason::BadF, stream.message().await);
    let write = v1::MmapWriteStreamRequest { mmap_id: id, offset: 0, data: vec![9].into() };
    let write = bob.request(futures::stream::iter([write]));
    expect(Reason::BadF, bob.mmap_service().mmap_write_stream(write).await);
    assert_eq!(expect(Reason::Acces, bob.stats(id).await).value("capability"), "SystemInfo");
    assert!(bob.list_mappings(None).await.unwrap().is_empty());
    expect(Reason::Srch, bob.exit(true).await);
}

#[tokio::test]
async fn a_right_token_reaches_no_process_or_mapping_of_another_subject_also_after_a_restart() {
    let (scene, state) = (Scene::new(), tempfile::tempdir().unwrap());
    let server = scene.setup().state_dir(state.path()).start();
    let (alice, bob) = (plain(&scene, &server, "alice", 7).await, plain(&scene, &server, "bob", 7).await);
    let id = alice.map_shared("/a", 4096).await;
    alice.write(id, 0, vec![1, 2, 3]).await.unwrap();
    try_all(&bob, id).await;
    // The same pid is another process: attaching to it takes nothing over.
    let attach = bob.request(v1::AttachRequest { pid: Some(7), name: "bob's".into() });
    let mut attached = bob.process_service().attach(attach).await.unwrap().into_inner();
    assert_eq!(attached.message().await.unwrap().unwrap().pid, 7);
    expect(Reason::BadF, bob.read(id, 0, 1).await);
    bob.exit(true).await.unwrap();
    assert_eq!(alice.read(id, 0, 4).await.unwrap(), [1, 2, 3, 0][..]);
    let log = server.stderr();
    for part in ["another subject", "\"bob\"", "k1"] {
        assert!(log.contains(part), "{part} is not in the audit:\n{log}");
    }
    server.sigkill();
    let server = scene.setup().state_dir(state.path()).start();
    let (alice, bob) = (plain(&scene, &server, "alice", 7).await, plain(&scene, &server, "bob", 7).await);
    try_all(&bob, id).await;
    assert_eq!(alice.read(id, 0, 4).await.unwrap(), [1, 2, 3, 0][..]);
    alice.exit(false).await.unwrap();
}

#[tokio::test]
async fn a_scope_covers_whole_segments_with_its_rights_and_lists_show_nothing_else() {
    let scene = Scene::new();
    let server = scene.setup().start();
    let all = scene.caller(&server, "admin", 1).await;
    for path in ["/data", "/data-x", "/database", "/Data/x", "/other/x", "/mine/x"] {
        // A file and a folder of one name cannot both lie in a folder: `/data` is made in a store of its own below.
        if path != "/data" {
            let make = v1::TruncateFileRequest { path: path.into(), size: 10, create: true, exclusive: true };
            all.truncate(make).await.unwrap();
        }
    }
    for path in ["/data/x", "/data/in/y"] {
        all.truncate(v1::TruncateFileRequest { path: path.into(), size: 10, create: true, exclusive: true })
            .await
            .unwrap();
    }
    let theirs = all.map_shared("/other/x", 10).await;
    let mut claims = Scene::claims("alice");
    claims["paths"] = json!([{"prefix": "/data", "rights": "r"}, {"prefix": "/mine", "rights": "rw"}]);
    let alice = all.with_pid(2).with_token(&scene.token(&claims));
    let read = |path: &str| v1::MmapRequest { prot: 1, ..map_request(path, 10) };
    for path in ["/data/x", "/data/in/y", "/mine/x"] {
        alice.mmap(read(path)).await.expect(path);
        alice.stat_file(path).await.expect(path);
    }
    for path in ["/database", "/data-x", "/Data/x", "/other/x", "/data%2fx"] {
        for failed in
            [expect(Reason::Acces, alice.mmap(read(path)).await), expect(Reason::Acces, alice.stat_file(path).await)]
        {
            assert_eq!(failed.value("path"), path);
        }
    }
    for path in ["/data/../other/x", "/data//x", "/data/./x", "data/x"] {
        expect(Reason::Inval, alice.mmap(read(path)).await);
    }
    // Looking is not changing, and private pages are pages that are written.
    let private = v1::MmapRequest { shared: false, ..map_request("/data/x", 10) };
    for request in [map_request("/data/x", 10), private, v1::MmapRequest { create: true, ..read("/data/new") }] {
        assert!(expect(Reason::Acces, alice.mmap(request).await).value("path").starts_with("/data/"));
    }
    expect(
        Reason::Acces,
        alice.truncate(v1::TruncateFileRequest { path: "/data/x".into(), ..Default::default() }).await,
    );
    expect(Reason::Acces, alice.remove("/data/x").await);
    alice.mmap(map_request("/mine/x", 10)).await.unwrap();

    let mut listed = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListFilesRequest { prefix: "/d".into(), page_size: 1, page_token };
        let page = alice.file_service().list_files(alice.request(request)).await.unwrap().into_inner();
        assert!(page.next_page_token.is_empty() || page.next_page_token.starts_with("/data/"), "{page:?}");
        listed.extend(page.files.into_iter().map(|file| file.path));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(listed, ["/data/in/y", "/data/x"]);
    // SystemInfo shows others' mappings, but none of files out of scope.
    expect(Reason::BadF, alice.stats(theirs).await);
    let everybody = alice.without_pid().list_mappings(None).await.unwrap();
    assert!(!everybody.is_empty() && everybody.iter().all(|mapping| mapping.path != "/other/x"), "{everybody:?}");
    claims["paths"] = json!([]);
    let nobody = all.with_pid(3).with_token(&scene.token(&claims));
    expect(Reason::Acces, nobody.stat_file("/data/x").await);
    claims["capabilities"] = json!([]);
    let powerless = all.with_pid(3).with_token(&scene.token(&claims));
    assert_eq!(expect(Reason::Acces, powerless.stat_file("/data/x").await).value("capability"), "FileRead");
}
