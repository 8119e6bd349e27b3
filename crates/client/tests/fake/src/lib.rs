//! A server of the contract over byte vectors, for tests of the client and of `mmapctl`: [`Fake`].
//!
//! It is simple where the real one is fast: one lock, no store, no pages but for the end-of-file rule. What it adds
//! is control: faults on demand ([`fault`]), counts of calls and their headers, streams that break, processes that
//! end behind the client's back. It runs in a runtime of its own, so that stopping it cuts every connection, and a
//! test without a runtime can use it.
//!
//! It never listens elsewhere than on loopback or a socket file.

mod error;
pub mod fault;
mod conflicts;
mod world;
mod streams;
mod pipeline;
mod service;

use std::{io, net::SocketAddr, path::Path, time::Duration};

use mmap_proto::v1::{
    file_service_server::FileServiceServer, mmap_service_server::MmapServiceServer,
    process_service_server::ProcessServiceServer,
};
use tokio::runtime::Runtime;
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::transport::{Server, server::Router};

use crate::{fault::Fault, service::Service};

/// A running server. Dropping it cuts every connection.
#[derive(Debug)]
pub struct Fake {
    service: Service,
    address: String,
    runtime: Option<Runtime>,
}

/// Largest message taken: 4 MiB of data and what is around it.
const DECODE_MAX: usize = (4 << 20) + (64 << 10);

impl Fake {
    /// Starts on a free loopback port.
    ///
    /// # Errors
    /// Those of making a runtime or a socket.
    pub fn start() -> io::Result<Self> {
        let mut fake = Self { service: Service::default(), address: "127.0.0.1:0".to_owned(), runtime: None };
        fake.restart()?;
        Ok(fake)
    }

    /// Starts on a socket file.
    ///
    /// # Errors
    /// Those of making a runtime or a socket.
    pub fn start_unix(path: &Path) -> io::Result<Self> {
        let service = Service::default();
        let runtime = runtime()?;
        let listener = {
            let _inside = runtime.enter();
            tokio::net::UnixListener::bind(path)?
        };
        let router = router(&service);
        runtime.spawn(async move { router.serve_with_incoming(UnixListenerStream::new(listener)).await });
        Ok(Self { service, address: format!("unix:{}", path.display()), runtime: Some(runtime) })
    }

    /// Where it listens, as a client dials it.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Cuts every connection and stops listening. Its files, processes and mappings stay.
    pub fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // On a thread of its own, because an async test may not block; and waited for, so that nobody listens
            // any more when this returns.
            let stopped = std::thread::spawn(move || runtime.shutdown_timeout(Duration::from_secs(5))).join();
            // A shutdown that panicked has stopped as well.
            drop(stopped);
        }
    }

    /// Listens again where it did (TCP only), with what it had.
    ///
    /// # Errors
    /// Those of making a runtime or a socket.
    pub fn restart(&mut self) -> io::Result<()> {
        self.stop();
        let runtime = runtime()?;
        let listener = runtime.block_on_listen(&self.address)?;
        self.address = listener.local_addr()?.to_string();
        let router = router(&self.service);
        runtime.spawn(async move { router.serve_with_incoming(TcpListenerStream::new(listener)).await });
        self.runtime = Some(runtime);
        Ok(())
    }

    /// The next call of `method` that has no fault yet meets this one.
    pub fn plan(&self, method: &'static str, fault: Fault) {
        self.service.desk().plan(method, fault);
    }

    /// How many calls of `method` came.
    pub fn calls(&self, method: &str) -> usize {
        self.service.desk().calls(method)
    }

    /// A header of the last call of `method`.
    pub fn last_header(&self, method: &str, header: &str) -> Option<String> {
        self.service.desk().last_header(method, header)
    }

    /// Whose connection the last call of `method` came over (TCP only; not of an operation on a pipeline).
    pub fn last_peer(&self, method: &str) -> Option<SocketAddr> {
        self.service.desk().last_peer(method)
    }

    /// Puts a file into the store.
    pub fn put_file(&self, path: &str, bytes: impl Into<Vec<u8>>) {
        self.service.world().put(path, bytes.into());
    }

    /// Keeps pages aside as a conflict.
    pub fn put_conflict(&self, id: &str, path: &str, offset: u64, bytes: impl Into<Vec<u8>>) {
        self.service.world().put_conflict(id, path, offset, bytes.into());
    }

    /// Lists a file as one that is no whole conflict.
    pub fn put_damaged_conflict(&self, file: &str) {
        self.service.world().put_damaged_conflict(file);
    }

    /// What the store has: what was synced, not what was only written.
    pub fn stored(&self, path: &str) -> Option<Vec<u8>> {
        self.service.world().stored(path)
    }

    /// The next attach tells this grace time. It is not enforced: see [`lose_processes`](Self::lose_processes).
    pub fn set_grace(&self, grace: Duration) {
        self.service.world().set_grace(grace);
    }

    /// Breaks every attach stream with an error; the server has noticed.
    pub fn break_streams(&self) {
        self.service.world().break_streams();
    }

    /// Breaks every attach stream and ends their processes at once, as after a network that was away for longer than
    /// the grace time: the client learns of the break only when the processes are gone.
    pub fn lose_processes(&self) {
        let mut world = self.service.world();
        world.break_streams();
        for pid in world.pids() {
            world.end_process(pid);
        }
    }

    /// The pids that it knows.
    pub fn pids(&self) -> Vec<u32> {
        self.service.world().pids()
    }

    /// The ids of the mappings that it has.
    pub fn mapping_ids(&self) -> Vec<u64> {
        self.service.world().mapping_ids()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop();
    }
}

trait Listen {
    fn block_on_listen(&self, address: &str) -> io::Result<tokio::net::TcpListener>;
}

impl Listen for Runtime {
    /// Without `block_on`, which an async test could not call.
    fn block_on_listen(&self, address: &str) -> io::Result<tokio::net::TcpListener> {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let _inside = self.enter();
        tokio::net::TcpListener::from_std(listener)
    }
}

fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("fake").enable_all().build()
}

fn router(service: &Service) -> Router {
    let (_, health) = tonic_health::server::health_reporter();
    Server::builder()
        .add_service(health)
        .add_service(MmapServiceServer::new(service.clone()).max_decoding_message_size(DECODE_MAX))
        .add_service(ProcessServiceServer::new(service.clone()))
        .add_service(FileServiceServer::new(service.clone()))
}
