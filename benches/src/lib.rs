//! Side-by-side measurements: what every benchmark of this crate is made of.
//!
//! A *topic* is one bench target (`wire`, `redis`, `core`, …). It has *tables*; a table has *rows*, which are measured
//! in turn, round by round, so that what disturbs the machine disturbs all of them. A row that cannot be measured is
//! a gap that says why. Everything measured goes into `docs/bench/results.json`; the tables of `docs/BENCHMARKS.md`
//! and the plots beside it are made from that file alone, so that one topic can be measured anew by itself.
//!
//! A bench target's `main` is `topic::run(name, title, |topic| …)`, and in it, for each table:
//!
//! ```no_run
//! use mmap_benches::{rows::{Sample, Table, Target, Unit, Who}, topic};
//!
//! let _: std::process::ExitCode = topic::run("sums", "Adding", |topic| {
//!     let table = Table::new("small", "Sum of ten numbers", Unit::Nanoseconds)
//!         .target(Target::at_most("a loop", "ours", "the library's", 1.1));
//!     if let Some(mut contest) = topic.contest(table) {
//!         contest.row("the library's", Who::Peer, || Ok(Sample::of(12.0)));
//!         contest.row("ours", Who::Ours, || Ok(Sample::of(13.0)));
//!         contest.gap("the other library's", Who::Peer, "it is not installed; apt-get install other");
//!         contest.run();
//!     }
//! });
//! ```

// The tests' own: where the Python environment lies that has rclone in it. A dependency on their crate would build
// all of the workspace with the features that only tests need.
#[path = "../../tests/src/require.rs"]
pub mod require;
#[path = "../../tests/src/paths.rs"]
pub mod paths;
#[path = "../../tests/src/venv.rs"]
pub mod venv;

// In dependency order: a module uses only what stands above it.
pub mod stats;
pub mod cpu;
pub mod machine;
pub mod rows;
pub mod measure;
pub mod options;
pub mod markdown;
pub mod svg;
pub mod results;
pub mod contest;
pub mod topic;
pub mod child;
pub mod peers;
pub mod servers;
pub mod load;
pub mod side;
pub mod mapped;
pub mod s3;
pub mod bucket;
pub mod role;
