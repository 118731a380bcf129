//! One sidecar, its disk, and what is known of what it showed.

use std::collections::BTreeSet;
use std::time::Duration;

use grapevine_core::id::{Incarnation, Time};
use grapevine_core::machine::effects::{CommitId, Effects, PeerHello};
use grapevine_core::machine::{Core, CoreConfig, Limits};
use grapevine_core::names::{Address, ClassPath, NodeId};
use grapevine_core::store::{Recovered, Write};
use grapevine_core::token::Token;

use super::case::Budget;
use super::world::{CLASSES, SIZE};
use crate::arms::Arm;
use crate::arms::rules::{Kind, Rule};
use crate::disk::Disk;
use crate::shop::Shop;

/// How long a grant holds.
const MAX_STALENESS: Duration = Duration::from_millis(500);

/// One sidecar.
#[derive(Clone, Debug)]
pub(super) struct Sidecar {
    pub(super) core: Core,
    pub(super) disk: Disk,
    pub(super) waiting: Vec<Write>,
    pub(super) commit: Option<CommitId>,
    /// The newest write whose bump it has applied, by class.
    pub(super) applied: [u64; CLASSES],
    pub(super) shown: [Option<Token>; CLASSES],
    pub(super) superseded: BTreeSet<(usize, Token)>,
    pub(super) rule: Option<Rule>,
    pub(super) digest: u64,
}

/// What never changes.
pub(super) struct Setting {
    pub(super) arm: Option<Arm>,
    pub(super) classes: [ClassPath; CLASSES],
    pub(super) policies: grapevine_core::policy::PolicySet,
}

impl Setting {
    pub(super) fn new(arm: Option<Arm>) -> Self {
        let shop = Shop::new(false);
        let filler = shop.kinds[shop.common].classes[0].clone();
        let registered = shop.items[6].classes[0].clone();
        Self {
            arm,
            classes: [shop.kinds[0].classes[0].clone(), filler, registered],
            policies: shop.policies,
        }
    }

    pub(super) fn is(&self, arm: Arm) -> bool {
        self.arm == Some(arm)
    }

    pub(super) fn config(&self, at: usize, run: u128, budget: &Budget) -> CoreConfig {
        CoreConfig {
            node_id: name(at),
            incarnation: Incarnation::from_random(run << 64 | run, 0),
            policies: self.policies.clone(),
            expected_members: SIZE,
            max_staleness: MAX_STALENESS,
            member_timeout: Duration::from_hours(1),
            crash_timeout: budget.crash_timeout.unwrap_or(Duration::from_hours(1)),
            lease_duration: Duration::from_secs(10),
            retire_after: Duration::from_hours(1),
            clock_rate_ppm: 0,
            limits: Limits {
                classes_per_top_max: budget.classes_per_top,
                ..Limits::default()
            },
        }
    }

    pub(super) fn sidecar(&self, config: CoreConfig, disk: Disk, now: Time) -> (Sidecar, Effects) {
        let recovered: Recovered = disk.recover();
        let rule = self
            .is(Arm::EntryElseFloor)
            .then(|| Rule::recover(Kind::EntryElseFloor, &recovered));
        let (core, effects) = Core::start(config, &recovered, now);
        let sidecar = Sidecar {
            core,
            disk,
            waiting: Vec::new(),
            commit: None,
            applied: [0; CLASSES],
            shown: [None; CLASSES],
            superseded: BTreeSet::new(),
            rule,
            digest: 0,
        };
        (sidecar, effects)
    }
}

pub(super) fn name(at: usize) -> NodeId {
    let letter = ["a", "b", "c"][at];
    NodeId::parse(letter).expect("invariant: a letter is a name")
}

/// The address of a fill: each attempt has its own, so that its registration can be told apart.
pub(super) fn address(nth: u64) -> Address {
    Address::parse(&format!("fill{nth}")).expect("invariant: a constant address")
}

pub(super) fn hello(core: &Core) -> PeerHello {
    PeerHello {
        node_id: core.config().node_id.clone(),
        incarnation: core.incarnation(),
        peer_address: format!("{}:1", core.config().node_id),
        policy_digest: 0,
    }
}
