//! What the fuzz targets do with their bytes, and what must hold whatever the bytes are. A target is a function of
//! bytes that panics where something does not hold; `fuzz_targets` gives each to libFuzzer.
//!
//! The model of [`operations`] is the model test's own, so that there is one idea of what is right.
#![allow(clippy::unwrap_used, reason = "a panic is how a target reports")]

mod take;
mod path;
mod journal;
mod records;
mod checks;
mod methods;
mod served;
mod requests;

#[path = "../../tests/tests/model/reference.rs"]
mod reference;
#[path = "../../tests/tests/model/world.rs"]
mod world;
#[path = "../../tests/tests/model/ops.rs"]
mod ops;
#[path = "../../tests/tests/model/run.rs"]
mod run;
#[path = "../../tests/tests/model/ends.rs"]
mod ends;
mod operations;
mod token;
mod seeds;

pub use journal::journal;
pub use operations::operations;
pub use path::path;
pub use requests::requests;
pub use seeds::write_seeds;
pub use token::token;
