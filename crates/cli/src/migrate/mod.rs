//! Whole trees between a local folder and the server, or between two of its mounts: `import` and `export`.
//!
//! - `record`: the file that says how far a run came, so that the same command goes on
//! - `place`: the two kinds of sides, a local folder and a folder of the server
//! - `target`: a file that is being made, on either side
//! - `run`: one run: what is skipped, what is copied, what failed
//!
//! Invariants: nothing that this command did not make itself is overwritten, unless that was asked for; a file counts
//! as copied only when its target is synced and its source was the same before and after; what is recorded is true at
//! any moment at which the program is killed.

pub(crate) mod record;
pub(crate) mod place;
pub(crate) mod target;
pub(crate) mod run;
