//! Protection and kind of a mapping.

use crate::error::{Error, Result};

/// What a mapping's owner may do with its bytes; the bits of mmap(2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProtFlags(u32);

impl ProtFlags {
    /// Neither read nor written.
    pub const PROT_NONE: Self = Self(0);
    /// Allow reading from the mapped region.
    pub const PROT_READ: Self = Self(1);
    /// Allow writing to the mapped region.
    pub const PROT_WRITE: Self = Self(2);
    /// Allow executing code from the mapped region. It is only remembered: the server runs nothing.
    pub const PROT_EXEC: Self = Self(4);

    /// The protection that `bits` say: READ 1, WRITE 2, EXEC 4.
    ///
    /// # Errors
    /// [`Errno::Inval`](crate::error::Errno::Inval) for any other bit.
    pub fn from_bits(bits: u32) -> Result<Self> {
        if bits & !Self::all().0 != 0 {
            return Err(Error::invalid("prot", format!("prot {bits:#x} has unknown bits: READ is 1, WRITE 2, EXEC 4"))
                .with("prot", bits));
        }
        Ok(Self(bits))
    }

    /// Read and write.
    pub const fn read_write() -> Self {
        Self(3)
    }

    /// Read, write and execute.
    pub const fn all() -> Self {
        Self(7)
    }

    /// The bits: READ 1, WRITE 2, EXEC 4.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether it allows reading.
    pub const fn can_read(self) -> bool {
        self.0 & Self::PROT_READ.0 != 0
    }

    /// Whether it allows writing.
    pub const fn can_write(self) -> bool {
        self.0 & Self::PROT_WRITE.0 != 0
    }

    /// Whether it allows executing.
    pub const fn can_exec(self) -> bool {
        self.0 & Self::PROT_EXEC.0 != 0
    }
}

/// The kind of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapFlags {
    /// Writes are seen by every process that maps the file, and are synced to it.
    Shared,
    /// Writes are seen by this mapping alone, and never reach the file.
    Private,
}
