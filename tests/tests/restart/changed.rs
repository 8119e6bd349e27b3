//! A file that somebody else changed or removed while the server was away: what was unsynced is kept aside, nothing
//! is overwritten, and a person decides with `mmapctl conflicts`.

use std::process::Output;
use std::time::{Duration, Instant};

use mmap_proto::reason::Reason;
use mmap_tests::failure::expect;
use mmap_tests::mmapctl::run;
use mmap_tests::mmapd::{Mmapd, Setup};
use mmap_tests::moto::Moto;
use mmap_tests::require::available;
use mmap_tests::wire::Caller;
use serde_json::Value;

use super::{PAGE, Place};

const PID: u32 = 7;

#[track_caller]
fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The only conflict: its id, after everything that `list` and `show` tell of it was checked.
fn the_conflict(server: &Mmapd, path: &str) -> String {
    let begun = Instant::now();
    let found = loop {
        let list = json(&run(server, ["--json", "conflicts", "list"]));
        assert_eq!(list["damaged"], Value::Array(Vec::new()), "{list}");
        if list["conflicts"].as_array().is_some_and(|found| !found.is_empty()) {
            break list;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "no conflict: {list}\n{}", server.stderr());
        std::thread::sleep(Duration::from_millis(50));
    };
    let conflict = &found["conflicts"][0];
    assert_eq!(found["conflicts"].as_array().unwrap().len(), 1, "{found}");
    assert_eq!((&conflict["path"], &conflict["bytes"]), (&path.into(), &(2 * PAGE).into()), "{found}");
    assert!(conflict["why"].as_str().unwrap().contains("while the server was away"), "{found}");
    let id = conflict["id"].as_str().unwrap().to_owned();
    let for_people = run(server, ["conflicts", "list"]);
    let text = String::from_utf8_lossy(&for_people.stdout).into_owned();
    assert!(for_people.status.success() && text.contains(&id) && text.contains(path), "{text}");
    let shown = json(&run(server, ["--json", "conflicts", "show", "--hex", &id]));
    let ranges: Vec<_> = shown["ranges"].as_array().unwrap().iter().map(|range| range["offset"].clone()).collect();
    assert_eq!(ranges, [Value::from(0), Value::from(2 * PAGE)], "{shown}");
    assert!(shown["ranges"][0]["hex"].as_str().unwrap().starts_with("6d696e65"), "{shown}");
    id
}

/// A process that writes to the first and the third page of a file of three, and its mapping.
async fn write_two_pages(server: &Mmapd, path: &str) -> u64 {
    let caller = Caller::connect(server.addr(), PID).await;
    let id = caller.map_shared(path, 3 * PAGE as u64).await;
    caller.write(id, 0, &b"mine"[..]).await.unwrap();
    caller.write(id, 2 * PAGE as u64, vec![b'm'; PAGE]).await.unwrap();
    id
}

/// Its mapping shows what the store has, and works.
async fn mapping_shows(server: &Mmapd, id: u64, content: &[u8]) -> Caller {
    let caller = Caller::connect(server.addr(), PID).await;
    assert_eq!(caller.read(id, 0, content.len() as u64).await.unwrap(), content);
    assert_eq!(caller.stats(id).await.unwrap().dirty_bytes, 0);
    caller
}

/// What the third program's content comes to with the conflict's pages on it.
fn applied_to(content: &[u8], old: u8) -> Vec<u8> {
    let mut applied = content.to_vec();
    applied[..PAGE].fill(old);
    applied[..4].copy_from_slice(b"mine");
    applied[2 * PAGE..3 * PAGE].fill(b'm');
    applied
}

async fn changed_in_a_folder() -> (Place, Mmapd, u64, Vec<u8>) {
    let place = Place::new();
    std::fs::write(place.file("f"), vec![b'o'; 3 * PAGE]).unwrap();
    let server = place.folder_setup().start();
    let id = write_two_pages(&server, "/f").await;
    server.sigkill();
    let theirs = vec![b't'; 3 * PAGE + 5];
    std::fs::write(place.file("f"), &theirs).unwrap();
    let server = place.folder_setup().start();
    (place, server, id, theirs)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_changed_while_the_server_was_away_is_kept_and_mine_can_be_applied() {
    let (place, server, id, theirs) = changed_in_a_folder().await;
    let conflict = the_conflict(&server, "/f");
    assert!(place.content("f") == theirs, "nothing was overwritten");
    let caller = mapping_shows(&server, id, &theirs[..3 * PAGE]).await;
    let applied = json(&run(&server, ["--json", "conflicts", "apply", &conflict]));
    assert_eq!(applied["applied"][0]["applied_bytes"], 2 * PAGE, "{applied}");
    assert!(place.content("f") == applied_to(&theirs, b'o'));
    assert_eq!(caller.read(id, 0, 4).await.unwrap(), "mine", "the mapping shows it, too");
    caller.write(id, 4, &b" again"[..]).await.unwrap();
    caller.msync(id).await.unwrap();
    assert_eq!(&place.content("f")[..10], b"mine again");
    server.sigkill();
    let list = json(&run(&place.folder_setup().start(), ["--json", "conflicts", "list"]));
    assert_eq!(list["conflicts"], Value::Array(Vec::new()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_changed_while_the_server_was_away_is_kept_and_mine_can_be_dropped() {
    let (place, server, id, theirs) = changed_in_a_folder().await;
    let conflict = the_conflict(&server, "/f");
    json(&run(&server, ["--json", "conflicts", "drop", "--yes", &conflict]));
    let caller = mapping_shows(&server, id, &theirs[..3 * PAGE]).await;
    assert_eq!(caller.munmap(id).await.unwrap(), 0);
    assert!(place.content("f") == theirs);
    let list = json(&run(&server, ["--json", "conflicts", "list"]));
    assert_eq!(list["conflicts"], Value::Array(Vec::new()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_was_removed_while_the_server_was_away_is_not_made_again_unless_mine_is_applied() {
    let place = Place::new();
    std::fs::write(place.file("f"), vec![b'o'; 3 * PAGE]).unwrap();
    let server = place.folder_setup().start();
    let id = write_two_pages(&server, "/f").await;
    server.sigkill();
    std::fs::remove_file(place.file("f")).unwrap();
    let server = place.folder_setup().start();
    let conflict = the_conflict(&server, "/f");
    assert!(!place.file("f").exists(), "what was removed stays removed");
    let caller = Caller::connect(server.addr(), PID).await;
    expect(Reason::SigBus, caller.read(id, 0, 4).await);
    let applied = json(&run(&server, ["--json", "conflicts", "apply", &conflict]));
    assert_eq!(applied["applied"][0]["applied_bytes"], 2 * PAGE, "{applied}");
    let mut expected = applied_to(&[0; 3 * PAGE], b'o');
    expected[PAGE..2 * PAGE].fill(0);
    assert!(place.content("f") == expected);
    assert_eq!(caller.read(id, 0, 4).await.unwrap(), "mine");
}

/// Kills a server with unsynced pages of an object, has boto3 run `code`, and starts it again.
async fn changed_in_s3(moto: &Moto, place: &Place, code: &str) -> (Mmapd, u64) {
    let setup = || -> Setup { place.setup().mount("/data", &moto.mount_url("files")).envs(Moto::ENV) };
    moto.python(&format!("s3.put_object(Bucket='bucket', Key='files/f', Body=b'o' * {})", 3 * PAGE));
    let server = setup().start();
    let id = write_two_pages(&server, "/data/f").await;
    server.sigkill();
    moto.python(code);
    (setup().start(), id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_changed_while_the_server_was_away_is_kept_and_mine_can_be_applied() {
    let Some(moto) = available(Moto::start()) else { return };
    let (place, theirs) = (Place::new(), vec![b't'; 3 * PAGE + 5]);
    let code = format!("s3.put_object(Bucket='bucket', Key='files/f', Body=b't' * {})", theirs.len());
    let (server, id) = changed_in_s3(&moto, &place, &code).await;
    let conflict = the_conflict(&server, "/data/f");
    assert!(moto.object("files/f") == theirs, "nothing was overwritten");
    mapping_shows(&server, id, &theirs[..3 * PAGE]).await;
    json(&run(&server, ["--json", "conflicts", "apply", &conflict]));
    assert!(moto.object("files/f") == applied_to(&theirs, b'o'));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_was_removed_while_the_server_was_away_stays_so_when_mine_is_dropped() {
    let Some(moto) = available(Moto::start()) else { return };
    let place = Place::new();
    let (server, _) = changed_in_s3(&moto, &place, "s3.delete_object(Bucket='bucket', Key='files/f')").await;
    let conflict = the_conflict(&server, "/data/f");
    json(&run(&server, ["--json", "conflicts", "drop", "--yes", &conflict]));
    let ended = server.sigterm();
    assert!(ended.status.success(), "{ended:?}");
    let left = moto.python("print(s3.list_objects_v2(Bucket='bucket', Prefix='files/f')['KeyCount'])");
    assert_eq!(String::from_utf8_lossy(&left).trim(), "0");
}
