//! The Grapevine sidecar.
