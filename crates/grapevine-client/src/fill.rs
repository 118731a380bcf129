//! What a fill function is given: a place to name classes that turn out to matter.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::names::CLASSES_MAX;

/// A fill under way. Clones are the same fill.
///
/// A value often depends on more than its address tells: a cart's total on the prices of its items, say. Each class named
/// here counts for the value as if it had been given to the look-up, and a bump of it makes the value stale.
#[derive(Debug, Clone, Default)]
pub struct Fill {
    found: Arc<Mutex<Vec<String>>>,
    read_primary: bool,
}

impl Fill {
    /// Of a look-up that says where to read.
    pub(crate) fn new(read_primary: bool) -> Self {
        Self {
            read_primary,
            ..Self::default()
        }
    }

    /// Whether to read the primary: a replica may lag behind the last invalidation of the value's classes (policy
    /// `source_lag` with `on_source_lag = "primary"`), and what it shows would stay in the cache until its TTL. Also said
    /// when a fill is repeated for an audit; not when its value is for its caller alone.
    pub fn read_primary(&self) -> bool {
        self.read_primary
    }

    /// Says that the value depends on `class` too; at any time before the function returns, since what counts is what was
    /// bumped after the look-up. With the classes of the look-up there may be 16; a fill with more, or with a malformed
    /// one, is given to its caller and not stored. Under a `ttl` policy it has no effect, as bumps have none.
    pub fn depends_on(&self, class: impl Into<String>) {
        let class = class.into();
        let mut found = self.found.lock();
        // One more than allowed is enough to see that there are too many.
        if found.len() <= CLASSES_MAX && !found.contains(&class) {
            found.push(class);
        }
    }

    /// What was named so far that is not among `classes`.
    pub(crate) fn beyond(&self, classes: &[String]) -> Vec<String> {
        self.found
            .lock()
            .iter()
            .filter(|class| !classes.contains(class))
            .cloned()
            .collect()
    }
}

/// A page's fill under way: which items to read, and a [`Fill`].
#[derive(Debug, Clone)]
pub struct PageFill {
    /// Items to skip.
    pub offset: u64,
    /// Items wanted; fewer mean that the list ends.
    pub limit: u32,
    pub(crate) fill: Fill,
}

impl PageFill {
    /// See [`Fill::read_primary`].
    pub fn read_primary(&self) -> bool {
        self.fill.read_primary()
    }

    /// See [`Fill::depends_on`].
    pub fn depends_on(&self, class: impl Into<String>) {
        self.fill.depends_on(class);
    }
}
