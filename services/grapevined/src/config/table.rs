//! The table of knobs: the only place where one is written down.
//!
//! A field's doc comment is its explanation in the default file and in `--help`; then come its type, its default, its
//! limits, further names of its flag, and what raising it costs. Everything else follows from it (see `knob.rs`).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use grapevine_core::names::NodeId;
use grapevine_core::policy::PolicySet;

use super::cache_url::CacheUrl;
use super::declared_index::DeclaredIndex;
use super::knob::{Given, Knob, knobs};
use super::value::{
    ByteSize, ClusterName, FileMode, HostPort, LogFilter, LogFormat, UnixPath, Value,
};

knobs! {
    /// Who this sidecar is.
    node: NodeConfig {
        /// Its name, unique in the cluster and kept over restarts: 1 to 64 letters, digits, '.', '_' or '-'.
        /// Empty takes the host's name.
        id: NodeId = "";
    }

    /// The cluster it belongs to.
    cluster: ClusterConfig {
        /// The cluster's name. Sidecars of other clusters are refused.
        name: ClusterName = "grapevine", flag "cluster";
        /// How many sidecars the first roster is to seat, this one included; a majority of them that has waited
        /// `freshness.member_timeout` for the others goes ahead. Later ones are agreed on whatever their size. While fewer
        /// are alive, seeds are resolved and tried every few seconds.
        expected_members: usize = "1", from "1" to "1024", flag "expected-members",
            raising "above the truth makes a new cluster wait longer, for ever at twice the truth, and costs name look-ups; lowering it below the truth lets parts of a new cluster begin apart, which find together later.";
    }

    /// Where applications call. There is no authentication: keep both on this host.
    app: AppConfig {
        /// The path of a Unix socket; empty for none. A stale socket file is replaced. While the sidecar runs it has a lock beside it,
        /// `<path>.lock`, so that of two starts one has the socket; when it ends it removes both files.
        unix: Option<UnixPath> = "";
        /// The mode of that socket's file, in octal as chmod takes it: 0600 is for the sidecar's own user, 0660 for its group too, 0666 for
        /// whoever may enter the directory. Empty leaves what the process's umask gives, which is usually the own user alone.
        unix_mode: Option<FileMode> = "";
        /// The TCP address; empty for none.
        tcp: Option<SocketAddr> = "127.0.0.1:7400";
    }

    /// Where the other sidecars call with events, over gRPC.
    peer: PeerConfig {
        /// The TCP address to listen on. Port 0 takes a free one.
        listen: SocketAddr = "127.0.0.1:7401";
        /// Where other sidecars reach it. Empty means `peer.listen`, which then must be an address they can reach.
        advertise: Option<HostPort> = "";
    }

    /// How sidecars find each other and notice deaths, over UDP. Datagrams are neither authenticated nor encrypted.
    gossip: GossipConfig {
        /// The UDP address to listen on. Port 0 takes a free one.
        listen: SocketAddr = "127.0.0.1:7402";
        /// Where other sidecars reach it. Empty means `gossip.listen`, which then must be an address they can reach.
        advertise: Option<SocketAddr> = "";
        /// Where to find others: the gossip addresses of some sidecars, or DNS names that stand for many. Naming
        /// oneself is harmless. None: this sidecar waits to be found.
        seeds: Vec<HostPort> = "", flag "seeds";
        /// How often a sidecar gossips. A bump that some peer has not acknowledged after 25 ms is told to all at once; this is for what was lost.
        interval: Duration = "500ms", from "10ms" to "1m",
            raising "costs time to notice deaths and lost news; lowering it costs CPU on every sidecar (50 of them at 100 ms: about 1 % of a core each).";
        /// A peer silent for so long is suspected; at least five intervals.
        suspect_after: Duration = "3s", from "50ms" to "1h",
            raising "costs time to notice a death; lowering it suspects healthy peers on busy machines.";
        /// How long a dead run of a sidecar stays in gossip's state; at least twice `gossip.suspect_after`.
        dead_grace: Duration = "2m", from "1s" to "1day",
            raising "costs datagram bytes for each restart within it; lowering it below the time that news needs lets the dead reappear as suspects.";
        /// How many sidecars gossip tracks at most.
        max_peers: usize = "1024", from "1" to "1024",
            raising "costs memory (about 2 KB each) and datagram bytes.";
    }

    /// Lists of ids by criterion, which follow the changes of rows.
    index: IndexConfig {
        /// Indices that are known from the start, as `items:category_id` or `items:category_id+in_stock`: a table without its schema, and
        /// 1 to 4 columns, as `grapevine explain` names them: in lower case for MySQL and SQLite, and for PostgreSQL unless they are
        /// quoted. Others are known from their first read on, which waits
        /// for a moment; so do first reads by these columns under the classes of `explain`.
        declared: Vec<DeclaredIndex> = "";
    }

    /// Where the directory and the event logs are kept.
    store: StoreConfig {
        /// The directory, made when missing. One sidecar at a time may use it.
        path: PathBuf = "./grapevine-data", flag "data-dir";
        /// The store's cache of pages. The store may use several times as much memory for a large directory.
        cache_bytes: ByteSize = "64MiB", from "1MiB" to "64GiB",
            raising "costs memory; lowering it costs disk reads for registrations, purges and listings.";
        /// How many bytes of events are kept for peers that missed them; beyond, the oldest are compacted and such peers
        /// get a snapshot.
        log_bytes_max: ByteSize = "32MiB", from "1MiB" to "1TiB",
            raising "costs disk, up to ten times as much where events are small; lowering it makes peers that were away for long fetch snapshots.";
    }

    /// How long this sidecar's knowledge counts.
    freshness: FreshnessConfig {
        /// How old a member's word may be for this sidecar to call itself fresh. Members are probed four times as often, twice as often once they have answered at once for a while.
        max_staleness: Duration = "2s", from "100ms" to "1h",
            raising "lets values be served for so much longer after a peer became unreachable, and lets an invalidation with receipt `all` wait so long for it; lowering it costs probes and makes short pauses count as unknown.";
        /// A member that is silent loses its seat in the roster after so long, if it is the only one that is: then nothing is
        /// lost by it, caches stay warm, and it is given a seat again when it is back.
        crash_timeout: Duration = "5s", from "100ms" to "1day",
            raising "keeps the others from calling themselves fresh for so long after a crash; lowering it has the roster change when a member only pauses.";
        /// Members that crashed together lose their seats after so long, and everything is invalidated once.
        member_timeout: Duration = "1m", from "1s" to "1day",
            raising "keeps the others from calling themselves fresh for so long after several crashed at once; lowering it takes the seats of members that only pause, and costs a cold cache each time.";
        /// A run of a sidecar that has been over for so long may be retired; who comes back after that fetches a snapshot. At
        /// least `freshness.member_timeout` and `lease.duration`, which count instead where they are longer.
        retire_after: Duration = "1h", from "1s" to "365days",
            raising "keeps runs that are over for so long, whatever limits.old_runs_max says; lowering it costs snapshots for sidecars that were away.";
    }

    /// The sidecar's limits. At a limit it refuses what is new or invalidates more than asked, never less.
    limits: LimitsConfig {
        /// Top-level classes (first segments of class paths). A bump of a further one is refused.
        top_level_classes_max: usize = "1024", from "1" to "1000000",
            raising "costs memory that is never given back: up to 256 floors each.";
        /// Bumped classes held below one top-level class; beyond, a part of them is invalidated together by a floor.
        classes_per_top_max: usize = "250000", from "256" to "100000000",
            raising "costs about 200 bytes of memory each; lowering it costs needless misses in large families.";
        /// Bumped classes held in all; beyond, parts of the largest families are invalidated together by floors.
        classes_max: usize = "1000000", from "256" to "100000000",
            raising "costs about 200 bytes of memory each; lowering it costs needless misses.";
        /// Calls to invalidate that may wait for receipts; a further one is refused, unless it wants no receipt.
        receipts_max: usize = "10000", from "1" to "1000000",
            raising "costs about 1 KB of memory each.";
        /// Calls that may wait until the events of their session are applied here; a further one is refused.
        session_waits_max: usize = "10000", from "1" to "1000000",
            raising "costs memory: about 1 KB each, and the call itself, of up to limits.message_bytes_max.";
        /// Writes that may be begun and not ended at once; a further one is refused. They name at most 20 times as
        /// many classes together, and this sidecar holds at most twice as many for its peers.
        intents_max: usize = "10000", from "1" to "1000000",
            raising "costs memory and disk: about 200 bytes each, and as much for each class that it names.";
        /// Callers that may wait here for their turn to fill (`fill = "one"`), at most 4096 of them for one value, and, counted
        /// apart, sidecars that may wait for turns which this one gives. A further caller is told to try again or fills
        /// without a turn; a further sidecar has its turn at once.
        fill_waits_max: usize = "65536", from "16" to "1000000",
            raising "costs memory: about 1 KB for each caller's call, and 100 bytes for each sidecar; lowering it costs reads of the source.";
        /// Runs of sidecars whose events are followed; with more, this sidecar does not call itself fresh.
        origins_max: usize = "65536", from "16" to "65536",
            raising "costs about 100 bytes of memory each, and bytes in what peers tell each other.";
        /// Runs of sidecars that are over, and whose events are followed all the same; with more, the members retire them
        /// together, which invalidates what was last bumped by them. An only member with more starts over at its next start.
        old_runs_max: usize = "64", from "1" to "1024",
            raising "costs memory for each class that they bumped, and bytes in what peers tell each other; lowering it costs needless misses more often.";
        /// Members of all leaves of indices, and eight more for each leaf; with more, the leaf that was loaded longest ago is dropped, and read from the database anew.
        index_members_max: usize = "2000000", from "1000" to "100000000",
            raising "costs memory: about 100 bytes each, and some 600 with long ids, long texts in the order and versions; lowering it costs reads of the database.";
        /// Rows whose newest version is remembered, so that readers who ask for it (`VERIFIED`) are not told of members that moved on.
        index_rows_max: usize = "100000", from "1" to "10000000",
            raising "costs memory: about 900 bytes each, of four columns of numbers.";
        /// Registrations held, counting an address once per class; a further one is refused, and its value not stored.
        registrations_max: usize = "50000000", from "1" to "1000000000",
            raising "costs disk (about 50 to 150 bytes each) and memory for the store's index.";
        /// Connections at a time of each listener (`app.unix`, `app.tcp`, `health.listen`, `peer.listen`); a further one is
        /// closed at once, but at `health.listen`, where the oldest one is. The system's limit on open files must leave room for all.
        connections_max: usize = "1000", from "16" to "1000000",
            raising "costs memory (some 100 KB each when busy) and open files.";
        /// Watchers at a time; a further one is refused. One connection may have a quarter of them, and at least 16.
        watchers_max: usize = "200", from "1" to "100000",
            raising "costs memory: up to two messages each when they do not read, of 200 KB each for bumps of 1,000 classes; limits.answers_bytes_max bounds them all.";
        /// Local tables of clients at a time, those that are gone included until their leases are over; a further one is refused, and its
        /// client looks up by calls. One connection may have a quarter of them, and at least 16.
        local_tables_max: usize = "200", from "1" to "100000",
            raising "costs memory (some 200 KB each when they do not read), and a message for each of them with each invalidation.";
        /// Resolve and registration streams and listings at a time; a further one is refused. One connection may have a
        /// quarter of them, and at least 16; a stream without a message for five minutes ends.
        streams_max: usize = "1000", from "1" to "100000",
            raising "costs memory: up to two messages each (of some 2 MB) when they do not read; limits.answers_bytes_max bounds them all.";
        /// Bytes of answers, of calls and streams together, that callers have not read yet. One more is refused, to be
        /// asked for again; a watcher gets a RESYNC marker. An eighth is kept for answers of up to 64 KiB.
        answers_bytes_max: ByteSize = "256MiB", from "16MiB" to "64GiB",
            raising "costs memory: up to twice as much, when callers ask and do not read.";
        /// Bytes of calls, and of messages of streams, that have come and are not answered yet. A further one is refused, to
        /// be made again; one that was begun and falls behind gives way first. An eighth is kept for messages of up to 64 KiB.
        calls_bytes_max: ByteSize = "256MiB", from "16MiB" to "64GiB",
            raising "costs memory: up to four times as much, when many short classes and addresses are named; what would be more once decoded is charged for more.";
        /// The largest gRPC message taken from applications. Peers' messages have a limit of their own.
        message_bytes_max: ByteSize = "4MiB", from "1MiB" to "256MiB",
            raising "costs memory for each call in flight; limits.calls_bytes_max bounds them all.";
        /// Calls waiting for the event loop; beyond, callers wait, then are told to try again.
        queue_commands_max: usize = "8192", from "16" to "1000000",
            raising "costs memory and lets calls wait longer before they are refused.";
        /// Thousands of writes (a registration counts once for each of its classes) waiting for the disk; beyond, the
        /// event loop takes no new registrations, and at sixteen times as many nothing, until some are flushed.
        queue_writes_max: usize = "16", from "1" to "10000",
            raising "costs memory and lets bumps wait longer behind registrations, and calls behind a slow disk.";
        /// Peers that this sidecar tells of its own events directly; with more, as many as the root of their number pass them on to the others.
        direct_pushes_max: usize = "64", from "1" to "1024",
            raising "costs a message to each peer for each bump, and as many acknowledgements; lowering it costs bumps a second trip.";
        /// Messages with bumps, acknowledgements and grants waiting for one peer; beyond, they are dropped and pulled later.
        queue_peer_urgent_max: usize = "4096", from "16" to "1000000",
            raising "costs memory per peer; lowering it costs repairs when a peer is slow.";
        /// Messages with registrations and snapshots waiting for one peer; beyond, they are dropped and pulled later.
        queue_peer_bulk_max: usize = "256", from "4" to "100000",
            raising "costs memory per peer (up to 1 MB each); lowering it costs repairs when a peer is slow.";
        /// Bumps that a watcher may be behind; beyond, it gets a RESYNC marker in their place.
        queue_watch_max: usize = "1024", from "1" to "1000000",
            raising "costs memory, once for all watchers; lowering it costs resyncs when a watcher is slow.";
    }

    /// What a resolve and a begun write are granted.
    lease: LeaseConfig {
        /// How long after a resolve a value may still be committed.
        duration: Duration = "30s", from "100ms" to "1h",
            raising "keeps registrations in the directory for so much longer; lowering it condemns slow fills.";
        /// How long a begun write may take whose caller does not say. The database transaction's own timeout must lie below it.
        write_duration: Duration = "10s", from "100ms" to "10m",
            raising "leaves what a dead application wrote stale for so much longer; lowering it bumps for nothing while slow writes go on.";
        /// How much longer than lease and TTL a registration is kept, for clocks that differ and caches that are slow.
        registration_margin: Duration = "1m", from "1s" to "1day",
            raising "keeps dead registrations on disk for so much longer; lowering it may leave a value undeleted.";
    }

    /// How the sidecar stops.
    drain: DrainConfig {
        /// How long open calls may take to end after SIGTERM; then they are cut off.
        timeout: Duration = "10s", from "0s" to "1h",
            raising "lets a hanging call delay the end for so long.";
    }

    /// The caches whose addresses this sidecar deletes.
    cache: CacheConfig {
        /// One URL per cache; every one of them gets every delete. None: nothing is deleted, and values of `registered`
        /// classes lie in the cache, unused, until their TTL. Passwords are hidden in logs.
        url: Vec<CacheUrl> = "", flag "cache";
    }

    /// How addresses are deleted. Safety never rests on it: tokens keep stale values from being served.
    purge: PurgeConfig {
        /// Delete calls in flight to one cache; at most half of them are retries.
        concurrency: usize = "16", from "2" to "256",
            raising "costs load on the cache.";
        /// Addresses in one delete call.
        batch_max: usize = "1000", from "1" to "10000",
            raising "makes single calls slower, so that more of them fail at once.";
        /// Addresses waiting for their first attempt, per cache. While so many wait, further ones are refused and
        /// counted as dropped; a single larger list is taken whole.
        queue_addresses_max: usize = "1000000", from "1" to "100000000",
            raising "costs about 50 bytes of memory each, beside the addresses themselves.";
        /// Addresses waiting to be tried again, per cache; beyond, the oldest are given up and counted as expired.
        retry_addresses_max: usize = "200000", from "1" to "10000000",
            raising "costs about 400 bytes of memory each while a cache is down.";
        /// The pause before the second attempt; it doubles with each further one, and jitter takes off up to half.
        retry_interval_min: Duration = "50ms", from "1ms" to "1m",
            raising "leaves dead values in the cache for longer after a hiccup; lowering it costs load on a troubled cache.";
        /// The longest pause between attempts.
        retry_interval_max: Duration = "10s", from "1ms" to "1h",
            raising "leaves dead values in the cache for longer after it is back.";
    }

    /// Where probes ask whether this sidecar serves.
    health: HealthConfig {
        /// The TCP address of a gRPC server with nothing but the standard health service, for those who must not reach
        /// the applications' listener; empty for none. That one answers the same.
        listen: Option<SocketAddr> = "";
    }

    /// Where Prometheus asks for metrics. Traces, and metrics that are pushed, go where the standard `OTEL_*` variables say.
    metrics: MetricsConfig {
        /// The TCP address of an HTTP server that answers `GET /metrics`; empty for none.
        listen: Option<SocketAddr> = "";
    }

    /// What is logged, on standard error.
    log: LogConfig {
        /// A level (error, warn, info, debug, trace, off), and levels by module: `info,grapevined::purge=debug`.
        filter: LogFilter = "info";
        /// `text` for people, `json` for machines.
        format: LogFormat = "text";
    }
}
