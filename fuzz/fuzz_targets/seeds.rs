//! Writes the corpora's seeds and ends. A target only because what is instrumented has to be linked with libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(init: mmap_fuzz::write_seeds(), |_bytes: &[u8]| {});
