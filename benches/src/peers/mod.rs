//! What mmapd is measured against and is made here: bare servers, and clients that are the same for both sides.

// In dependency order.
pub mod settings;
pub mod memory;
pub mod echo;
pub mod framed;
pub mod resp;
