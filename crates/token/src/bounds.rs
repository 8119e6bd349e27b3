//! What bounds the work that a token or a file of keys can ask for.

/// Bytes of the longest token that is looked at: about half of what headers may have.
pub const TOKEN_MAX: usize = 8 * 1024;
/// Keys of a set: a token without a key's id is tried with each of its algorithm.
pub const KEYS_MAX: usize = 64;
