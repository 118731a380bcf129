//! All decisions of a Grapevine sidecar, as a pure state machine.
