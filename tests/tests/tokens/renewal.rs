//! Keys and tokens that come and go while the server runs.

use std::process::Command;
use std::time::Duration;

use mmap_client::{AttachOptions, Client, ProcessState, Prot};
use mmap_proto::reason::Reason;
use mmap_proto::v1;
use mmap_tests::failure::{expect, failure, failure_answer};
use mmap_tests::wire::eventually;
use mmap_token::{PrivateKey, now};
use serde_json::json;

use super::scene::Scene;

/// How long after a change the server may still take the old keys: it looks every 2 s; the rest is for a busy machine.
const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_token_of_a_key_that_was_taken_away_is_refused_and_its_streams_end_and_a_new_key_works() {
    let scene = Scene::new();
    let server = scene.setup().start();
    let alice = scene.caller(&server, "alice", 1).await;
    let id = alice.map_shared("/a", 4096).await;
    let pipeline = alice.request(futures::stream::pending::<v1::MmapPipelineRequest>());
    let mut pipeline = alice.mmap_service().mmap_pipeline(pipeline).await.unwrap().into_inner();
    let attach = alice.request(v1::AttachRequest::default());
    let mut attached = alice.process_service().attach(attach).await.unwrap().into_inner();
    attached.message().await.unwrap().expect("the first message");

    std::fs::write(scene.keys(), "{ broken").unwrap();
    eventually("the broken file is told", SOON, async || server.stderr().contains("cannot be used").then_some(()))
        .await;
    alice.read(id, 0, 1).await.expect("a broken file changes nothing");

    let new = PrivateKey::generate().unwrap().0;
    scene.write_keys(&[(&new, "k2")]);
    let hangup = Command::new("kill").args(["-HUP", &server.pid().to_string()]).status().unwrap();
    assert!(hangup.success());
    let replay = eventually("the old key is refused", SOON, async || alice.read(id, 0, 1).await.err()).await;
    let refused = failure(&replay);
    assert_eq!((refused.reason, refused.value("why")), (Reason::UnAuth, "unknown-key"));
    expect(Reason::UnAuth, pipeline.message().await);
    let ended = async {
        loop {
            match attached.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended as if the process had"),
                Err(status) => return status,
            }
        }
    };
    let ended = tokio::time::timeout(SOON, ended).await.expect("the attach stream ends with the key");
    // Its headers had the node; tonic's trailers do not.
    assert_eq!(failure_answer(&ended).reason, Reason::UnAuth);

    let token = new.sign(&json!({"alg": "EdDSA", "kid": "k2"}), &Scene::claims("alice")).unwrap();
    assert_eq!(alice.with_token(&token).read(id, 0, 1).await.expect("the mapping is still alice's"), [0][..]);
}

#[tokio::test]
async fn a_program_whose_token_is_renewed_in_time_goes_on_and_one_whose_token_ends_is_refused() {
    let scene = Scene::new();
    let server = scene.setup().start();
    let short = |seconds: u64| {
        let mut claims = Scene::claims("alice");
        claims["exp"] = json!(now() + seconds);
        scene.token(&claims)
    };
    let file = scene.folder.path().join("token");
    std::fs::write(&file, short(4)).unwrap();
    let client = Client::builder().token_file(&file).connect(server.addr()).await.unwrap();
    let process = client.attach(AttachOptions { name: "renewed".into(), pid: None }).await.unwrap();
    let mapping = process.map("/a").length(4096).prot(Prot::READ_WRITE).create().await.unwrap();
    mapping.write(0, "before").await.unwrap();
    let ends = short(4);
    let left = scene.caller(&server, "alice", 9).await.with_token(&ends);
    let id = left.map_shared("/b", 4096).await;

    tokio::time::sleep(Duration::from_secs(2)).await;
    std::fs::write(&file, short(600)).unwrap();
    let until = tokio::time::Instant::now() + Duration::from_secs(5);
    let mut writes = 0_u64;
    while tokio::time::Instant::now() < until {
        mapping.write(100, writes.to_be_bytes().to_vec()).await.expect("operations go on over the token's end");
        assert_eq!(mapping.read(100, 8).await.unwrap(), writes.to_be_bytes()[..]);
        writes += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    eventually("it is attached again", SOON, async || (process.state() == ProcessState::Alive).then_some(())).await;
    assert_eq!(mapping.read(0, 6).await.unwrap(), "before");
    process.exit().await.unwrap();
    assert_eq!(expect(Reason::UnAuth, left.read(id, 0, 1).await).value("why"), "expired");
}
