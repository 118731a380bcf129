//! Leaves of the scripted sidecar: lists by the text of their names, of which the tests say what is in them.

use bytes::Bytes;
use grapevine_client::v1;
use parking_lot::Mutex;
use tonic::{Request, Response, Status};

use super::rpcs::invalid;
use super::{Method, State, answer};

/// What the fake has of its one leaf, and what it was told.
#[expect(
    clippy::struct_excessive_bools,
    reason = "switches of a script, each by itself"
)]
#[derive(Debug, Default)]
pub(crate) struct Leaves {
    /// Ids and versions, in order; `None` is absent.
    pub(crate) members: Option<Vec<(String, u64)>>,
    /// These are only the first ones.
    pub(crate) partial: bool,
    /// It would have the leaf loaded although it has the page.
    pub(crate) refill: bool,
    /// Another caller loads it.
    pub(crate) loading: bool,
    /// The right that was given, and what came with it.
    load: Option<u8>,
    loads: u8,
    gathered: Vec<v1::IndexRow>,
    /// A change came that could not be followed.
    pub(crate) condemn: bool,
    pub(crate) bypass: bool,
    pub(crate) read_primary: bool,
    pub(crate) reads: Vec<v1::IndexReadRequest>,
    pub(crate) fills: Vec<v1::IndexFillRequest>,
    pub(crate) prunes: Vec<v1::IndexPruneRequest>,
}

fn place(id: &str) -> Bytes {
    format!("at {id}").into()
}

fn number_at(place: &[u8]) -> Option<u32> {
    let id = place.strip_prefix(b"at ")?;
    std::str::from_utf8(id).unwrap().parse().ok()
}

fn members_of(ids: &[(String, u64)]) -> Vec<v1::IndexMember> {
    let members = ids.iter().map(|(id, version)| v1::IndexMember {
        id: id.clone(),
        version: *version,
        place: place(id),
    });
    members.collect()
}

impl Leaves {
    /// Begins anew.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }

    fn read(&mut self, request: &v1::IndexReadRequest, evidence: Bytes) -> v1::IndexReadResponse {
        let mut response = v1::IndexReadResponse::default();
        if self.bypass {
            response.set_state(v1::IndexState::Bypass);
            return response;
        }
        response.set_state(v1::IndexState::Absent);
        let limit = request.limit as usize;
        if let Some(members) = &self.members {
            // Also where the member that the cursor names is gone: members are in the order of their numbers.
            let past = number_at(&request.cursor);
            let behind = |member: &(String, u64)| Some(member.0.parse().unwrap()) > past;
            let start = members.iter().position(behind).unwrap_or(members.len());
            let start = (start + request.offset as usize).min(members.len());
            let end = (start + limit).min(members.len());
            let page = &members[start..end];
            response.set_state(v1::IndexState::Present);
            response.members = members_of(page);
            response.complete = page.len() == limit || !self.partial;
            response.more = end < members.len() || self.partial;
            response.next_cursor = page.last().map(|(id, _)| place(id)).unwrap_or_default();
            response.evidence = evidence;
        }
        if self.refill || !response.complete {
            let mut turn = v1::IndexTurn::default();
            if self.loading || self.load.is_some() {
                turn.retry_after_ms = 1;
            } else {
                self.loads += 1;
                self.load = Some(self.loads);
                turn.load = Bytes::from(vec![self.loads]);
                turn.lease_ms = 60_000;
                turn.read_primary = self.read_primary;
            }
            response.turns.push(turn);
        }
        response
    }

    fn fill(&mut self, request: &v1::IndexFillRequest) -> v1::IndexFillOutcome {
        if self.load.is_none_or(|load| *request.load != [load]) {
            return v1::IndexFillOutcome::Over;
        }
        if self.condemn {
            self.load = None;
            return v1::IndexFillOutcome::Condemned;
        }
        self.gathered.extend(request.rows.clone());
        if request.more {
            return v1::IndexFillOutcome::More;
        }
        self.load = None;
        self.refill = false;
        self.partial = request.partial;
        let rows = std::mem::take(&mut self.gathered).into_iter();
        self.members = Some(rows.map(|row| (row.id, row.version)).collect());
        v1::IndexFillOutcome::Stored
    }

    fn prune(&mut self, places: &[Bytes]) -> u32 {
        let Some(members) = &mut self.members else {
            return 0;
        };
        let before = members.len();
        members.retain(|(id, _)| !places.contains(&place(id)));
        u32::try_from(before - members.len()).unwrap()
    }
}

impl State {
    pub(crate) fn leaves(&self) -> &Mutex<Leaves> {
        &self.leaves
    }

    pub(super) async fn read_leaf(
        &self,
        request: Request<v1::IndexReadRequest>,
    ) -> Result<Response<v1::IndexReadResponse>, Status> {
        let instead = self.play(Method::IndexRead).await?;
        let request = request.into_inner();
        self.check_session(request.session.as_ref())?;
        if request.leaf.as_ref().unwrap().table == "forbidden" {
            return Err(invalid("leaf.table", "forbidden"));
        }
        let response = {
            let mut leaves = self.leaves.lock();
            let mut response = leaves.read(&request, self.incarnation.clone());
            response.set_freshness(v1::Freshness::Fresh);
            leaves.reads.push(request);
            response
        };
        answer(instead, response).await
    }

    pub(super) async fn fill_leaf(
        &self,
        request: Request<v1::IndexFillRequest>,
    ) -> Result<Response<v1::IndexFillResponse>, Status> {
        let instead = self.play(Method::IndexFill).await?;
        let request = request.into_inner();
        let outcome = {
            let mut leaves = self.leaves.lock();
            let outcome = leaves.fill(&request).into();
            leaves.fills.push(request);
            outcome
        };
        answer(instead, v1::IndexFillResponse { outcome }).await
    }

    pub(super) async fn prune_leaf(
        &self,
        request: Request<v1::IndexPruneRequest>,
    ) -> Result<Response<v1::IndexPruneResponse>, Status> {
        let instead = self.play(Method::IndexPrune).await?;
        let request = request.into_inner();
        let removed = {
            let mut leaves = self.leaves.lock();
            let ours = request.evidence == self.incarnation;
            let removed = if ours {
                leaves.prune(&request.places)
            } else {
                0
            };
            leaves.prunes.push(request);
            removed
        };
        answer(instead, v1::IndexPruneResponse { removed }).await
    }
}
