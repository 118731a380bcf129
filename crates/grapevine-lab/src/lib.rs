//! Demo, replay and auditor: what shows Grapevine right, and no part of production.
