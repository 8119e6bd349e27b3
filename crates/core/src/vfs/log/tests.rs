//! The layout `log` against the promises of a store, and against its own.

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;

use super::{LogLayout, LogOptions};
use crate::vfs::conformance::{Bench, run_all};
use crate::vfs::store::FileStore;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_keeps_the_promises_of_a_store_in_memory() {
    let store = LogLayout::in_memory();
    run_all(&Bench::new(&store, &store, "")).await;
    store.close().await.expect("it closes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_keeps_the_promises_of_a_store_in_a_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let client = LocalFileSystem::new_with_prefix(folder.path()).expect("a client").with_fsync(true);
    let options = LogOptions { has_if_match: false, ..LogOptions::default() };
    let store = LogLayout::new(Arc::new(client), Path::ROOT, false, options);
    run_all(&Bench::new(&store, &store, "")).await;
    store.close().await.expect("it closes");
}
