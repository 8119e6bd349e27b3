//! The limits of one subject are not another's: whatever one asks for, the other is served.

use mmap_proto::reason::Reason;
use mmap_tests::failure::{expect, failure};
use mmap_tests::wire::map_request;

use super::scene::Scene;

/// More than the limit, so that it is met however slow the machine is.
const CALLS: usize = 2000;

#[tokio::test]
async fn a_subject_over_its_limits_is_refused_and_another_is_served_all_the_while() {
    let scene = Scene::new();
    let limits = ["--subject-calls-per-second", "20", "--subject-mappings", "2"];
    let server = scene.setup().args(limits).start();
    let noisy = scene.caller(&server, "noisy", 1).await;
    let quiet = scene.caller(&server, "quiet", 1).await;
    let id = noisy.map_shared("/noisy", 4096).await;
    noisy.map_shared("/noisy", 4096).await;
    assert_eq!(expect(Reason::NoMem, noisy.mmap(map_request("/noisy", 1)).await).value("limit"), "subject_mappings");
    let mapped = quiet.map_shared("/quiet", 4096).await;
    let mut refused = 0;
    for call in 0..CALLS {
        if let Err(status) = noisy.read(id, 0, 1).await {
            let failure = failure(&status);
            assert_eq!((failure.reason, failure.value("limit")), (Reason::NoMem, "subject-calls-per-second"));
            assert!(failure.has_retry_delay && failure.message.contains("subject noisy"), "{failure:?}");
            refused += 1;
        }
        // Less than its own 20, among the other's 2000.
        if call % 200 == 0 {
            quiet.read(mapped, 0, 1).await.unwrap();
        }
    }
    assert!(refused > 0, "{CALLS} calls one after the other of 20 a second");
}
