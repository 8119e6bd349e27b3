//! Tokens against the real server: those who would get past them, and what they keep apart.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod scene;
mod attackers;
mod subjects;
mod limits;
mod renewal;
mod operators;
