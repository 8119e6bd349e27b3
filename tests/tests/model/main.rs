//! Model test: sequences of every operation, with truncation, outside changes and store failures among them,
//! applied to the manager and to plain byte vectors, and compared after each step, the store included.
//!
//! `MMAP_MODEL_CASES` sets how many sequences run (default 3000). The fuzz target `operations` runs the same on
//! sequences of its own.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod reference;
mod world;
mod ops;
mod run;
mod ends;
mod draw;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::draw::{op, trouble};
use crate::run::Run;

#[test]
fn every_sequence_of_operations_comes_to_what_plain_byte_vectors_come_to() {
    let cases = std::env::var("MMAP_MODEL_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(3000);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let config = Config { cases, max_shrink_iters: 20_000, failure_persistence: None, ..Config::default() };
    let sequence = prop::collection::vec((op(), trouble()), 1..50);
    let outcome = TestRunner::new(config).run(&sequence, |steps| {
        runtime.block_on(async {
            let mut run = Run::new().await;
            for (op, trouble) in steps {
                run.step(op, trouble).await;
            }
        });
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}
