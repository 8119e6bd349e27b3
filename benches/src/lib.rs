//! Side-by-side measurements: `cargo bench -p mmap-benches`. Each row stands beside its ceiling or its peer,
//! measured in turn in one run, and what counts is the ratio. More rows come with the work on speed.
