//! Bumps that come to a table while it is asked, each of them looked at.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use grapevine_client::Client;
use grapevine_proto::v1::application_service_client::ApplicationServiceClient;
use grapevine_proto::v1::{self, ReceiptLevel};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::{Item, Items, SEED};
use crate::bench::figure::Figure;

const BUMP_EVERY: Duration = Duration::from_millis(1);
/// Bumps that are under way at a time; on a machine that cannot keep up there are fewer of them in a second, and the figure says so.
const BUMPS_MAX: usize = 256;

/// Bumps a class for everybody.
pub(super) async fn bump(
    sidecar: &ApplicationServiceClient<Channel>,
    item: &Item,
) -> anyhow::Result<()> {
    let request = v1::InvalidateRequest {
        classes: item.classes.to_vec(),
        receipt: ReceiptLevel::All.into(),
        ..v1::InvalidateRequest::default()
    };
    let answer = sidecar.clone().invalidate(request).await?.into_inner();
    let receipt = answer.receipt.unwrap_or_default();
    ensure!(
        receipt.satisfied,
        "client-local: not everywhere: {receipt:?}"
    );
    Ok(())
}

/// Bumps that are being made; they end when this is dropped.
pub(super) struct Bumps {
    task: JoinSet<anyhow::Result<Figure>>,
    stop: Arc<AtomicBool>,
}

impl Bumps {
    /// Has those under way end, and tells how many there were in a second.
    pub(super) async fn end(mut self) -> anyhow::Result<Figure> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.task.join_next().await;
        ended.context("client-local: no bumps")??
    }
}

/// Who makes them.
pub(super) struct Bumper {
    table: Client,
    sidecar: ApplicationServiceClient<Channel>,
    items: Arc<Items>,
    stop: Arc<AtomicBool>,
    made: AtomicU64,
}

impl Bumper {
    /// Who looks at the client's table and tells the sidecar.
    pub(super) fn new(
        table: Client,
        sidecar: ApplicationServiceClient<Channel>,
        items: &Arc<Items>,
    ) -> Self {
        Self {
            table,
            sidecar,
            items: Arc::clone(items),
            stop: Arc::default(),
            made: AtomicU64::new(0),
        }
    }

    /// Begins to bump.
    pub(super) fn begin(self, runtime: &Handle) -> Bumps {
        let stop = Arc::clone(&self.stop);
        let mut task = JoinSet::new();
        task.spawn_on(Arc::new(self).run(), runtime);
        Bumps { task, stop }
    }

    async fn run(self: Arc<Self>) -> anyhow::Result<Figure> {
        let begun = Instant::now();
        let mut random = SmallRng::seed_from_u64(SEED + 1);
        let mut due = tokio::time::interval(BUMP_EVERY);
        let mut calls = JoinSet::new();
        while !self.stop.load(Ordering::Relaxed) {
            due.tick().await;
            while let Some(call) = calls.try_join_next() {
                call??;
            }
            if calls.len() == BUMPS_MAX
                && let Some(call) = calls.join_next().await
            {
                call??;
            }
            let at = random.random_range(0..self.items.all.len());
            calls.spawn(Arc::clone(&self).one(at));
        }
        while let Some(call) = calls.join_next().await {
            call??;
        }
        let made = self.made.load(Ordering::Relaxed);
        Ok(Figure::rate(
            "client-local, bumps that came",
            made,
            begun.elapsed(),
        ))
    }

    /// One bump, after which the table must not tell what it told before.
    async fn one(self: Arc<Self>, at: usize) -> anyhow::Result<()> {
        let item = &self.items.all[at];
        let mut target = String::new();
        let mut token = || {
            let hit = self
                .table
                .local_look_up(&item.address, &item.classes, &mut target);
            hit.map(|hit| hit.token)
        };
        let old = token();
        bump(&self.sidecar, item).await?;
        let now = token();
        ensure!(
            old.is_none() || now != old,
            "client-local: {} has its old token after its bump was acknowledged",
            item.classes[0]
        );
        self.made.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}
