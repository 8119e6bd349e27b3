//! The layout `log` where its machine dies, or a request fails, at every PUT there is.

use std::sync::Arc;
use std::time::Duration;

use object_store::ObjectStore;

use super::counted::{Counted, Fate};
use super::tests::{at, change, memory, over, read};
use crate::units::ByteRange;
use crate::vfs::fault::StoreFault;
use crate::vfs::store::{Base, FileStore};

/// Runs `work` in a runtime of its own, which then dies with all its tasks, as a process that is killed.
fn killed<T: Send>(work: impl Future<Output = T> + Send) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("one");
    let outcome = runtime.block_on(work);
    runtime.shutdown_timeout(Duration::from_secs(5));
    outcome
}

/// What is found after a crash: the old content or the new.
async fn after(client: &Arc<dyn ObjectStore>, acknowledged: bool, put: u64) -> bool {
    let store = over(client);
    let stat = store.stat("f").await.expect("it is there");
    let content = store.read("f", &stat.version, ByteRange::new(0, stat.size)).await.expect("read").concat();
    let (old, new) = (vec![1u8; 200_000], vec![2u8; 150_000]);
    assert!(content == old || content == new, "PUT {put}: a mixture of {} bytes", content.len());
    assert!(!acknowledged || content == new, "PUT {put}: acknowledged and gone");
    // It can be written, and grows with zeros.
    let is_new = content == new;
    let grown = store.write_back("f", change(at(&stat), 300_000, &[])).await.expect("it grows");
    let mut expected = content;
    expected.resize(300_000, 0);
    let found = store.read("f", &grown.version, ByteRange::new(0, 300_000)).await.expect("read").concat();
    assert!(found == expected, "PUT {put}: what was cut came back");
    store.close().await.expect("it closes");
    is_new
}

#[test]
fn a_crash_at_any_put_leaves_the_old_content_or_the_new() {
    let (mut olds, mut news, mut lost) = (0, 0, 0);
    for fate in [Fate::DeadBefore, Fate::DeadAfter] {
        for put in 1..40 {
            let inner = memory();
            killed(async {
                let first = change(Base::Missing, 200_000, &[(0, &[1; 200_000])]);
                over(&inner).write_back("f", first).await.expect("it is made")
            });
            let (acknowledged, died) = killed(async {
                let (client, tally) = Counted::over(Arc::clone(&inner));
                tally.plan(put, fate);
                let store = over(&client);
                let write = async {
                    let stat = store.stat("f").await?;
                    store.write_back("f", change(at(&stat), 150_000, &[(0, &[2; 150_000])])).await
                };
                let died = async {
                    while !tally.came() {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                };
                let acknowledged = tokio::select! {
                    done = write => done.is_ok(),
                    () = died => false,
                };
                (acknowledged, tally.came())
            });
            let is_new = killed(after(&inner, acknowledged, put));
            match (acknowledged, is_new) {
                (true, _) => news += 1,
                (false, true) => lost += 1,
                (false, false) => olds += 1,
            }
            if !died {
                break;
            }
        }
    }
    println!("crashes: {olds} left the old content, {lost} the new one unacknowledged, {news} an acknowledged one");
    assert!(olds > 0 && lost > 0 && news > 0, "{olds} {lost} {news}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_that_fails_once_is_repeated_and_never_taken_for_another_servers() {
    let mut failures = 0;
    for fate in [Fate::FailsBefore, Fate::FailsAfter] {
        for put in 1..40 {
            let (client, tally) = Counted::over(memory());
            let store = over(&client);
            // The probe and the marker come before the database, and are the caller's to repeat.
            store.probe().await.expect("a verdict");
            tally.plan(put, fate);
            let made = match store.write_back("f", change(Base::Missing, 9_000, &[(0, &[1; 9_000])])).await {
                Ok(made) => made,
                Err(StoreFault::Failed(..)) if put == 1 => {
                    let again = change(Base::Missing, 9_000, &[(0, &[1; 9_000])]);
                    store.write_back("f", again).await.expect("it is repeated")
                }
                Err(other) => panic!("{fate:?} of PUT {put}: {other:?}"),
            };
            store.write_back("f", change(at(&made), 9_000, &[(0, &[2; 9_000])])).await.expect("it is written");
            assert_eq!(read(&store, "f", 0, 9_000).await, [2; 9_000]);
            let came = tally.came();
            store.close().await.expect("it closes");
            if !came {
                break;
            }
            failures += 1;
        }
    }
    println!("{failures} PUTs failed once");
    assert!(failures > 10, "{failures}");
}
