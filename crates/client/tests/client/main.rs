//! Tests of the client against a server over byte vectors that fails on demand.

mod calls;
mod lease;
mod repeat;
mod support;
