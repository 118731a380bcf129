//! Compiles `proto/` without a system protoc: protox parses, tonic-prost-build generates.
//!
//! Two files leave here for `OUT_DIR`: the generated module of the package, and the descriptor set that server
//! reflection answers from (without comments: they would be a third of the sidecar's reflection memory for nobody).

use std::{env, error::Error, fs, path::PathBuf};

use protox::prost::Message as _;

const PROTOS: [&str; 5] = [
    "grapevine/v1/types.proto",
    "grapevine/v1/explain.proto",
    "grapevine/v1/application.proto",
    "grapevine/v1/admin.proto",
    "grapevine/v1/peer.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    for proto in PROTOS {
        println!("cargo::rerun-if-changed={}", root.join(proto).display());
    }

    let mut descriptors = protox::compile(PROTOS, [&root])?;
    tonic_prost_build::configure()
        // `Bytes` decodes without a copy and clones without an allocation: leases, tokens and incarnations
        // travel in every message.
        .bytes(".")
        // Counters are printed and compared: an order that does not change between two calls.
        .btree_map(".")
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors.clone())?;

    for file in &mut descriptors.file {
        file.source_code_info = None;
    }
    fs::write(out.join("grapevine.v1.bin"), descriptors.encode_to_vec())?;
    Ok(())
}
