//! Fills that read inside a database snapshot older than their look-up (G3): a real database, a real sidecar.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use grapevine_cache::{MemoryCache, MemoryConfig};
use grapevine_client::{BypassReason, CachedClient, How, Session, Snapshot};
use grapevine_integration_tests::Setup;
use grapevine_proto::v1;
use grapevine_proto::v1::{CondemnReason, ReceiptLevel};
use rusqlite::Connection;

use crate::bad_input::resolve;
use crate::fence::{POLICIES, client};

const FORBIDDEN: How = How::Bypassed(BypassReason::Snapshot);

/// A database of one row.
struct Database {
    writer: Connection,
    reader: Connection,
}

impl Database {
    fn create(dir: &Path) -> Self {
        let file = dir.join("rows.sqlite");
        let open = || Connection::open(&file).unwrap();
        let writer = open();
        // Readers see what was there when they began, and do not wait for the writer.
        let schema = "PRAGMA journal_mode = WAL; CREATE TABLE rows (value INTEGER NOT NULL); INSERT INTO rows VALUES (0);";
        writer.execute_batch(schema).unwrap();
        let reader = open();
        Self { writer, reader }
    }

    fn write(&self) {
        self.writer
            .execute("UPDATE rows SET value = value + 1", [])
            .unwrap();
    }
}

fn value(connection: &Connection) -> String {
    let row = connection.query_row("SELECT value FROM rows", [], |row| row.get::<_, i64>(0));
    row.unwrap().to_string()
}

async fn read(cached: &CachedClient, class: &str, value: &str) -> (String, How, bool) {
    let bytes = value.to_owned().into();
    let fill = |_| async { Ok::<_, Infallible>(bytes) };
    let got = cached.get_or_fill("value", &[class], None, fill).await;
    let got = got.unwrap();
    let value = String::from_utf8(got.value.to_vec()).unwrap();
    (value, got.how, got.stored)
}

#[tokio::test(flavor = "multi_thread")]
async fn g3_what_an_older_database_snapshot_shows_is_given_to_its_reader_alone() {
    let cluster = Setup::of(2).toml(POLICIES).start().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let database = Database::create(dir.path());
    let cached = CachedClient::new(
        client(&cluster[0]),
        Arc::new(MemoryCache::new(MemoryConfig::default())),
    );
    let write = async |class: &str| {
        database.write();
        let done = cluster[1].api.invalidate(class, ReceiptLevel::All).await;
        assert!(done.unwrap().receipt.unwrap().satisfied);
    };
    for strategy in ["versioned", "registered", "bucketed"] {
        let class = format!("{strategy}/1");
        // Opened, then the transaction begins, with its first read; then a write commits and is invalidated.
        let snapshot = cached.client().open_snapshot().await.unwrap();
        let transaction = database.reader.unchecked_transaction().unwrap();
        let old = value(&transaction);
        write(&class).await;
        let new = value(&database.writer);
        assert!(value(&transaction) == old && old != new, "it is a snapshot");

        let inside = cached.in_snapshot(&snapshot);
        let given = read(&inside, &class, &value(&transaction)).await;
        assert_eq!(given, (old.clone(), FORBIDDEN, false), "{strategy}");
        let outside = read(&cached, &class, &new).await;
        assert_eq!(outside, (new.clone(), How::Filled, true), "{strategy}");
        let hit = read(&inside, &class, &value(&transaction)).await;
        assert_eq!(hit, (new, How::Hit, false), "{strategy}");

        // The control: the look-up comes after the invalidation, and without the snapshot it vouches for what is older.
        write(&class).await;
        let stale = read(&cached, &class, &value(&transaction)).await;
        assert_eq!(stale, (old.clone(), How::Filled, true), "{strategy}");
        let served = read(&cached, &class, &value(&database.writer)).await;
        assert_eq!(served, (old, How::Hit, false), "{strategy}");
        transaction.rollback().unwrap();
        write(&class).await;

        // A snapshot that is current fills as anybody does.
        let snapshot = cached.client().open_snapshot().await.unwrap();
        let transaction = database.reader.unchecked_transaction().unwrap();
        let now = value(&transaction);
        let filled = read(&cached.in_snapshot(&snapshot), &class, &now).await;
        assert_eq!(filled, (now.clone(), How::Filled, true), "{strategy}");
        let served = read(&cached, &class, "nothing").await;
        assert_eq!(served, (now, How::Hit, false), "{strategy}");
    }
    let stats = cached.stats();
    assert_eq!((stats.bypass_snapshot, stats.condemned), (3, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn g3_a_snapshot_of_elsewhere_forbids_fills_and_fails_no_read() {
    let mut cluster = Setup::of(2).toml(POLICIES).start().await.unwrap();
    let own = client(&cluster[0]);
    let snapshot = own
        .open_snapshot_for(Duration::from_secs(30), &Session::new())
        .await
        .unwrap();
    assert!(snapshot.remaining() > Duration::from_secs(20));
    let class = "registered/1";
    let look_up = async |at: usize, bytes: &[u8]| {
        let request = v1::ResolveRequest {
            snapshot: Some(bytes.to_vec().into()),
            ..resolve("value", &[class])
        };
        let mut app = cluster[at].api.app.clone();
        app.resolve(request)
            .await
            .unwrap()
            .into_inner()
            .results
            .remove(0)
    };
    let known = look_up(0, snapshot.bytes()).await;
    assert!(!known.fill_forbidden);
    let api = cluster[0].api.clone();
    assert!(api.commit("value", class, &known).await.unwrap().accepted);
    for (at, bytes) in [
        (1, &snapshot.bytes()[..]),
        (0, b""),
        (0, b"x"),
        (0, &known.lease),
        (0, &[255; 64]),
    ] {
        let unknown = look_up(at, bytes).await;
        assert!(unknown.fill_forbidden && !unknown.targets.is_empty());
        let verdict = cluster[at].api.commit("value", class, &unknown).await;
        let verdict = verdict.unwrap();
        assert!(!verdict.accepted && verdict.reason() == CondemnReason::LeaseUnknown);
    }
    cluster[0].kill().await.unwrap();
    cluster[0].start_fresh().await.unwrap();
    let after = CachedClient::new(
        client(&cluster[0]),
        Arc::new(MemoryCache::new(MemoryConfig::default())),
    );
    for snapshot in [snapshot, Snapshot::default()] {
        let given = read(&after.in_snapshot(&snapshot), class, "old").await;
        assert_eq!(given, ("old".to_owned(), FORBIDDEN, false));
    }
}
