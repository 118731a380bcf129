//! What the machine counts.

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Counters of decisions, since the start.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[doc = $doc])+ pub $name: u64,)+
        }

        impl Counters {
            /// Every counter: its stable name, what it counts, and its number; for metrics and `Status`.
            pub fn by_name(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$((stringify!($name), concat!($($doc),+).trim_ascii(), self.$name),)+]
            }
        }
    };
}

counters! {
    /// Own bumps.
    bumps_own,
    /// Bumps of others.
    bumps_remote,
    /// Events that were known already.
    events_duplicate,
    /// Buckets evicted by this sidecar.
    floors_own,
    /// Conjunctions widened to their anchor, and changes of rows to whole tables, for want of room.
    escalations,
    /// Shapes that this sidecar made known, or added to.
    shapes_made_known,
    /// Registrations made here.
    registrations_accepted,
    /// Registrations and fills condemned, here made or received.
    registrations_condemned,
    /// Registrations known already.
    registrations_suppressed,
    /// Messages of own events that were told by way of some peers.
    pushes_relayed,
    /// Messages of others' events passed on, counted by who was told.
    events_passed_on,
    /// Relays that were late, or whose link ended, so that this sidecar told those behind them itself.
    relays_stood_in_for,
    /// Pulls sent.
    pulls_sent,
    /// Pulls served.
    pulls_served,
    /// Snapshots asked for.
    snapshots_requested,
    /// Snapshots adopted.
    snapshots_adopted,
    /// Snapshots sent.
    snapshots_sent,
    /// Messages of peers that were malformed or not allowed.
    peer_messages_refused,
    /// Events that were known of, and that nobody had any more.
    events_written_off,
    /// Bumps of everything of histories that there is no room for, each made up for by an own one.
    histories_refused,
    /// Runs that were over and are followed no more.
    runs_retired,
    /// Starts with nothing of what the disk said, for it was left behind by more retirements than are remembered, or it is the
    /// only member's and knows too many runs that are over: 0 or 1.
    started_over,
    /// Write intents begun here, and answered.
    intents_begun,
    /// Commits of write intents taken here, whoever had begun them.
    intents_committed,
    /// Own write intents that were aborted in time.
    intents_aborted,
    /// Own write intents that ended with their lease, in a bump.
    intents_expired,
    /// Write intents held for another run that ended in a bump here.
    intents_expired_for_others,
    /// Write intents found open at the start: bumped then, and once more when their lease is certain to be over.
    intents_recovered,
    /// Write intents of peers that were not taken, for want of room or because this sidecar leaves.
    intents_declined,
    /// Turns to fill that an arbiter gave to callers of this sidecar.
    fills_elected,
    /// Turns to fill that callers took without an arbiter's word: it was late, or a table was full.
    fills_unelected,
    /// Turns to fill that ended with their lease.
    fills_superseded,
    /// Callers told to ask again later for a turn, for want of room or patience.
    fills_put_off,
    /// Turns to fill that this sidecar gave as the arbiter without remembering them, for want of room.
    elections_overfull,
    /// Leaves loaded.
    leaves_loaded,
    /// Loads of leaves given up because something changed meanwhile that could not be followed.
    leaves_condemned,
    /// Leaves dropped for want of room.
    leaves_evicted,
    /// Loads of leaves given up before their leases were over: for others, where too many were under way, or for want of room.
    loads_displaced,
    /// Readers that were given no right to load a leaf, because too many loads were under way.
    loads_refused,
    /// Members of leaves removed because somebody found their rows elsewhere, here or at a peer.
    members_pruned,
    /// Rows of writes under way that leaves do not show, for want of room.
    rows_not_shown,
    /// Local tables that clients have opened.
    tables_opened,
    /// Notices for local tables.
    table_notices,
    /// Local tables whose client was silent about a notice until their leases were over.
    tables_lapsed,
}
