//! A fake server with a client of it, and waiting for what happens in the background.

use std::time::{Duration, Instant};

use mmap_client::{AttachOptions, Capability, Client, ClientBuilder, Mapping, Process, Prot, RetryPolicy};
use mmap_fake::Fake;

/// Longer than anything here takes, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn fake() -> Fake {
    Fake::start().expect("a port is free")
}

/// All capabilities, and repeats that take no time to speak of.
pub(crate) fn builder() -> ClientBuilder {
    Client::builder().capabilities([Capability::FileRead, Capability::FileWrite, Capability::SystemInfo]).retry(
        RetryPolicy { repeats_max: 8, delay_min: Duration::from_millis(5), delay_max: Duration::from_millis(200) },
    )
}

pub(crate) async fn connect(fake: &Fake) -> Client {
    builder().connect(fake.address()).await.expect("it listens")
}

pub(crate) async fn attach(client: &Client) -> Process {
    client.attach(AttachOptions { pid: Some(42), name: "test".into() }).await.expect("the pid is free")
}

/// Two pages of zeros, shared and writable.
pub(crate) async fn map(process: &Process) -> Mapping {
    process.map("/data/file").length(8192).prot(Prot::READ_WRITE).create().await.expect("it can be made")
}

/// Waits until `holds` does.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "waited for nothing: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits for `future`, but not for ever.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it comes to an end")
}
