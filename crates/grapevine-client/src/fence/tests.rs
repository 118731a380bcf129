#![allow(clippy::unwrap_used, reason = "tests")]

use grapevine_cache::{MemoryCache, MemoryConfig};

use super::*;
use crate::client::Client;

const SECOND: Duration = Duration::from_secs(1);

fn value(bytes: &'static [u8], good_until: Option<Instant>) -> FlightResult {
    FlightResult::Value(Value {
        bytes: Bytes::from_static(bytes),
        depends: Depends::Nothing,
        good_until,
    })
}

/// Whether a reader of a value, or of a page, takes what it waited for.
async fn taken(page_size: u32, result: FlightResult) -> bool {
    // Nobody is asked: what these values rest on is the look-up alone.
    let client = Client::connect("127.0.0.1:1").unwrap();
    let cache = MemoryCache::new(MemoryConfig::default());
    let cached = CachedClient::new(client, Arc::new(cache));
    let target = v1::Target {
        page_size,
        ..v1::Target::default()
    };
    let resolution = v1::Resolution::default();
    let unit = Unit::new("a", "a".to_owned(), &[], &resolution, &target, None);
    match cached.follow::<()>(&unit, result).await.unwrap() {
        Settled::Done { how, .. } => {
            assert_eq!(how, How::Waited);
            true
        }
        Settled::Again => false,
        Settled::Bypass(reason) => panic!("{reason:?}"),
    }
}

#[tokio::test]
async fn what_was_waited_for_and_is_no_page_is_not_taken_for_one() {
    let empty_page = &[0; 4];
    assert!(taken(10, value(empty_page, None)).await);
    assert!(!taken(10, value(b"no page", None)).await);
    assert!(taken(0, value(b"no page", None)).await);
}

#[tokio::test(start_paused = true)]
async fn g7_what_was_waited_for_is_taken_until_its_ttl() {
    let end = Instant::now() + SECOND;
    assert!(taken(0, value(b"v", Some(end))).await);
    tokio::time::advance(Duration::from_millis(999)).await;
    assert!(taken(0, value(b"v", Some(end))).await);
    tokio::time::advance(Duration::from_millis(1)).await;
    assert!(!taken(0, value(b"v", Some(end))).await);
}
