//! What the demo shows one after another: the same shop and the same code, under another policy each time.
//!
//! Policies go by class, so each scenario has a top-level class of its own and all of them live in one cluster.

use std::time::Duration;

/// Items of a page, where slices are paged.
pub(crate) const PAGE_ITEMS: u32 = 10;
/// How old a value may get under `ttl`.
pub(crate) const TTL: Duration = Duration::from_secs(2);

/// One policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scenario {
    /// As the tables name it.
    pub(crate) name: &'static str,
    /// The top-level class; addresses begin with it too.
    pub(crate) root: &'static str,
    /// The strategy, as a policy names it.
    pub(crate) strategy: &'static str,
    pub(crate) paged: bool,
    /// What it is, in a sentence.
    pub(crate) about: &'static str,
}

pub(crate) const VERSIONED: Scenario = Scenario {
    name: "versioned",
    root: "cart_versioned",
    strategy: "versioned",
    paged: false,
    about: "The default. A token of the class is part of each address: after a bump nobody asks for the old ones again.",
};
pub(crate) const REGISTERED: Scenario = Scenario {
    name: "registered",
    root: "cart_registered",
    strategy: "registered",
    paged: false,
    about: "Addresses stay as they are. Each sidecar keeps a directory of them on disk, and a bump deletes them.",
};
pub(crate) const BUCKETED: Scenario = Scenario {
    name: "bucketed(1024)",
    root: "cart_bucketed",
    strategy: "bucketed(1024)",
    paged: false,
    about: "1,024 addresses per class, whatever the number of values; values that share one push each other out.",
};
pub(crate) const EXPIRING: Scenario = Scenario {
    name: "ttl",
    root: "cart_ttl",
    strategy: "ttl",
    paged: false,
    about: "What most people do: wait until it expires. Here values may be 2 s old, and are not bumped.",
};
pub(crate) const VERSIONED_PAGES: Scenario = Scenario {
    name: "versioned, paged",
    root: "cart_versioned_paged",
    strategy: "versioned",
    paged: true,
    about: "Any limit and offset is cut from whole pages of 10 items, so that slices share what is cached.",
};
pub(crate) const REGISTERED_PAGES: Scenario = Scenario {
    name: "registered, paged",
    root: "cart_registered_paged",
    strategy: "registered",
    paged: true,
    about: "Pages compose with any strategy: here the directory holds pages.",
};

/// In the order they are shown.
pub(crate) const ALL: [Scenario; 6] = [
    VERSIONED,
    REGISTERED,
    BUCKETED,
    EXPIRING,
    VERSIONED_PAGES,
    REGISTERED_PAGES,
];

impl Scenario {
    /// A cart's class.
    pub(crate) fn class(&self, cart: u32) -> String {
        format!("{}/{cart}", self.root)
    }

    /// The address of a slice of a cart; where slices are paged, that of the cart's list.
    pub(crate) fn address(&self, cart: u32, offset: u64, limit: u32) -> String {
        if self.paged {
            format!("{}:{cart}", self.root)
        } else {
            format!("{}:{cart}:{limit}:{offset}", self.root)
        }
    }

    /// Whether a read that begins after an invalidation returned must show the write.
    pub(crate) fn promises_writes(&self) -> bool {
        self.strategy != "ttl"
    }

    fn policy(&self) -> String {
        let paging = if self.paged {
            PAGE_ITEMS.to_string()
        } else {
            "\"off\"".to_owned()
        };
        let ttl = if self.promises_writes() {
            Duration::from_hours(1)
        } else {
            TTL
        };
        format!(
            "[[policy]]\npattern = \"{}/*\"\nstrategy = \"{}\"\npaging = {paging}\nttl = \"{}s\"\n",
            self.root,
            self.strategy,
            ttl.as_secs()
        )
    }
}

/// The policies of all scenarios, as a sidecar's configuration holds them.
pub(crate) fn policies() -> String {
    ALL.iter().map(Scenario::policy).collect()
}
