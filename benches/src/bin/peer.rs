//! `bench-peer`: the bare servers of the measurements, with mimalloc.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    mmap_benches::role::main()
}
