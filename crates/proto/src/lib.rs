//! The wire contract in Rust: generated messages, stubs of client and server, the descriptor set that
//! reflection serves, and the names (metadata keys, error reasons, capabilities) that the proto file can
//! only mention in comments.
//!
//! It holds no logic, and knows neither the server nor the client.

pub mod names;
pub mod reason;

/// Messages and services of the package `mmap.v1`, generated from `proto/mmap.proto`.
#[allow(missing_docs, clippy::all, reason = "generated")]
pub mod v1 {
    tonic::include_proto!("mmap.v1");

    /// The encoded `FileDescriptorSet` of the contract with all that it imports, comments included.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/mmap.v1.bin"));
}
