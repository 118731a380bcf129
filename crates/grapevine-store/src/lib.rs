//! The durable directory of a Grapevine sidecar, on sled.
