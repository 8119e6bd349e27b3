//! A store in trouble: each kind of fault at each kind of request, all of them enumerated. A call succeeds after
//! retries or answers EIO within its time; nothing is lost, nobody is in conflict with himself, and afterwards
//! the store has the right bytes. Between server and store stands a proxy of the test's own.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod proxy;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mmap_core::vfs::object::{ObjectLayout, ObjectOptions};
use mmap_core::vfs::{Base, BoundedStore, CommitId, FileStore, Patch, StoreFault, WriteBack};
use mmap_proto::reason::Reason;
use mmap_proto::v1;
use mmap_tests::failure::failure;
use mmap_tests::mmapd::{Mmapd, Setup};
use mmap_tests::moto::Moto;
use mmap_tests::require::available;
use mmap_tests::wire::{Caller, map_request};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use proxy::{Fault, Kind, Proxy};

/// The server's `--store-timeout`.
const STORE_TIME: Duration = Duration::from_secs(8);
/// A call may ask the store a few times, each within its time.
const CALL_TIME: Duration = Duration::from_secs(30);
/// Bytes of an object that is written with one PUT: two blocks.
const SIZE: usize = 100_000;
/// Bytes of one that is written in two parts: S3 takes no smaller one before the last.
const PART: u64 = 5 << 20;

const FAULTS: [Fault; 9] = [
    Fault::Status(409),
    Fault::Status(412),
    Fault::Status(429),
    Fault::Status(500),
    Fault::Status(503),
    Fault::Cut,
    Fault::LostReply,
    Fault::ShortAnswer,
    Fault::Hang,
];
/// Twice, and as long as it takes.
const TIMES: [usize; 2] = [2, usize::MAX];

fn old() -> Vec<u8> {
    (0..SIZE).map(|index| u8::try_from(index % 251).unwrap()).collect()
}

fn new() -> Vec<u8> {
    let mut new = old();
    new[10..14].copy_from_slice(b"mine");
    new
}

struct Scene {
    moto: Moto,
    proxy: Proxy,
    direct: AmazonS3,
}

impl Scene {
    fn new() -> Option<Self> {
        let moto = available(Moto::start())?;
        let proxy = Proxy::start(moto.endpoint());
        let direct = moto.store();
        Some(Self { moto, proxy, direct })
    }

    fn server(&self) -> Mmapd {
        let url = self.moto.mount_url("files").replace(self.moto.endpoint(), &self.proxy.endpoint());
        let setup = Setup::new().mount("/data", &url).envs(Moto::ENV);
        setup.args(["--store-timeout", "8s", "--shutdown-timeout", "3s"]).start()
    }

    async fn stored(&self, key: &str) -> Option<Bytes> {
        let path = Path::from(format!("files/{key}"));
        match self.direct.get(&path).await {
            Ok(found) => Some(found.bytes().await.unwrap()),
            Err(object_store::Error::NotFound { .. }) => None,
            Err(error) => panic!("{error}"),
        }
    }
}

/// One call that needs the store.
async fn call(caller: &Caller, kind: Kind, path: &str, id: u64) -> Result<(), tonic::Status> {
    match kind {
        Kind::Head => caller.stat_file(path).await.map(|stat| assert_eq!(stat.size, SIZE as u64)),
        Kind::Get => caller.read(id, 0, SIZE as u64).await.map(|read| assert!(read == old())),
        Kind::Put => caller.msync(id).await.map(|_| ()),
        Kind::Delete => caller.remove(path).await.map(|_| ()),
        Kind::StartUpload | Kind::PutPart | Kind::Complete => unreachable!("not of a small object"),
    }
}

async fn one_case(scene: &Scene, caller: Caller, kind: Kind, fault: Fault, times: usize) {
    let case = format!("{kind:?}-{fault:?}-{times}").replace(['(', ')'], "-");
    let path = format!("/data/{case}");
    scene.direct.put(&Path::from(format!("files/{case}")), old().into()).await.unwrap();
    let mut id = 0;
    if matches!(kind, Kind::Get | Kind::Put) {
        id = caller.mmap(map_request(&path, SIZE as u64)).await.unwrap().mmap_id;
    }
    if kind == Kind::Put {
        caller.write(id, 10, &b"mine"[..]).await.unwrap();
    }
    scene.proxy.set(&case, kind, fault, times);
    let started = Instant::now();
    let outcome = call(&caller, kind, &path, id).await;
    assert!(started.elapsed() < CALL_TIME, "{case}: {:?}", started.elapsed());
    let hits = scene.proxy.clear(&case);
    assert!(hits > 0, "{case}: the fault was not met");
    match &outcome {
        Ok(()) => {}
        Err(status) => {
            let said = failure(status);
            // What a store said to be gone is gone, when the answer to that was lost.
            let removed = kind == Kind::Delete && said.reason == Reason::NoEnt;
            assert!(said.reason == Reason::Io || removed, "{case}: {said:?}");
            assert!(times == usize::MAX || fault == Fault::Hang, "{case} was not retried: {said:?}");
        }
    }
    // What the fault kept from happening happens now; nothing was forgotten, and nobody is in the way.
    let over = Instant::now();
    while let Err(status) = call(&caller, kind, &path, id).await {
        let reason = failure(&status).reason;
        if kind == Kind::Delete && reason == Reason::NoEnt {
            break;
        }
        // It may share the failure of a request that was under way before.
        assert!(reason == Reason::Io && over.elapsed() < CALL_TIME, "{case}, once it is over: {status:?}");
    }
    let expected = match kind {
        Kind::Delete => None,
        Kind::Put => Some(new()),
        Kind::Head | Kind::Get => Some(old()),
        Kind::StartUpload | Kind::PutPart | Kind::Complete => unreachable!("not of a small object"),
    };
    assert!(scene.stored(&case).await.as_deref() == expected.as_deref(), "{case}: the store has something else");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_fault_at_each_request_is_outlasted_or_is_eio_within_its_time() {
    let Some(scene) = Scene::new() else { return };
    let server = scene.server();
    let caller = Caller::connect(server.addr(), 1).await;
    let mut cases = Vec::new();
    for kind in [Kind::Head, Kind::Get, Kind::Put, Kind::Delete] {
        for (fault, times) in FAULTS.into_iter().flat_map(|fault| TIMES.map(|times| (fault, times))) {
            let pid = u32::try_from(cases.len()).unwrap() + 1;
            cases.push(one_case(&scene, caller.with_pid(pid), kind, fault, times));
        }
    }
    futures::future::join_all(cases).await;
}

async fn one_upload(scene: &Scene, store: &dyn FileStore, kind: Kind, fault: Fault, times: usize) {
    let case = format!("{kind:?}-{fault:?}-{times}").replace(['(', ')'], "-");
    let size = PART + 1000;
    let content = Bytes::from((0..size).map(|index| u8::try_from(index % 239).unwrap()).collect::<Vec<_>>());
    let change = || {
        let patches = vec![Patch { offset: 0, data: content.clone(), dirty: true }];
        WriteBack { base: Base::Missing, size, patches, commit: CommitId::random() }
    };
    scene.proxy.set(&case, kind, fault, times);
    let outcome = store.write_back(&case, change()).await;
    let hits = scene.proxy.clear(&case);
    assert!(hits > 0, "{case}: the fault was not met");
    match outcome {
        Ok(_) => {}
        Err(StoreFault::Failed(..)) => {
            let refused = matches!(fault, Fault::Status(409 | 412) | Fault::Hang);
            assert!(times == usize::MAX || refused, "{case} was not retried");
            // The reply to the last completion may be lost, and the object be there.
            match store.write_back(&case, change()).await {
                Ok(_) => {}
                Err(StoreFault::Exists) => assert_eq!((kind, fault), (Kind::Complete, Fault::Hang), "{case}"),
                Err(other) => panic!("{case}, once it is over: {other}"),
            }
        }
        Err(other) => panic!("{case}: {other}"),
    }
    assert!(scene.stored(&case).await.is_some_and(|stored| stored == content), "{case}: the store has something else");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_fault_at_each_request_of_an_upload_in_parts_is_outlasted_or_a_failure() {
    let Some(scene) = Scene::new() else { return };
    let builder = AmazonS3Builder::new().with_endpoint(scene.proxy.endpoint()).with_allow_http(true);
    let client = builder.with_bucket_name(Moto::BUCKET).with_access_key_id("k").with_secret_access_key("k");
    let client: Arc<dyn ObjectStore> = Arc::new(client.with_region("us-east-1").build().unwrap());
    let options = ObjectOptions { single_put_max: 1 << 20, part_min: PART, ..ObjectOptions::default() };
    let layout = Arc::new(ObjectLayout::new(client, Path::from("files"), options));
    let store = BoundedStore::new(layout, STORE_TIME, 1 << 30);
    for kind in [Kind::StartUpload, Kind::PutPart, Kind::Complete] {
        let all = FAULTS.into_iter().flat_map(|fault| TIMES.map(|times| (fault, times)));
        let cases = all.map(|(fault, times)| one_upload(&scene, &store, kind, fault, times));
        futures::future::join_all(cases).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_others_put_right_before_an_upload_completes_is_not_overwritten() {
    let Some(scene) = Scene::new() else { return };
    let server = scene.server();
    let caller = Caller::connect(server.addr(), 1).await;
    let mib = 1 << 20;
    let truncate =
        |size: u64| v1::TruncateFileRequest { path: "/data/big".into(), size, create: true, ..Default::default() };
    // Made anew: If-None-Match. The object is asked for once more, so theirs is what is cut.
    scene.proxy.set("big", Kind::Complete, Fault::Intrusion, 1);
    let outcome = caller.truncate(truncate(65 * mib)).await;
    assert_eq!(scene.proxy.clear("big"), 1, "the upload did not come to its completion: {outcome:?}");
    let stored = scene.stored("big").await.unwrap();
    assert!(stored.starts_with(b"theirs"), "{} bytes of ours", stored.len());
    // Changed: If-Match.
    caller.truncate(truncate(65 * mib)).await.unwrap();
    scene.proxy.set("big", Kind::Complete, Fault::Intrusion, 1);
    let outcome = caller.truncate(truncate(66 * mib)).await;
    assert_eq!(scene.proxy.clear("big"), 1, "the upload did not come to its completion: {outcome:?}");
    let stored = scene.stored("big").await.unwrap();
    assert!(stored.starts_with(b"theirs"), "{} bytes of ours", stored.len());
}
