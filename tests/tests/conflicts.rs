//! Conflicts from their coming into being to their end, over the wire and with `mmapctl`: a process dies with writes
//! whose file was changed by somebody else, the server is killed, and a person decides.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use mmap_client::{AttachOptions, Client, Prot, Reason};
use mmap_tests::mmapctl::run;
use mmap_tests::mmapd::{Mmapd, Setup};
use serde_json::Value;

const NOT_FOUND: i32 = 3;
const PAGE: usize = 4096;

fn start(folder: &Path) -> Mmapd {
    Setup::new()
        .mount("/", &format!("file://{}", folder.join("files").display()))
        .state_dir(&folder.join("state"))
        .args(["--process-grace", "100ms"])
        .start()
}

/// A process that writes to two pages of a file and dies after somebody else has written the file anew.
fn die_in_conflict(server: &Mmapd, file: &Path, fill: u8) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let client = Client::connect(server.addr()).await.unwrap();
        let process = client.attach(AttachOptions { name: "doomed".into(), pid: None }).await.unwrap();
        let name = file.file_name().unwrap().to_str().unwrap();
        let mapping = process.map(format!("/{name}")).prot(Prot::READ_WRITE).shared().await.unwrap();
        mapping.write(0, vec![fill; 10]).await.unwrap();
        mapping.write(2 * PAGE as u64, vec![fill; PAGE]).await.unwrap();
        std::fs::write(file, vec![b'n'; 3 * PAGE + 5]).unwrap();
        // Their drops would sync.
        std::mem::forget((mapping, process));
    });
}

#[track_caller]
fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[track_caller]
fn conflicts(server: &Mmapd, count: usize) -> Vec<Value> {
    let begun = Instant::now();
    loop {
        let mut list = json(&run(server, ["--json", "conflicts", "list"]));
        assert_eq!(list["damaged"], Value::Array(Vec::new()), "{list}");
        let Value::Array(found) = list["conflicts"].take() else { panic!("{list}") };
        if found.len() == count {
            return found;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "{count} conflicts are expected: {found:?}\n{}",
            server.stderr()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_dead_processs_pages_outlive_the_server_until_a_person_applies_or_drops_them() {
    let folder = tempfile::tempdir().unwrap();
    let files = folder.path().join("files");
    std::fs::create_dir(&files).unwrap();
    for name in ["a", "b"] {
        std::fs::write(files.join(name), vec![b'o'; 3 * PAGE]).unwrap();
    }
    let server = start(folder.path());
    die_in_conflict(&server, &files.join("a"), b'1');
    die_in_conflict(&server, &files.join("b"), b'2');
    conflicts(&server, 2);
    server.sigkill();

    let server = start(folder.path());
    let mut found = conflicts(&server, 2);
    found.sort_by_key(|conflict| conflict["path"].to_string());
    assert_eq!((&found[0]["path"], &found[0]["bytes"]), (&"/a".into(), &(2 * PAGE).into()), "{found:?}");
    let (id_a, id_b) = (found[0]["id"].as_str().unwrap(), found[1]["id"].as_str().unwrap());
    let shown = json(&run(&server, ["--json", "conflicts", "show", "--hex", id_a]));
    assert_eq!(shown["ranges"][0]["offset"], 0, "{shown}");
    assert_eq!(shown["ranges"][1]["offset"], 2 * PAGE, "{shown}");
    assert!(shown["ranges"][0]["hex"].as_str().unwrap().starts_with(&format!("{}6f6f", "31".repeat(10))), "{shown}");
    assert_eq!(std::fs::read(files.join("a")).unwrap(), vec![b'n'; 3 * PAGE + 5], "nothing was overwritten");

    let applied = json(&run(&server, ["--json", "conflicts", "apply", id_a]));
    assert_eq!(applied["applied"][0]["applied_bytes"], 2 * PAGE, "{applied}");
    let stat = json(&run(&server, ["--json", "stat", "/a"]));
    assert_eq!(applied["applied"][0]["version"], stat["version"]);
    let stored = std::fs::read(files.join("a")).unwrap();
    assert_eq!((stored.len(), &stored[..12]), (3 * PAGE + 5, &b"1111111111oo"[..]));
    assert_eq!((stored[PAGE], stored[2 * PAGE], stored[3 * PAGE]), (b'n', b'1', b'n'));

    json(&run(&server, ["--json", "conflicts", "drop", "--yes", id_b]));
    assert_eq!(std::fs::read(files.join("b")).unwrap(), vec![b'n'; 3 * PAGE + 5]);
    assert_eq!(run(&server, ["conflicts", "drop", "--yes", id_b]).status.code(), Some(NOT_FOUND));
    assert_eq!(conflicts(&server, 0).len(), 0);
    server.sigkill();
    assert_eq!(conflicts(&start(folder.path()), 0).len(), 0, "what was applied or dropped does not come back");
}

#[test]
fn a_server_that_is_killed_after_an_apply_does_not_bring_back_the_writes_that_it_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("files/a");
    std::fs::create_dir(folder.path().join("files")).unwrap();
    std::fs::write(&file, vec![b'o'; 3 * PAGE]).unwrap();
    let server = start(folder.path());
    die_in_conflict(&server, &file, b'1');
    let id = conflicts(&server, 1)[0]["id"].as_str().unwrap().to_owned();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let writer = runtime.block_on(async {
        let client = Client::connect(server.addr()).await.unwrap();
        let process = client.attach(AttachOptions { name: "writer".into(), pid: None }).await.unwrap();
        let mapping = process.map("/a").prot(Prot::READ_WRITE).shared().await.unwrap();
        mapping.write(0, "replaced by the apply").await.unwrap();
        mapping.write(PAGE as u64, "unsynced and kept").await.unwrap();
        (process, mapping)
    });
    json(&run(&server, ["--json", "conflicts", "apply", &id]));
    server.sigkill();
    std::mem::forget(writer);
    drop(runtime);
    let server = start(folder.path());
    let now = run(&server, ["cat", "/a"]).stdout;
    assert_eq!((now.len(), &now[..12]), (3 * PAGE + 5, &b"1111111111oo"[..]));
    assert_eq!((&now[PAGE..PAGE + 17], now[2 * PAGE]), (&b"unsynced and kept"[..], b'1'));
}

#[tokio::test]
async fn capabilities_and_ids_are_checked() {
    use mmap_client::Capability::{FileRead, FileWrite};
    let server = Setup::new().start();
    let with = async |capability| {
        let client = Client::builder().capabilities([capability]).connect(server.addr()).await;
        client.unwrap()
    };
    let (reader, writer) = (with(FileRead).await, with(FileWrite).await);
    assert_eq!(reader.apply_conflict("1-a").await.unwrap_err().reason(), Some(Reason::Acces));
    assert_eq!(reader.drop_conflict("1-a").await.unwrap_err().reason(), Some(Reason::Acces));
    assert_eq!(writer.list_conflicts(0, None).await.unwrap_err().reason(), Some(Reason::Acces));
    assert_eq!(writer.read_conflict("1-a", 0).await.unwrap_err().reason(), Some(Reason::Acces));
    for id in ["1-a", "", "../lock", "a/b"] {
        let missing = reader.read_conflict(id, 0).await.unwrap_err();
        assert_eq!((missing.reason(), missing.metadata()["id"].as_str()), (Some(Reason::NoEnt), id));
        assert_eq!(writer.apply_conflict(id).await.unwrap_err().reason(), Some(Reason::NoEnt));
        assert_eq!(writer.drop_conflict(id).await.unwrap_err().reason(), Some(Reason::NoEnt));
    }
    assert_eq!(reader.list_conflicts(0, Some("../x")).await.unwrap_err().reason(), Some(Reason::Inval));
    assert!(reader.list_conflicts(0, None).await.unwrap().conflicts.is_empty());
    assert!(server.state_dir().join("lock").exists());
}
