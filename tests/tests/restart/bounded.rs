//! The journal stays bounded, however much is written.

use std::path::Path;

use mmap_tests::wire::Caller;

use super::Place;

const MIB: u64 = 1 << 20;
const WRITTEN: u64 = 500 * MIB;
const FILE: u64 = 4 * MIB;
const WRITE_LEN: usize = 128 << 10;
const WRITE: u64 = WRITE_LEN as u64;
/// A checkpoint is wanted above 64 MiB, or twice what holds and three segments if that is more, which it is not here:
/// 4 MiB hold. Above twice that, which 9 segments of 16 MiB are, writers wait for it. The rooms that they have by then,
/// the mark and what is said again behind it begin one segment more, each.
const BOUND: u64 = (9 + 3) * 16 * MIB;
// So much more is written that the journal can only keep to it by being made shorter, again and again.
const _: () = assert!(WRITTEN > 2 * BOUND);

fn bytes_in(folder: &Path) -> u64 {
    // A segment may go while one looks.
    let sizes = std::fs::read_dir(folder).unwrap().filter_map(|entry| entry.ok()?.metadata().ok());
    sizes.map(|metadata| metadata.len()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_journal_stays_bounded_while_500_mib_are_written_over_4_mib() {
    let place = Place::new();
    let server = place.folder_setup().args(["--memory", "64MiB"]).start();
    let journal = place.state().join("journal");
    let caller = Caller::connect(server.addr(), 7).await;
    let id = caller.map_shared("/f", FILE).await;
    let mut most = 0;
    for number in 0..WRITTEN / WRITE {
        let fill = u8::try_from(number % 251).unwrap();
        caller.write(id, number * WRITE % FILE, vec![fill; WRITE_LEN]).await.unwrap();
        most = most.max(bytes_in(&journal));
    }
    println!("the journal had {} MiB at most", most / MIB);
    assert!(most <= BOUND, "{most} bytes");
    server.sigkill();
    let server = place.folder_setup().args(["--memory", "64MiB"]).start();
    let caller = Caller::connect(server.addr(), 7).await;
    let writes = WRITTEN / WRITE;
    for number in writes - FILE / WRITE..writes {
        let read = caller.read(id, number * WRITE % FILE, WRITE).await.unwrap();
        assert!(read.iter().all(|byte| u64::from(*byte) == number % 251), "write {number} is lost");
    }
}
