//! Each attacker gets its refusal, which says what it may know and never repeats its token, and the server goes on
//! serving others.

use std::time::Duration;

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::hmac;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use futures::StreamExt as _;
use mmap_proto::reason::Reason;
use mmap_proto::v1;
use mmap_tests::failure::{expect, failure};
use mmap_tests::mmapd::Setup;
use mmap_tests::wire::{Caller, map_request};
use mmap_token::{PrivateKey, now};
use serde_json::{Value, json};
use tonic::Status;
use tonic::metadata::MetadataValue;

use super::scene::Scene;

fn rsa() -> PrivateKey {
    let der: Pkcs8V1Der<'static> = KeyPair::generate(KeySize::Rsa2048).unwrap().as_der().unwrap();
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der.as_ref()));
    PrivateKey::from_pem(&pem).unwrap()
}

fn unsigned(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", part(header), part(claims))
}

/// With the public key's file as the secret: the classic.
fn hs256(public: &str, claims: &Value) -> String {
    let message = unsigned(&json!({"alg": "HS256"}), claims);
    let secret = hmac::Key::new(hmac::HMAC_SHA256, public.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(hmac::sign(&secret, message.as_bytes())))
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = Scene::claims("mallory");
    claims[name] = value;
    claims
}

/// Tokens that do not hold, and the word that says why.
fn bad_tokens(scene: &Scene, rsa: &PrivateKey) -> Vec<(&'static str, String, &'static str)> {
    let good = Scene::claims("mallory");
    let public = rsa.public_pem().unwrap();
    let by = |key: &PrivateKey, header: Value| key.sign(&header, &good).unwrap();
    let stranger = PrivateKey::generate().unwrap().0;
    let right = scene.token(&good);
    let (message, _) = right.rsplit_once('.').unwrap();
    vec![
        ("garbage", "garbage".into(), "not-a-token"),
        ("dots", "..".into(), "header"),
        ("expired", scene.token(&with("exp", json!(now() - 5))), "expired"),
        ("not yet valid", scene.token(&with("nbf", json!(now() + 60))), "not-yet"),
        ("other audience", scene.token(&with("aud", json!("others"))), "audience"),
        ("other issuer", scene.token(&with("iss", json!("them"))), "issuer"),
        ("no subject", scene.token(&with("sub", json!(""))), "claims"),
        ("unknown capability", scene.token(&with("capabilities", json!(["Root"]))), "claims"),
        ("a path that is none", scene.token(&with("paths", json!([{"prefix": "/a/../b", "rights": "r"}]))), "claims"),
        ("paths null", scene.token(&with("paths", Value::Null)), "claims"),
        ("algorithm none", format!("{}.", unsigned(&json!({"alg": "none"}), &good)), "algorithm"),
        ("HS256 by the public key", hs256(&public, &good), "algorithm"),
        ("ES256 on an RSA key", by(rsa, json!({"alg": "ES256"})), "unknown-key"),
        ("RS256 by the name of another key", by(rsa, json!({"alg": "RS256", "kid": "k1"})), "key-confusion"),
        ("EdDSA of nobody", by(&stranger, json!({"alg": "EdDSA", "kid": "k1"})), "signature"),
        ("unknown kid", by(&stranger, json!({"alg": "EdDSA", "kid": "k9"})), "unknown-key"),
        ("no signature", format!("{message}."), "signature"),
        ("critical header", by(&scene.key, json!({"alg": "EdDSA", "kid": "k1", "crit": ["x"]})), "critical"),
        ("oversized", scene.token(&with("padding", json!("x".repeat(7000)))), "too-long"),
    ]
}

/// One call of each way into the server.
async fn knock(caller: &Caller) -> Vec<(&'static str, Status)> {
    let pipeline = caller.request(futures::stream::pending::<v1::MmapPipelineRequest>());
    let stream = caller.request(v1::MmapReadStreamRequest { mmap_id: 1, length: 1, ..Default::default() });
    let attach = caller.request(v1::AttachRequest::default());
    vec![
        ("Mmap", caller.mmap(map_request("/x", 1)).await.unwrap_err()),
        ("MmapRead", caller.read(1, 0, 1).await.unwrap_err()),
        ("MmapWrite", caller.write(1, 0, vec![1]).await.unwrap_err()),
        ("MmapPipeline", caller.mmap_service().mmap_pipeline(pipeline).await.unwrap_err()),
        ("MmapReadStream", caller.mmap_service().mmap_read_stream(stream).await.unwrap_err()),
        ("Attach", caller.process_service().attach(attach).await.unwrap_err()),
        ("Exit", caller.exit(false).await.unwrap_err()),
        ("StatFile", caller.stat_file("/x").await.unwrap_err()),
        ("ListProcesses", caller.list_processes().await.unwrap_err()),
    ]
}

#[tokio::test]
async fn each_token_that_does_not_hold_is_refused_at_every_door_and_others_are_served() {
    let (scene, rsa) = (Scene::new(), rsa());
    let pem = scene.folder.path().join("rsa.pem");
    std::fs::write(&pem, rsa.public_pem().unwrap()).unwrap();
    let server = scene.setup().args(["--jwt-keys".into(), pem.into_os_string()]).start();
    let alice = scene.caller(&server, "alice", 1).await;
    let id = alice.map_shared("/a", 4096).await;
    let good_rsa = rsa.sign(&json!({"alg": "RS256"}), &Scene::claims("alice")).unwrap();
    alice.with_token(&good_rsa).stat_file("/a").await.expect("a token by the RSA key holds");

    let stranger = Caller::connect(server.addr(), 1).await.without_capabilities();
    let bad = bad_tokens(&scene, &rsa);
    // First, because a flood of one reason is cut off.
    let late = stranger.with_token(&scene.token(&with("exp", json!(now() - 5))));
    expect(Reason::UnAuth, late.read(id, 0, 1).await);
    let log = server.stderr();
    for part in
        ["mmapd::audit", "EUNAUTH", "claimed_subject=\"mallory\"", "MmapService/MmapRead", "it expired", "127.0.0.1:"]
    {
        assert!(log.contains(part), "{part} is not in the audit:\n{log}");
    }
    for (method, status) in knock(&stranger).await {
        let failure = failure(&status);
        assert_eq!((failure.reason, failure.value("why")), (Reason::UnAuth, "missing"), "no token: {method}");
    }
    for (what, token, why) in &bad {
        for (method, status) in knock(&stranger.with_token(token)).await {
            let failure = failure(&status);
            assert_eq!((failure.reason, failure.value("why")), (Reason::UnAuth, *why), "{what}: {method}");
            assert!(!format!("{status:?}").contains(token.as_str()), "{what}: {method} repeats the token");
        }
        assert_eq!(alice.read(id, 0, 4).await.unwrap(), vec![0; 4], "after {what}");
    }
    let log = server.stderr();
    for (what, token, _) in bad.iter().filter(|(_, token, _)| token.len() > 20) {
        let signature = token.rsplit('.').find(|part| part.len() > 20).unwrap();
        assert!(!log.contains(signature), "the log has the token {what}");
    }
}

#[tokio::test]
async fn headers_that_could_mean_two_things_are_refused() {
    let scene = Scene::new();
    let server = scene.setup().start();
    let alice = scene.caller(&server, "alice", 1).await;
    let mut both = alice.request(v1::StatFileRequest { path: "/a".into() });
    both.metadata_mut().insert("mmap-capabilities", MetadataValue::from_static("FileRead"));
    let failed = expect(Reason::Inval, alice.file_service().stat_file(both).await);
    assert_eq!(failed.fields, ["mmap-capabilities"]);
    let mut twice = alice.request(v1::StatFileRequest { path: "/a".into() });
    twice.metadata_mut().append("authorization", MetadataValue::from_static("Bearer other"));
    expect(Reason::UnAuth, alice.file_service().stat_file(twice).await);
    for value in ["Basic YTpi", "Bearer", "garbage"] {
        let mut odd = alice.request(v1::StatFileRequest { path: "/a".into() });
        odd.metadata_mut().insert("authorization", MetadataValue::try_from(value).unwrap());
        expect(Reason::UnAuth, alice.file_service().stat_file(odd).await);
    }
}

#[tokio::test]
async fn where_callers_are_trusted_a_token_gives_and_takes_nothing() {
    let server = Setup::new().start();
    let caller = Caller::connect(server.addr(), 1).await;
    let mut request = caller.request(v1::ListFilesRequest::default());
    request.metadata_mut().insert("authorization", MetadataValue::from_static("Bearer garbage"));
    caller.file_service().list_files(request).await.expect("callers are taken at their word");
    let bare = caller.with_token("garbage");
    assert_eq!(expect(Reason::Acces, bare.stat_file("/a").await).value("capability"), "FileRead");
}

#[tokio::test]
async fn ten_thousand_bad_tokens_cost_no_memory_and_hold_up_nobody() {
    let scene = Scene::new();
    let server = scene.setup().start();
    let alice = scene.caller(&server, "alice", 1).await;
    let id = alice.map_shared("/a", 4096).await;
    let stranger = PrivateKey::generate().unwrap().0;
    let flood = |from: u32, to: u32| {
        let (alice, stranger) = (alice.clone(), &stranger);
        futures::stream::iter(from..to).for_each_concurrent(64, move |number| {
            let subject = format!("mallory{number}");
            // Half of them cost a check of their signature.
            let token = match number % 2 {
                0 => format!("garbage{number}.{}.x", "y".repeat(2000)),
                _ => stranger.sign(&json!({"alg": "EdDSA", "kid": "k1"}), &Scene::claims(&subject)).unwrap(),
            };
            let mallory = alice.with_token(&token);
            async move { drop(expect(Reason::UnAuth, mallory.read(id, 0, 1).await)) }
        })
    };
    flood(0, 1000).await;
    let before = server.resident_bytes();
    let start = std::time::Instant::now();
    let reads = async {
        let mut slowest = Duration::ZERO;
        for _ in 0..200 {
            let asked = std::time::Instant::now();
            alice.read(id, 0, 1).await.unwrap();
            slowest = slowest.max(asked.elapsed());
        }
        slowest
    };
    let (slowest, ()) = tokio::join!(reads, flood(1000, 10_000));
    let grown = server.resident_bytes().saturating_sub(before);
    println!("9,000 refused in {:?}; another's slowest read took {slowest:?}; {grown} bytes more", start.elapsed());
    assert!(grown < 16 << 20, "{grown} bytes more");
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    let lines = server.stderr().lines().filter(|line| line.contains("mmapd::audit")).count();
    assert!(lines < 1000, "{lines} lines of audit");
}
