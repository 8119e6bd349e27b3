//! One file a command, or a small family of them.

pub(crate) mod conflicts;
pub(crate) mod copy;
pub(crate) mod edit;
pub(crate) mod inspect;
pub(crate) mod list;
pub(crate) mod migrate;
pub(crate) mod ping;
pub(crate) mod poke;
pub(crate) mod token;
