//! The wire under the contract's hot methods: messages in and out of HTTP/2's frames without a copy of their
//! data. In dependency order.
//!
//! tonic's codec gathers a message into one buffer on its way in, and copies it into another on its way out.
//! Here a request's data stays slices of the frames it came in ([`Payload`]), and an answer refers to the blocks
//! it was read from ([`Segments`]) until the transport has written them to the socket.

mod account;
mod cork;
mod payload;
mod segments;

mod body;
mod incoming;
mod outgoing;

pub(crate) use account::{Account, Budget, Charge, PERIOD, STALL_TIME};
pub(crate) use body::WireBody;
pub(crate) use cork::Corked;
pub(crate) use incoming::{Incoming, Malformed, PREFIX_LENGTH};
pub(crate) use outgoing::{put_chunk, put_message, put_read, put_tagged_read};
pub(crate) use payload::{Payload, Write};
pub(crate) use segments::Segments;
