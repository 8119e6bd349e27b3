//! Tests of the client against a server over byte vectors that fails on demand.

mod calls;
mod lease;
mod pipeline;
mod repeat;
mod streams;
mod support;
