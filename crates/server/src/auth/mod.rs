//! Who calls: nobody's word is taken, or everybody's. In dependency order.
//!
//! - `audit`: every refusal in the log
//! - `keyring`: the keys that tokens may be signed with, looked at again and again
//! - `tokens`: a token becomes a [`Grant`](tokens::Grant), checked once and remembered until it ends
//! - `door`: what of a request's headers says who calls

mod audit;
mod keyring;
mod tokens;
mod door;

pub(crate) use audit::{Audited, audit};
pub(crate) use door::{Door, Identity};
pub(crate) use tokens::{Grant, Tokens};
