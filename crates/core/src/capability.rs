//! What a caller may do: [`Capability`] and sets of them. Who grants them is the transport's affair.

use std::fmt;

use crate::error::{Errno, Error, Result};

/// A right that a caller may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Capability {
    /// Map, stat and list files.
    FileRead,
    /// Map files for writing, make, truncate and remove them.
    FileWrite,
    /// See other processes' mappings, and the list of processes.
    SystemInfo,
}

impl Capability {
    /// Every capability.
    pub const ALL: [Self; 3] = [Self::FileRead, Self::FileWrite, Self::SystemInfo];

    /// Its name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FileRead => "FileRead",
            Self::FileWrite => "FileWrite",
            Self::SystemInfo => "SystemInfo",
        }
    }

    /// The capability of this name, if there is one. Names are case-sensitive.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|capability| capability.as_str() == name)
    }

    const fn bit(self) -> u8 {
        match self {
            Self::FileRead => 1,
            Self::FileWrite => 2,
            Self::SystemInfo => 4,
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A set of capabilities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapabilitySet(u8);

impl CapabilitySet {
    /// Every capability.
    pub const ALL: Self = Self(7);

    /// Whether it has `capability`.
    pub const fn has(self, capability: Capability) -> bool {
        self.0 & capability.bit() != 0
    }

    /// The same set with `capability` added.
    #[must_use]
    pub const fn with(self, capability: Capability) -> Self {
        Self(self.0 | capability.bit())
    }

    /// # Errors
    /// [`Errno::Acces`] if it does not have `capability`.
    pub fn require(self, capability: Capability) -> Result<()> {
        if self.has(capability) {
            return Ok(());
        }
        Err(Error::new(Errno::Acces, format!("this call needs the capability {capability}"))
            .with("capability", capability))
    }
}

impl FromIterator<Capability> for CapabilitySet {
    fn from_iter<I: IntoIterator<Item = Capability>>(capabilities: I) -> Self {
        capabilities.into_iter().fold(Self::default(), Self::with)
    }
}
