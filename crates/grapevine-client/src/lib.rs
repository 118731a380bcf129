//! What a Rust application links to use Grapevine.
