//! The Grapevine command line.
fn main() {}
