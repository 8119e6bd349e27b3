//! Metadata keys and limits of the contract that have no place in a proto file.

/// Request header: the calling process, a decimal `u32` that is not 0.
pub const PID: &str = "mmap-pid";

/// Request header: the caller's capabilities, comma-separated; may be repeated.
pub const CAPABILITIES: &str = "mmap-capabilities";

/// Response header, a trailer on errors: the serving node's name.
pub const NODE: &str = "mmap-node";

/// `domain` of every `google.rpc.ErrorInfo`.
pub const ERROR_DOMAIN: &str = "mmap.v1";
