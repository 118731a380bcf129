//! Descriptors: a connection takes one, and the usual soft limit of 1,024 is below what the defaults allow.
//!
//! The soft limit is there for programs that cannot deal with high numbers; this one can, so it takes what the hard limit
//! gives. Where that is too little for the connections that are allowed, peers and probes would be shut out by applications
//! before any limit of ours is reached, so it is told at the start.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// What a sidecar opens beside connections, with something to spare: the store, gossip, links to peers, caches.
const BESIDE: u64 = 256;
/// Each has `limits.connections_max` of its own: applications over TCP and the Unix socket, probes, and peers.
const LISTENERS: u64 = 4;

/// Raises the soft limit to the hard one, and warns if that is too little for so many connections at every listener.
pub(super) fn raise(connections_max: usize) {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let soft = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(error) => {
            warn!(%error, "cannot raise the limit of descriptors");
            limit.current
        }
    };
    if let Some(text) = shortfall(soft, connections_max) {
        warn!("{text}");
    }
}

/// What to say of a limit of descriptors that is too low. None is no limit.
fn shortfall(limit: Option<u64>, connections_max: usize) -> Option<String> {
    let needed = (connections_max as u64)
        .saturating_mul(LISTENERS)
        .saturating_add(BESIDE);
    let limit = limit.filter(|limit| *limit < needed)?;
    Some(format!(
        "this process may open {limit} descriptors, and limits.connections_max = {connections_max} may take {needed}: raise the \
         hard limit (ulimit -Hn, LimitNOFILE), or lower the knob"
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn g10_the_soft_limit_of_descriptors_is_raised_to_the_hard_one() {
        let limit = getrlimit(Resource::Nofile);
        let hard = limit.maximum;
        let lower = hard.map_or(1_024, |hard| hard.min(1_024)) - 1;
        let current = Some(lower);
        let lowered = Rlimit { current, ..limit };
        setrlimit(Resource::Nofile, lowered).unwrap();
        raise(1_000);
        let now = getrlimit(Resource::Nofile);
        assert_eq!((now.current, now.maximum), (hard, hard));
    }

    #[test]
    fn g10_too_few_descriptors_are_told_with_both_numbers() {
        assert_eq!(shortfall(None, 1_000), None);
        assert_eq!(shortfall(Some(4_256), 1_000), None);
        let told = shortfall(Some(4_255), 1_000).unwrap();
        assert!(told.contains("4255") && told.contains("4256"), "{told}");
    }
}
