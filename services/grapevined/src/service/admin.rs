//! The admin service.

use std::sync::Arc;
use std::time::Duration;

use grapevine_core::id::{Lane, Time};
use grapevine_core::machine::Core;
use grapevine_core::machine::effects::{Forget, Reply};
use grapevine_core::names::NodeId;
use grapevine_proto::v1;
use grapevine_proto::v1::admin_service_server::AdminService;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};

use super::writes::mistaken;
use crate::engine::{Call, Engine};
use crate::telemetry::readings;
use crate::wire;

/// The longest drain that may be asked for; `drain.timeout` has the same limit.
const DRAIN_MAX: Duration = Duration::from_hours(1);

/// How long the machine may take to take note of a request to forget.
const FORGET_WAIT: Duration = Duration::from_secs(5);

/// The admin service.
pub(crate) struct Admin {
    pub(crate) engine: Engine,
    pub(crate) cluster: String,
    pub(crate) peer_address: String,
    pub(crate) gossip: Arc<grapevine_gossip::Gossip>,
    /// Asks the process to drain. One request is enough.
    pub(crate) drain: mpsc::Sender<Option<Duration>>,
}

#[tonic::async_trait]
impl AdminService for Admin {
    async fn status(
        &self,
        _: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusResponse>, Status> {
        let store = self.engine.store.clone();
        let (registrations, disk_bytes) =
            tokio::task::spawn_blocking(move || (store.registrations(), store.disk_bytes()))
                .await
                .map_err(|error| Status::internal(error.to_string()))?;
        let now = self.engine.clock.now();
        let health = self.gossip.health();
        let core = self.engine.core.read();
        let counts = readings::counts(&self.engine.counters, &core, &health.counters);
        let counts = counts.into_iter().map(|(name, (_, value))| (name, value));
        let (waiting, elections) = core.fills_open();
        let (leaves, members) = core.leaf_counts();
        let open = [
            ("intents_open", core.intents_open()),
            ("intents_held", core.intents_held()),
            ("fills_waiting", waiting),
            ("elections_open", elections),
            ("leaves_present", leaves),
            ("leaf_members", members),
        ];
        let counters = counts.chain(open.map(|(name, value)| (name, value as u64)));
        let counters = counters
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        let (freshness, freshness_reason) = self.freshness(&core, now);
        let policy_digest = core.config().policies.digest();
        let members = core.members(now);
        Ok(Response::new(v1::StatusResponse {
            node_id: core.config().node_id.as_str().to_owned(),
            cluster: self.cluster.clone(),
            incarnation: wire::incarnation(core.incarnation()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            freshness: freshness.into(),
            freshness_reason,
            uptime_ms: u64::try_from(now.since_start().as_millis()).unwrap_or(u64::MAX),
            classes: core.versions().len() as u64,
            classes_max: core.config().limits.classes_max as u64,
            registrations,
            origins: core.progress().len() as u64,
            missing_events: core.progress().missing(),
            policy_digest,
            policy_mismatch: members
                .iter()
                .filter(|member| {
                    member.hello.policy_digest != policy_digest && member.hello.policy_digest != 0
                })
                .map(|member| member.hello.node_id.as_str().to_owned())
                .collect(),
            disk_bytes,
            counters,
            view: core.roster().number,
            seats: u32::try_from(core.roster().seats.len()).unwrap_or(u32::MAX),
        }))
    }

    async fn members(
        &self,
        _: Request<v1::MembersRequest>,
    ) -> Result<Response<v1::MembersResponse>, Status> {
        let now = self.engine.clock.now();
        let core = self.engine.core.read();
        let digest = core.config().policies.digest();
        let own = core.progress().lane(core.incarnation(), Lane::Bump);
        let mut members = vec![v1::Member {
            node_id: core.config().node_id.as_str().to_owned(),
            incarnation: wire::incarnation(core.incarnation()),
            peer_address: self.peer_address.clone(),
            state: v1::MemberState::Self_.into(),
            head: own.map_or(0, grapevine_core::progress::LaneProgress::head),
            watermark: own.map_or(0, grapevine_core::progress::LaneProgress::watermark),
            policy_agrees: true,
            seated: core
                .roster()
                .seats_run(&core.config().node_id, core.incarnation()),
            reason: self.freshness(&core, now).1,
            ..Default::default()
        }];
        let known = core.members(now);
        // Who has a seat and was not met since this sidecar's start is a member all the same.
        let unmet = core.roster().seats.iter().filter(|(node, _)| {
            **node != core.config().node_id && known.iter().all(|view| view.hello.node_id != **node)
        });
        let reason = |node: &NodeId| core.why_not_granted(node, now).unwrap_or_default();
        members.extend(unmet.map(|(node, run)| wire::admin::unmet(node, *run, reason(node))));
        members.extend(known.into_iter().map(|view| {
            let reason = reason(&view.hello.node_id);
            wire::admin::member(view, digest, core.roster(), reason)
        }));
        members.sort_by(|a, b| a.node_id.cmp(&b.node_id));
        let view = core.roster().number;
        Ok(Response::new(v1::MembersResponse { members, view }))
    }

    async fn forget(
        &self,
        request: Request<v1::ForgetRequest>,
    ) -> Result<Response<v1::ForgetResponse>, Status> {
        let v1::ForgetRequest { node_id, alone } = request.into_inner();
        let node_id = NodeId::parse(&node_id)
            .map_err(|error| wire::status::invalid("node_id", error.to_string()))?;
        let forget = Forget { node_id, alone };
        let call = self.engine.call(Call::Forget(forget), None, FORGET_WAIT);
        match call.await?.reply {
            Reply::Forgotten { alone } => Ok(Response::new(v1::ForgetResponse { alone })),
            Reply::Refused(refusal) => Err(wire::status::refusal(&refusal)),
            _ => Err(mistaken("a request to forget")),
        }
    }

    async fn drain(
        &self,
        request: Request<v1::DrainRequest>,
    ) -> Result<Response<v1::DrainResponse>, Status> {
        let millis = request.into_inner().timeout_ms;
        let bound = (millis > 0).then(|| Duration::from_millis(millis.into()));
        if bound.is_some_and(|bound| bound > DRAIN_MAX) {
            let limit = DRAIN_MAX.as_millis();
            let reason = format!("{millis} ms; the limit is {limit} ms");
            return Err(wire::status::invalid("timeout_ms", reason));
        }
        // A full queue means that a drain is asked for already.
        let _ = self.drain.try_send(bound);
        Ok(Response::new(v1::DrainResponse {}))
    }
}

impl Admin {
    /// What this sidecar can show of its knowledge, and why it is not more.
    fn freshness(&self, core: &Core, now: Time) -> (v1::Freshness, String) {
        let (freshness, mut reason) = wire::freshness(core.freshness(now));
        // Who is not connected is told why, if that is why.
        if let Some(in_use) = self.engine.in_use.read().as_ref()
            && freshness != v1::Freshness::Fresh
        {
            reason = format!("{in_use}; {reason}");
        }
        (freshness, reason)
    }
}
