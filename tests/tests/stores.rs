//! The stores that the other tests stand on are what they are taken for: moto refuses a stale conditional
//! write, rclone takes it. Checked with a plain object_store client, without any code of ours.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use bytes::Bytes;
use mmap_tests::moto::Moto;
use mmap_tests::rclone::Rclone;
use mmap_tests::require::available;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutResult, UpdateVersion};

async fn put(store: &AmazonS3, data: &'static [u8], mode: PutMode) -> object_store::Result<PutResult> {
    store.put_opts(&Path::from("probe"), Bytes::from_static(data).into(), mode.into()).await
}

/// Whether `store` takes a write that is based on a version which is no longer there.
async fn takes_a_stale_write(store: &AmazonS3) -> bool {
    let first = UpdateVersion::from(put(store, b"first", PutMode::Overwrite).await.unwrap());
    put(store, b"second", PutMode::Overwrite).await.unwrap();
    match put(store, b"stale", PutMode::Update(first)).await {
        Ok(_) => true,
        Err(object_store::Error::Precondition { .. }) => false,
        Err(other) => panic!("neither taken nor refused: {other:?}"),
    }
}

#[tokio::test]
async fn moto_refuses_a_stale_conditional_write() {
    let Some(moto) = available(Moto::shared()) else { return };
    assert!(!takes_a_stale_write(&moto.store()).await);
    assert_eq!(moto.object("probe"), b"second", "boto3 sees what object_store wrote");
    let again = put(&moto.store(), b"new", PutMode::Create).await;
    assert!(matches!(again, Err(object_store::Error::AlreadyExists { .. })), "{again:?}");
}

#[tokio::test]
async fn rclone_takes_a_stale_conditional_write() {
    let root = tempfile::tempdir().unwrap();
    let Some(rclone) = available(Rclone::start(root.path())) else { return };
    let store = AmazonS3Builder::new()
        .with_endpoint(rclone.endpoint())
        .with_allow_http(true)
        .with_region("us-east-1")
        .with_bucket_name(Rclone::BUCKET)
        .with_access_key_id(Rclone::ENV[0].1)
        .with_secret_access_key(Rclone::ENV[1].1)
        .build()
        .unwrap();
    assert!(takes_a_stale_write(&store).await);
    let get = store.get(&Path::from("probe")).await.unwrap().bytes().await.unwrap();
    assert_eq!(get, "stale");
}
