//! What holds while several change a file at a time.

use std::time::Duration;

use futures::future::join_all;

use super::bench::{Bench, at, is_changed, pattern, whole};
use crate::units::{BLOCK_LEN, ByteRange};
use crate::vfs::fault::StoreFault;
use crate::vfs::store::Base;

/// Writers at a time.
const WRITERS: u8 = 6;
/// How often a race is run.
const ROUNDS: u8 = 3;

/// Of several changes based on one version exactly one takes effect, wholly.
pub async fn of_many_writers_one_wins(bench: &Bench<'_>) {
    let name = bench.name("raced");
    let mut stat = bench.make(&name, &pattern(10_000, 0)).await;
    for round in 0..ROUNDS {
        let writers = (0..WRITERS).map(|writer| {
            let store = if writer % 2 == 0 { bench.store } else { bench.other };
            let change = whole(at(&stat), &vec![round * WRITERS + writer + 1; 10_000 + usize::from(writer)]);
            let name = &name;
            async move { store.write_back(name, change).await }
        });
        let outcomes = join_all(writers).await;
        let mut won = None;
        for (writer, outcome) in (0..WRITERS).zip(outcomes) {
            match outcome {
                Ok(stat) => assert!(won.replace((writer, stat)).is_none(), "two writers won"),
                Err(fault) => assert!(is_changed(&fault), "the others are told of the change: {fault:?}"),
            }
        }
        let (writer, winner) = won.expect("one writer wins");
        let expected = vec![round * WRITERS + writer + 1; 10_000 + usize::from(writer)];
        assert_eq!(bench.content(&name).await, expected, "the winner's content is there");
        stat = winner;
    }
    bench.remove(&name).await;
}

/// Of several who make one file exactly one makes it.
pub async fn of_many_creators_one_wins(bench: &Bench<'_>) {
    for _ in 0..ROUNDS {
        let name = bench.name("deep/er/raced");
        let creators = (0..WRITERS).map(|creator| {
            let store = if creator % 2 == 0 { bench.store } else { bench.other };
            let change = whole(Base::Missing, &[creator; 100]);
            let name = &name;
            async move { store.write_back(name, change).await }
        });
        let outcomes = join_all(creators).await;
        let winners: Vec<u8> = (0..WRITERS).zip(&outcomes).filter(|(_, made)| made.is_ok()).map(|(n, _)| n).collect();
        let [winner] = winners.as_slice() else { panic!("one creator wins: {outcomes:?}") };
        for outcome in &outcomes {
            assert!(matches!(outcome, Ok(_) | Err(StoreFault::Exists)), "{outcome:?}");
        }
        assert_eq!(bench.content(&name).await, [*winner; 100]);
        bench.remove(&name).await;
    }
}

/// While a file is changed again and again, a read answers bytes of the version asked for or that it changed.
pub async fn a_reader_sees_one_version(bench: &Bench<'_>) {
    let name = bench.name("flickering");
    let length = BLOCK_LEN * 4;
    let first = bench.make(&name, &vec![1; length]).await;
    let write = async {
        let mut stat = first;
        for round in 2..=10_u8 {
            let change = whole(at(&stat), &vec![round; length]);
            stat = bench.other.write_back(&name, change).await.expect("nobody else writes");
            tokio::task::yield_now().await;
        }
    };
    let read = async {
        let mut seen = 0;
        for _ in 0..40 {
            let stat = bench.store.stat(&name).await.expect("it is always there");
            match bench.store.read(&name, &stat.version, ByteRange::new(0, stat.size)).await {
                Ok(blocks) => {
                    let bytes = blocks.concat();
                    assert_eq!(bytes.len(), length);
                    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "a mixture of two versions");
                    seen += 1;
                }
                Err(fault) => assert!(is_changed(&fault), "{fault:?}"),
            }
        }
        assert!(seen > 0, "no read came through");
    };
    futures::join!(write, read);
    bench.remove(&name).await;
}

/// A change whose caller goes away is there wholly or not at all.
pub async fn a_dropped_write_back_is_whole_or_nothing(bench: &Bench<'_>) {
    let name = bench.name("dropped");
    let length = BLOCK_LEN * 8;
    let (old, new) = (vec![1; length], vec![2; length]);
    for wait in [0, 50, 200, 1000, 5000] {
        let stat = bench.make(&name, &old).await;
        let change = bench.store.write_back(&name, whole(at(&stat), &new));
        // Whether it answered in time is of no interest here.
        let _ = tokio::time::timeout(Duration::from_micros(wait), change).await;
        for _ in 0..2 {
            let stat = bench.store.stat(&name).await.expect("it is there");
            match bench.store.read(&name, &stat.version, ByteRange::new(0, stat.size)).await.map(|all| all.concat()) {
                Ok(content) => assert!(content == old || content == new, "a part of the change is there"),
                // It took effect right now.
                Err(fault) => assert!(is_changed(&fault), "{fault:?}"),
            }
            // What still runs comes to its end.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bench.remove(&name).await;
    }
}
