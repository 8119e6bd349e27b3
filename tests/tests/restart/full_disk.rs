//! A full disk under the state directory: the write that does not fit says so, everything acknowledged is there,
//! also after a kill and a start on the full disk, and what is synced makes room.

use std::time::Duration;

use mmap_proto::reason::Reason;
use mmap_tests::failure::{Failure, expect};
use mmap_tests::wire::{Caller, eventually};

use super::Place;
use super::small_disk::{Server, SmallDisk};

const PID: u32 = 7;
const MIB: u64 = 1 << 20;
const FILE: u64 = 64 * MIB;
/// A full disk is tried again every second.
const SOON: Duration = Duration::from_secs(20);

/// The journal's two first segments take 32 MiB.
fn scene(mebibytes: u32) -> Option<(Place, SmallDisk)> {
    let place = Place::new();
    let disk = SmallDisk::start(&place.path().join("disk"), mebibytes)?;
    Some((place, disk))
}

fn start(place: &Place, disk: &SmallDisk) -> Server {
    disk.server(place.folder_setup().args(["--memory", "1GiB"]))
}

fn mebibyte(index: u64) -> Vec<u8> {
    vec![u8::try_from(index).unwrap() + 1; 1 << 20]
}

/// Writes a mebibyte after the other until one is refused: how many were not.
async fn write_until_refused(caller: &Caller, id: u64) -> (u64, Failure) {
    for index in 0..FILE / MIB {
        if let Err(status) = caller.write(id, index * MIB, mebibyte(index)).await {
            return (index, expect::<()>(Reason::DQuot, Err(status)));
        }
    }
    panic!("{FILE} bytes fit onto a full disk");
}

async fn check(caller: &Caller, id: u64, written: u64) {
    for index in 0..written {
        assert!(caller.read(id, index * MIB, MIB).await.unwrap() == mebibyte(index), "MiB {index} is lost");
    }
    assert_eq!(caller.read(id, written * MIB, 1).await.unwrap(), [0].as_slice(), "what was refused is not there");
}

async fn writes_again(caller: &Caller, id: u64) {
    eventually("a write fits again", SOON, async || caller.write(id, 0, mebibyte(0)).await.ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_the_full_disk_has_no_room_for_is_edquot_until_what_is_unsynced_is_synced() {
    let Some((place, disk)) = scene(40) else { return };
    let server = start(&place, &disk);
    let caller = Caller::connect(&server.addr, PID).await;
    let id = caller.map_shared("/f", FILE).await;
    disk.fill();
    let (written, failure) = write_until_refused(&caller, id).await;
    assert!((8..32).contains(&written), "{written} MiB fit into two segments of 16 MiB");
    let journal = disk.state().join("journal").display().to_string();
    assert!(failure.message.contains(&journal) && failure.message.contains("free some space"), "{failure:?}");
    assert!(failure.has_retry_delay, "{failure:?}");
    check(&caller, id, written).await;
    assert_eq!(caller.msync(id).await.unwrap().synced_bytes, written * MIB);
    assert!(place.content("f").starts_with(&mebibyte(0)));
    writes_again(&caller, id).await;
    caller.write(id, written * MIB, mebibyte(written)).await.unwrap();
    caller.munmap(id).await.unwrap();
    assert!(place.content("f")[usize::try_from(written * MIB).unwrap()..].starts_with(&mebibyte(written)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_fit_again_when_somebody_frees_the_full_disk() {
    let Some((place, disk)) = scene(80) else { return };
    let server = start(&place, &disk);
    let caller = Caller::connect(&server.addr, PID).await;
    let id = caller.map_shared("/f", 32 * MIB).await;
    disk.fill();
    let mut index = 0;
    let failure = loop {
        match caller.write(id, index % 16 * MIB, mebibyte(index % 16)).await {
            Ok(_) => index += 1,
            Err(status) => break expect::<()>(Reason::DQuot, Err(status)),
        }
        if index == 100 {
            // What is written again and again is 16 MiB, which a checkpoint can say again: it always fits.
            return;
        }
    };
    println!("refused after {index} MiB: {failure:?}");
    disk.free();
    writes_again(&caller, id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_and_a_refused_start_on_a_full_disk_lose_nothing() {
    let Some((place, disk)) = scene(56) else { return };
    let server = start(&place, &disk);
    let caller = Caller::connect(&server.addr, PID).await;
    let id = caller.map_shared("/f", FILE).await;
    disk.fill();
    let (written, _) = write_until_refused(&caller, id).await;
    server.sigkill();
    disk.fill();
    let setup = || place.folder_setup().args(["--memory", "1GiB"]);
    let told = disk.refused(setup());
    assert!(told.contains("disk is full: free some space"), "{told}");
    disk.free_a_little();
    let told = disk.refused(setup());
    let journal = disk.state().join("journal").display().to_string();
    assert!(told.contains("disk is full: free some space") && told.contains(&journal), "{told}");
    disk.free();
    // There is no room to say it a second time, so the old segments stay until it is synced.
    let server = start(&place, &disk);
    let caller = Caller::connect(&server.addr, PID).await;
    check(&caller, id, written).await;
    assert_eq!(caller.msync(id).await.unwrap().synced_bytes, written * MIB);
    writes_again(&caller, id).await;
    assert!(place.content("f").starts_with(&mebibyte(0)));
}
