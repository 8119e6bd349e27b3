//! What the peers stream: as much memory as the file that mmapd streams has, so that neither side sends one buffer
//! again and again out of the processor's cache.

use std::sync::OnceLock;

use bytes::Bytes;

/// Bytes of it.
pub const LARGE: usize = 1 << 30;

/// 1 GiB, filled when it is first asked for.
pub fn large() -> Bytes {
    static MEMORY: OnceLock<Bytes> = OnceLock::new();
    MEMORY.get_or_init(|| Bytes::from(vec![7; LARGE])).clone()
}
