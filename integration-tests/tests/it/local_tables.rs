//! Client-local tables with real sidecars: raw streams that keep to the protocol or do not, and the Rust client (G3, G6, G7, G10).

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use grapevine_cache::{MemoryCache, MemoryConfig};
use grapevine_client::{CachedClient, Client, How};
use grapevine_integration_tests::{Api, Cluster, Setup, eventually};
use grapevine_proto::v1::application_service_client::ApplicationServiceClient;
use grapevine_proto::v1::{self, HolderState, ReceiptLevel};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

use crate::bad_input::unharmed;
use crate::support::SOON;

/// A table whose client says what the test says.
struct Raw {
    words: mpsc::Sender<v1::LocalTableStreamRequest>,
    told: Streaming<v1::LocalTableStreamResponse>,
    requests: u64,
}

impl Raw {
    async fn open(api: &Api) -> Result<Self, Status> {
        Self::open_at(api.app.clone()).await
    }

    async fn open_at(mut app: ApplicationServiceClient<Channel>) -> Result<Self, Status> {
        let (words, out) = mpsc::channel(100_000);
        let told = app.local_table_stream(ReceiverStream::new(out)).await?;
        let mut raw = Self {
            words,
            told: told.into_inner(),
            requests: 0,
        };
        let opened = raw.next().await?.opened;
        assert!(opened.is_some_and(|it| it.local_table > 0 && it.incarnation.len() == 16));
        Ok(raw)
    }

    async fn next(&mut self) -> Result<v1::LocalTableStreamResponse, Status> {
        let next = tokio::time::timeout(SOON, self.told.message()).await;
        let message = next.map_err(|_| Status::unknown("nothing is told"))??;
        message.ok_or_else(|| Status::unknown("the stream ended without a status"))
    }

    async fn say(&mut self, word: v1::LocalTableStreamRequest) {
        self.words.send(word).await.unwrap();
    }

    /// Asks until there is a lease: a sidecar that has just become fresh may have none yet.
    async fn lease(&mut self) -> Duration {
        loop {
            self.requests += 1;
            self.say(v1::LocalTableStreamRequest {
                lease_request: self.requests,
                ..Default::default()
            })
            .await;
            let lease = self.next().await.unwrap().lease.unwrap();
            assert_eq!(lease.request, self.requests);
            if lease.duration_us > 0 {
                return Duration::from_micros(lease.duration_us);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn acknowledge(&mut self, position: u64) {
        self.say(v1::LocalTableStreamRequest {
            acknowledged: position,
            ..Default::default()
        })
        .await;
    }

    async fn release(&mut self) {
        self.say(v1::LocalTableStreamRequest {
            released: true,
            ..Default::default()
        })
        .await;
    }

    /// How the stream ends, whatever it tells until then.
    async fn end(mut self) -> Status {
        loop {
            if let Err(status) = self.next().await {
                return status;
            }
        }
    }
}

/// Sidecars that say `all` by now.
async fn sure(nodes: usize) -> Cluster {
    let setup = Setup::of(nodes).flag("freshness-max-staleness", "4s");
    let cluster = setup.start().await.unwrap();
    for node in cluster.nodes() {
        eventually("receipts of all are reached", SOON, async || {
            let answer = node.api.invalidate("warm", ReceiptLevel::All).await?;
            ensure!(answer.receipt.context("a receipt")?.satisfied);
            Ok(())
        })
        .await
        .unwrap();
    }
    cluster
}

fn states(answer: &v1::InvalidateResponse) -> Vec<HolderState> {
    let rows = &answer.receipt.as_ref().unwrap().holders;
    rows.iter().map(v1::Holder::state).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn g6_g7_receipts_of_all_wait_for_tables_and_no_longer_than_their_leases() {
    let cluster = sure(2).await;
    for at in [0, 1] {
        let mut table = Raw::open(&cluster[at].api).await.unwrap();
        table.lease().await;
        let api = cluster[0].api.clone();
        let class = format!("waited/{at}");
        let call = tokio::spawn(async move { api.invalidate(&class, ReceiptLevel::All).await });
        let notice = table.next().await.unwrap();
        assert_eq!(notice.classes, [format!("waited/{at}")]);
        // `one` is about disks, and says how it stands.
        let one = cluster[0].api.invalidate("other", ReceiptLevel::One).await;
        let one = one.unwrap();
        assert!(one.receipt.as_ref().unwrap().satisfied);
        assert_eq!(states(&one)[at], HolderState::Flushed);
        assert!(!call.is_finished());
        let position = table.next().await.unwrap().position;
        table.acknowledge(position).await;
        let answer = call.await.unwrap().unwrap();
        assert!(answer.receipt.as_ref().unwrap().satisfied);
        assert_eq!(states(&answer), [HolderState::Has, HolderState::Has]);
        assert_eq!(answer.local_table_position > 0, at == 0);
        // Silent from here on.
        let lease = table.lease().await;
        let begin = Instant::now();
        let answer = cluster[0].api.invalidate("silent", ReceiptLevel::All).await;
        assert!(answer.unwrap().receipt.unwrap().satisfied);
        let took = begin.elapsed();
        assert!(
            took + Duration::from_millis(200) > lease,
            "{took:?} of {lease:?}"
        );
        let status = table.end().await;
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
        let lapsed = cluster[at].api.counter("tables_lapsed").await.unwrap();
        assert_eq!(lapsed, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_table_s_client_cannot_mean_ends_its_stream_with_the_reason() {
    let cluster = Setup::of(1).start().await.unwrap();
    let api = &cluster[0].api;
    let mut table = Raw::open(api).await.unwrap();
    table.acknowledge(99).await;
    let status = table.end().await;
    assert_eq!(status.code(), Code::InvalidArgument);
    let message = status.message();
    assert!(
        message.contains("acknowledged") && message.contains("99 was not told"),
        "{message}"
    );
    let mut table = Raw::open(api).await.unwrap();
    table.lease().await;
    table.requests -= 1;
    let again = table.requests + 1;
    table
        .say(v1::LocalTableStreamRequest {
            lease_request: again,
            ..Default::default()
        })
        .await;
    let status = table.end().await;
    assert_eq!(status.code(), Code::InvalidArgument);
    let message = status.message();
    assert!(message.contains("lease_request"), "{message}");
    unharmed(api).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn g10_tables_are_bounded_and_one_whose_stream_broke_counts_until_its_lease_is_over() {
    let setup = Setup::of(1).flag("limits-local-tables-max", "2");
    let cluster = setup.start().await.unwrap();
    let api = &cluster[0].api;
    let mut first = Raw::open(api).await.unwrap();
    let mut second = Raw::open(api).await.unwrap();
    let refused = |status: Option<Status>| {
        let status = status.expect("it is refused");
        assert_eq!(status.code(), Code::ResourceExhausted);
        let message = status.message();
        assert!(message.contains("limits.local_tables_max"), "{message}");
    };
    refused(Raw::open(api).await.err());
    first.lease().await;
    second.lease().await;
    second.release().await;
    eventually("a place is free again", SOON, async || {
        second = Raw::open(api).await?;
        Ok(())
    })
    .await
    .unwrap();
    let lease = first.lease().await;
    let begin = Instant::now();
    drop(first);
    eventually("a place is free again", SOON, async || {
        drop(Raw::open(api).await?);
        Ok(())
    })
    .await
    .unwrap();
    let took = begin.elapsed();
    assert!(
        took + Duration::from_millis(100) > lease,
        "{took:?} of {lease:?}"
    );
    unharmed(api).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn g10_a_client_that_floods_and_does_not_read_harms_nobody_and_misses_nothing() {
    // So that its silence is not what its stream ends by.
    let setup = Setup::of(1)
        .flag("freshness-max-staleness", "10m")
        .flag("freshness-member-timeout", "10m");
    let cluster = setup.start().await.unwrap();
    let api = &cluster[0].api;
    let mut table = Raw::open(api).await.unwrap();
    for request in 1..=20_000 {
        table
            .say(v1::LocalTableStreamRequest {
                lease_request: request,
                ..Default::default()
            })
            .await;
    }
    // Notices large enough that they fill what waits for a reader.
    let classes: Vec<String> = (0..1_000)
        .map(|n| format!("flood/{n}/{}", "x".repeat(150)))
        .collect();
    for _ in 0..40 {
        let request = v1::InvalidateRequest {
            classes: classes.clone(),
            receipt: ReceiptLevel::None.into(),
            ..Default::default()
        };
        api.app.clone().invalidate(request).await.unwrap();
    }
    unharmed(api).await;
    let overrun = api.counter("tables_overrun").await.unwrap();
    assert!(overrun > 0);
    // It reads now, and hears of everything.
    while !table.next().await.unwrap().everything {}
}

#[tokio::test(flavor = "multi_thread")]
async fn g10_a_table_whose_client_reads_nothing_keeps_its_place_no_longer_than_its_lease() {
    let setup = Setup::of(1).flag("limits-local-tables-max", "1");
    let cluster = setup.start().await.unwrap();
    let api = &cluster[0].api;
    let narrow = Endpoint::from_shared(format!("http://{}", cluster[0].app_tcp)).unwrap();
    let narrow = narrow.initial_stream_window_size(65_535).connect_lazy();
    let mut unread = Raw::open_at(ApplicationServiceClient::new(narrow))
        .await
        .unwrap();
    unread.lease().await;
    let refused = Raw::open(api).await.err().unwrap();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    // More than a stream takes that is not read, one message after the other.
    for round in 0..6 {
        let classes = (0..1_000).map(|nth| format!("{}/{round}/{nth}", "c".repeat(100)));
        let request = v1::InvalidateRequest {
            classes: classes.collect(),
            ..Default::default()
        };
        api.app.clone().invalidate(request).await.unwrap();
    }
    let opened = eventually("its place is free", SOON, async || {
        Ok(Raw::open(api).await.map(drop)?)
    });
    opened.await.unwrap();
    drop(unread);
}

#[tokio::test(flavor = "multi_thread")]
async fn g6_g7_a_sidecar_that_drains_asks_its_tables_to_go_and_leaves_when_they_have() {
    let mut cluster = sure(2).await;
    let mut table = Raw::open(&cluster[1].api).await.unwrap();
    table.lease().await;
    cluster[1].terminate().await.unwrap();
    let closing = table.next().await.unwrap();
    assert!(closing.closing, "{closing:?}");
    table.release().await;
    cluster[1].end(SOON).await.unwrap();
    eventually("it has left", SOON, async || {
        let members = cluster[0].api.members().await?;
        ensure!(members.len() == 1, "{members:?}");
        Ok(())
    })
    .await
    .unwrap();
}

async fn read(cached: &CachedClient, value: &'static str) -> Result<(String, How)> {
    let fill = |_| async move { Ok::<_, std::io::Error>(value.into()) };
    let got = cached
        .get_or_fill("items::13", &["cart/13"], None, fill)
        .await;
    let got = got?;
    Ok((String::from_utf8(got.value.to_vec())?, got.how))
}

#[tokio::test(flavor = "multi_thread")]
async fn g3_g7_a_client_with_a_table_reads_without_calls_and_sees_what_others_have_invalidated() {
    let mut cluster = sure(2).await;
    let endpoint = cluster[1].app_tcp.to_string();
    let client = Client::builder(endpoint)
        .local_table(1_024)
        .build()
        .unwrap();
    let cache = Arc::new(MemoryCache::new(MemoryConfig::default()));
    let cached = CachedClient::new(client.clone(), cache);
    eventually("a lease", SOON, async || {
        ensure!(client.stats().local_leases > 0);
        Ok(())
    })
    .await
    .unwrap();
    let values = ["a", "b", "c", "d", "e"];
    for value in values {
        assert_eq!(
            read(&cached, value).await.unwrap(),
            (value.into(), How::Filled)
        );
        assert_eq!(read(&cached, "no").await.unwrap(), (value.into(), How::Hit));
        let before = client.stats().resolve_items;
        for _ in 0..20 {
            assert_eq!(read(&cached, "no").await.unwrap(), (value.into(), How::Hit));
        }
        assert_eq!(client.stats().resolve_items, before);
        let answer = cluster[0].api.invalidate("cart", ReceiptLevel::All).await;
        assert!(answer.unwrap().receipt.unwrap().satisfied);
    }
    assert_eq!(cached.stats().local_hits, 20 * values.len() as u64 + 5);
    // Another run of the sidecar answers: nothing of the last one is left.
    read(&cached, "f").await.unwrap();
    cluster[1].kill().await.unwrap();
    let mut target = String::new();
    eventually("the table is empty", SOON, async || {
        ensure!(
            client
                .local_look_up("items::13", &["cart/13"], &mut target)
                .is_none()
        );
        Ok(())
    })
    .await
    .unwrap();
    let streams = client.stats().local_streams;
    cluster[1].start_fresh().await.unwrap();
    eventually(
        "another stream, and what is read is kept again",
        SOON,
        async || {
            ensure!(client.stats().local_streams > streams);
            read(&cached, "g").await?;
            ensure!(
                client
                    .local_look_up("items::13", &["cart/13"], &mut target)
                    .is_some()
            );
            Ok(())
        },
    )
    .await
    .unwrap();
}
