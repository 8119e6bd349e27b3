//! The promise of the level `disk` for a pipeline: however many writes of one stream are under way and overlap, each
//! is answered, and what was answered when the server is killed is there when it comes back. What was not answered is
//! there whole or not at all.
//!
//! All writes have bytes in common, so each takes effect behind all that were sent before it, and what survives has to
//! be what a number of them, from the first on, leave.
//!
//! The seed is printed; MMAP_CRASH_SEED repeats a run's choices.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::path::Path;

use mmap_proto::v1;
use mmap_proto::v1::mmap_pipeline_response::Result as Answer;
use mmap_tests::mmapd::{Mmapd, Setup};
use mmap_tests::pipe::{Pipe, write};
use mmap_tests::random::Random;
use mmap_tests::wire::Caller;

const BLOCK: u64 = 64 << 10;
const LENGTH: u64 = 2 * BLOCK;
/// How far a write reaches to either side of the place that all have in common, where two blocks meet.
const REACH: u64 = 6000;
const ROUNDS: u64 = 4;
/// More than a pipeline has under way, so that a kill finds some that are not answered.
const WRITES: usize = 1500;

struct Write {
    offset: u64,
    data: Vec<u8>,
}

/// Bytes by which each write of each round can be told.
fn next_write(random: &mut Random, number: usize) -> Write {
    let (before, behind) = (1 + random.below(REACH), 1 + random.below(REACH));
    let length = usize::try_from(before + behind).unwrap();
    let word = (number as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes();
    Write { offset: BLOCK - before, data: word.into_iter().cycle().take(length).collect() }
}

fn apply(content: &mut [u8], write: &Write) {
    let at = usize::try_from(write.offset).unwrap();
    content[at..at + write.data.len()].copy_from_slice(&write.data);
}

fn start(folder: &Path) -> Mmapd {
    std::fs::create_dir_all(folder.join("files")).unwrap();
    let setup = Setup::new().state_dir(&folder.join("state")).args(["--durability", "disk"]);
    setup.mount("/data", &format!("file://{}", folder.join("files").display())).start()
}

fn seed() -> u64 {
    let seed = std::env::var("MMAP_CRASH_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos()));
    println!("MMAP_CRASH_SEED={seed}");
    seed
}

/// Sends all writes and kills the server behind `wait_for` answers; how many writes there are up to the last of those
/// that were answered.
async fn write_and_kill(server: Mmapd, id: u64, writes: &[Write], wait_for: usize) -> usize {
    let caller = Caller::connect(server.addr(), 1).await;
    let mut pipe = Pipe::open(&caller, writes.len()).await;
    for one in writes {
        pipe.send(write(id, one.offset, one.data.clone()));
    }
    let mut last = 0;
    let mut note = |tag, answer| {
        let index = usize::try_from(tag).unwrap();
        let written = writes[index - 1].data.len() as u64;
        assert_eq!(answer, Answer::MmapWrite(v1::MmapWriteResponse { written }), "{tag}");
        last = last.max(index);
    };
    for _ in 0..wait_for {
        let (tag, answer) = pipe.next().await;
        note(tag, answer);
    }
    server.sigkill();
    while let Some(Ok(answer)) = pipe.try_next().await {
        note(answer.tag, answer.result.unwrap());
    }
    last
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn answered_writes_of_one_stream_survive_a_kill_and_unanswered_ones_are_not_half_there() {
    let (folder, mut random) = (tempfile::tempdir().unwrap(), Random::seeded(seed()));
    let mut server = start(folder.path());
    let id = Caller::connect(server.addr(), 1).await.map_shared("/data/file", LENGTH).await;
    let mut content = vec![0; usize::try_from(LENGTH).unwrap()];
    let mut unanswered = 0;
    for round in 0..ROUNDS {
        let first = usize::try_from(round).unwrap() * WRITES;
        let writes: Vec<_> = (first..first + WRITES).map(|number| next_write(&mut random, number)).collect();
        let wait_for = usize::try_from(random.below(WRITES as u64 / 2)).unwrap() + 1;
        let answered = write_and_kill(server, id, &writes, wait_for).await;
        server = start(folder.path());
        let caller = Caller::connect(server.addr(), 1).await;
        let survived = caller.read(id, 0, LENGTH).await.unwrap();
        writes[..answered].iter().for_each(|write| apply(&mut content, write));
        let mut took_effect = answered;
        while content != survived {
            let next = writes.get(took_effect);
            let next = next.unwrap_or_else(|| {
                panic!("round {round}: what is there is not what {answered} or more of {WRITES} writes leave")
            });
            apply(&mut content, next);
            took_effect += 1;
        }
        println!("round {round}: {answered} answered, {took_effect} there, of {WRITES}");
        unanswered += WRITES - answered;
    }
    assert!(unanswered > 0, "every write was answered before each of the kills, which says nothing about others");
}

#[tokio::test]
async fn every_write_of_a_stream_is_answered_once_however_they_overlap() {
    let (folder, mut random) = (tempfile::tempdir().unwrap(), Random::seeded(seed()));
    let server = start(folder.path());
    let caller = Caller::connect(server.addr(), 1).await;
    let id = caller.map_shared("/data/file", LENGTH).await;
    let mut pipe = Pipe::open(&caller, WRITES).await;
    let mut content = vec![0; usize::try_from(LENGTH).unwrap()];
    for number in 0..WRITES {
        let one = next_write(&mut random, number);
        apply(&mut content, &one);
        pipe.send(write(id, one.offset, one.data));
    }
    let answers = pipe.collect(WRITES).await;
    assert!(answers.values().all(|answer| matches!(answer, Answer::MmapWrite(_))), "{answers:?}");
    pipe.finish();
    assert!(pipe.try_next().await.is_none(), "and not once more");
    server.sigkill();
    let server = start(folder.path());
    let survived = Caller::connect(server.addr(), 1).await.read(id, 0, LENGTH).await.unwrap();
    assert!(survived == content, "all were answered, so all are there");
}
