//! The wire contract of Grapevine as Rust types, generated from `proto/`.
//!
//! Nothing here is written by hand except this page: messages, clients and servers of the three services are
//! generated at build time, and the comments on them are those of the `.proto` files, which are the contract.
//! `bytes` fields are [`bytes::Bytes`](prost::bytes::Bytes). A sidecar keeps these types at its door: one module
//! (`wire`) turns them into domain types and back.

/// Package `grapevine.v1`.
#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    missing_docs,
    unreachable_pub,
    rustdoc::invalid_html_tags,
    rustdoc::broken_intra_doc_links,
    reason = "generated code: the style of the generator, the comments of the .proto files"
)]
pub mod v1 {
    tonic::include_proto!("grapevine.v1");

    /// The encoded `google.protobuf.FileDescriptorSet` of this package, for server reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("grapevine.v1");
}

#[cfg(test)]
mod tests;
