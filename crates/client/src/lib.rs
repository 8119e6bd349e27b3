//! The client library of mmapd: map, read, write and sync files that live in an object store.
//!
//! ```
//! # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let server = mmap_fake::Fake::start()?;
//! # let address = server.address();
//! use mmap_client::{AttachOptions, Client, Prot};
//!
//! let client = Client::connect(address).await?; // "127.0.0.1:50051" or "unix:/path"
//! let process = client.attach(AttachOptions { name: "reader".into(), pid: None }).await?;
//!
//! let mapping = process.map("/data/hello").length(4096).prot(Prot::READ_WRITE).create().await?;
//! mapping.write(0, "Hello, mmap!").await?;
//! assert_eq!(mapping.read(7, 4).await?, "mmap");
//! let synced = mapping.msync().await?; // now the store has it
//! println!("version {} holds {} new bytes", synced.version, synced.bytes);
//!
//! mapping.unmap().await?;
//! process.exit().await?;
//! # Ok(()) }
//! ```
//!
//! A [`Client`] is a connection. A [`Process`] owns mappings and lives as long as its value does: should this program
//! be killed, the server syncs what it wrote and ends it after a grace time. A [`Mapping`] is a range of a file.
//!
//! # Failures
//! An [`Error`] tells the server's reason, and where the call failed:
//!
//! ```
//! # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let server = mmap_fake::Fake::start()?;
//! # let client = mmap_client::Client::connect(server.address()).await?;
//! use mmap_client::{ErrorKind, Reason};
//!
//! let error = client.stat_file("/missing").await.expect_err("it is not there");
//! assert_eq!(error.reason(), Some(Reason::NoEnt));
//! assert_eq!(error.kind(), ErrorKind::Server);
//! assert_eq!(error.metadata()["path"], "/missing");
//! # Ok(()) }
//! ```
//!
//! What is repeated by itself, and what never is, stands in one table: see [`retry`]. Every method's documentation
//! says what dropping its future half-way means.
//!
//! # Speed
//! [`Mapping::read`] and [`Mapping::write`] up to 64 KiB of all tasks that use a process share a stream of operations:
//! nothing has to be done for that but to have several in flight, and what is in flight together goes over the wire
//! together. On two cores shared with the server, 64 tasks that each await one read of 4 KiB after the other cost 1 us of
//! this side's CPU a read; one task alone, which waits for each round trip, 6 to 8 us. Whole ranges are read and
//! written fastest by [`Mapping::read_stream`] and [`Mapping::write_stream`], or `read_all` and `write_all` over them.
//!
//! Two things are the program's own to choose, and each is worth up to a factor of two where data is large:
//! - an allocator that keeps its memory, such as `mimalloc`: the system's gives buffers of a megabyte back to the kernel
//!   and faults them in again;
//! - one worker thread (`worker_threads = 1`, or `current_thread`) where there are two cores: each call otherwise wakes a
//!   thread on another core, which takes longer than the call.
//!
//! # TLS
//! An address `https://host:port` is one of TLS: the server's certificate has to be for `host` and of an authority of
//! the system, or of one that is given:
//!
//! ```no_run
//! # async fn connect() -> Result<(), mmap_client::Error> {
//! let client = mmap_client::Client::builder()
//!     .ca_file("ca.pem")?
//!     .identity_files("me.pem", "me.key")? // for a server that asks for certificates
//!     .connect("https://mmapd.example:50051")
//!     .await?;
//! # Ok(()) }
//! ```
//!
//! # A channel of your own
//! A proxy, several servers: make the tonic channel and hand it over. A token is the builder's affair, other headers are
//! an interceptor's.
//!
//! ```
//! # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let server = mmap_fake::Fake::start()?;
//! # let uri = format!("http://{}", server.address());
//! use mmap_client::Client;
//! use tonic::{Request, transport::Endpoint};
//!
//! let channel = Endpoint::from_shared(uri)?.connect_lazy();
//! let client = Client::builder()
//!     .token("abc") // says who it is and what it may do; or token_file("/run/secrets/mmapd"), read when it changes
//!     .interceptor(|mut request: Request<()>| {
//!         request.metadata_mut().insert("x-team", "renderers".parse().expect("ASCII"));
//!         Ok(request)
//!     })
//!     .service(channel);
//! assert!(client.ping().await?.serving);
//! # Ok(()) }
//! ```

//!
//! # Traces
//! The server goes on with this program's trace if it is told where that is. With `opentelemetry`:
//!
//! ```ignore
//! use opentelemetry::{Context, trace::TraceContextExt as _};
//!
//! let client = Client::builder()
//!     .trace(|| {
//!         let context = Context::current(); // with `tracing-opentelemetry`: Span::current().context()
//!         let span = context.span().span_context().clone();
//!         let trace = TraceContext::new(
//!             u128::from_be_bytes(span.trace_id().to_bytes()),
//!             u64::from_be_bytes(span.span_id().to_bytes()),
//!             span.is_sampled(),
//!         );
//!         trace.ok().map(|trace| trace.with_state(&span.trace_state().header()))
//!     })
//!     .connect("127.0.0.1:50051")
//!     .await?;
//! ```

// In dependency order: a module uses only what stands above it.
mod hint;
pub mod error;
pub mod types;
pub mod retry;
mod tls;
pub mod trace;
mod transport;
mod framing;
mod token;
mod caller;
mod pipeline;
mod link;
mod lease;
pub mod sync;
pub mod bulk;
pub mod mapping;
pub mod map;
pub mod process;
pub mod client;
pub mod builder;

pub use builder::ClientBuilder;
pub use bulk::{PIECE, ReadStream};
pub use client::{Client, Truncate};
pub use error::{Error, ErrorKind, Result, Violation};
pub use link::ProcessState;
pub use map::Map;
pub use mapping::{MESSAGE_MAX, Mapping, UnmapError, UnmapOptions};
pub use mmap_proto::reason::Reason;
pub use process::{AttachOptions, Process};
pub use retry::RetryPolicy;
pub use sync::Msync;
pub use trace::TraceContext;
pub use types::{
    Applied, Capability, ConflictInfo, ConflictList, ConflictPart, ConflictRange, Exited, FileInfo, MappingInfo, Page,
    Pong, ProcessInfo, Prot, Sharing, Synced, WaitingFile,
};
