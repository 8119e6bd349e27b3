//! Compiles `proto/mmap.proto` with protox, so that no machine needs protoc.

use std::path::{Path, PathBuf};

use prost::Message;
use protox::Compiler;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Asked for when it runs, and not baked in: two checkouts may share a target folder.
    let root = Path::new(&std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo:rerun-if-changed={}", root.display());

    // Source information carries the comments: they become rustdoc here and are checked by a test.
    let descriptors = Compiler::new([&root])?
        .include_imports(true)
        .include_source_info(true)
        .open_file("mmap.proto")?
        .file_descriptor_set();
    let out_dir = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out_dir.join("mmap.v1.bin"), descriptors.encode_to_vec())?;

    tonic_prost_build::configure()
        // `Bytes` and not `Vec<u8>`: data is passed on without a copy.
        .bytes(".")
        .extern_path(".google.rpc.Status", "::tonic_types::pb::Status")
        .compile_fds(descriptors)?;
    Ok(())
}
