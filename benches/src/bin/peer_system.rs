//! `bench-peer-system`: the bare servers of the measurements, with the system's allocator.

fn main() -> std::process::ExitCode {
    mmap_benches::role::main()
}
