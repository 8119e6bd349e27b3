//! [`Registered`]: a mapping as its file knows it. A plain value.

use std::sync::Arc;

use crate::caller::ProcessKey;
use crate::flags::ProtFlags;
use crate::overlay::CowMemory;
use crate::units::ByteRange;

/// How a mapping uses the file.
#[derive(Clone, Debug)]
pub enum MapUse {
    /// Shared, may be written.
    SharedWritable,
    /// Shared, may only be read.
    SharedReadOnly,
    /// Private, with its own pages.
    Private(Arc<CowMemory>),
}

/// A mapping as its file knows it.
#[derive(Clone, Debug)]
pub struct Registered {
    /// The file's bytes that it maps.
    pub range: ByteRange,
    /// Whose it is.
    pub owner: ProcessKey,
    /// What its owner may do.
    pub prot: ProtFlags,
    /// How it uses the file.
    pub usage: MapUse,
}
