//! A sidecar in memory: versions, stamps and policies as the contract has them, and a script of failures.
//!
//! Every class has the sequence of its latest bump; a token is a hash of those of a class list, root to class; a lease is
//! the sequence at resolve, or at the opening of the snapshot that the look-up names. The first segment of the first class
//! picks the policy. The server runs on a runtime of its own, so that stopping it breaks its connections as the end of a
//! process would.

mod heard;
mod leaves;
mod rpcs;
mod tables;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use grapevine_client::v1::admin_service_server::AdminServiceServer;
use grapevine_client::v1::application_service_server::ApplicationServiceServer;
use grapevine_client::{Session, v1};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, broadcast};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

pub(crate) use self::heard::Heard;
use self::heard::Noting;
use self::leaves::Leaves;
use self::rpcs::invalid;
use self::tables::Tables;

/// Items on a page of the classes below `paged` and `paged_registered`.
pub(crate) const PAGE_SIZE: u32 = 10;
/// The longest request that it takes: the least that a real one can be told to take.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// The most targets of one `Resolve`.
pub(crate) const TARGETS_MAX: usize = 10_000;
/// The TTL of every policy.
pub(crate) const POLICY_TTL: Duration = Duration::from_mins(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Method {
    Resolve,
    OpenSnapshot,
    Commit,
    Invalidate,
    Begin,
    CommitWrite,
    Abort,
    Acquire,
    Register,
    Explain,
    ReportReads,
    IndexRead,
    IndexFill,
    IndexPrune,
}

/// What a method does instead of its work, once.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    Status(Code),
    /// Has no room, and says when to come back.
    NoRoom(Duration),
    /// Never answers.
    Hang,
    /// Does its work, and answers this.
    After(Code),
    /// Does its work, and never answers.
    AfterHang,
    /// Waits for a permit, then works.
    Hold(Arc<Semaphore>),
    /// Waits for a permit, then works, and answers this.
    HoldAfter(Arc<Semaphore>, Code),
    /// Works, and keeps the answer back until it may go.
    Late(Arc<Late>),
}

/// An answer that is under way for long.
#[derive(Debug)]
pub(crate) struct Late {
    /// Gets a permit once the work is done.
    pub(crate) worked: Semaphore,
    /// A permit lets the answer go.
    pub(crate) go: Semaphore,
}

impl Late {
    pub(crate) fn new() -> Arc<Self> {
        let [worked, go] = [(); 2].map(|()| Semaphore::new(0));
        Arc::new(Self { worked, go })
    }

    /// Waits until the work is done.
    pub(crate) async fn worked(&self) {
        self.worked.acquire().await.unwrap().forget();
    }
}

/// What the caller of a call that did its work gets instead of the answer.
enum Instead {
    Status(Status),
    Nothing,
    Late(Arc<Late>),
}

/// The answer, or what the script has instead.
async fn answer<T>(instead: Option<Instead>, answer: T) -> Result<Response<T>, Status> {
    match instead {
        None => Ok(Response::new(answer)),
        Some(Instead::Status(status)) => Err(status),
        Some(Instead::Nothing) => std::future::pending().await,
        Some(Instead::Late(late)) => {
            late.worked.add_permits(1);
            late.go.acquire().await.unwrap().forget();
            Ok(Response::new(answer))
        }
    }
}

#[derive(Debug)]
pub(crate) struct State {
    /// Itself, for tasks that outlast a call.
    this: Weak<Self>,
    incarnation: Bytes,
    versions: Mutex<Versions>,
    script: Mutex<HashMap<Method, VecDeque<Reply>>>,
    calls: Mutex<HashMap<Method, u64>>,
    pub(crate) bypass: AtomicBool,
    /// Policy says `fill = "one"`.
    pub(crate) elect: AtomicBool,
    /// It cannot show that it is fresh, and policy serves all the same.
    pub(crate) unknown: AtomicBool,
    pub(crate) resolve_items: AtomicU64,
    /// The session of the last look-ups.
    pub(crate) resolve_session: Mutex<Option<v1::Session>>,
    pub(crate) committed: Mutex<Vec<v1::Fill>>,
    /// The receipt timeouts of the invalidations, in milliseconds.
    pub(crate) receipt_timeouts: Mutex<Vec<u32>>,
    /// How long callers said that they would wait for their turn to fill, in milliseconds.
    pub(crate) turn_waits: Mutex<Vec<u32>>,
    /// Writes begun, and how each ended.
    pub(crate) writes: Mutex<Vec<Write>>,
    /// What was reported of reads.
    pub(crate) reports: Mutex<Vec<v1::ReportReadsRequest>>,
    /// Commits by rows.
    pub(crate) row_commits: Mutex<Vec<v1::RowChangedRequest>>,
    /// What every look-up says may be served stale.
    pub(crate) stale: Mutex<Vec<v1::StaleTarget>>,
    leaves: Mutex<Leaves>,
    pub(crate) tables: Mutex<Tables>,
    /// Look-ups are answered as by a run that has no table of theirs.
    pub(crate) foreign: AtomicBool,
    heard: Mutex<Vec<Heard>>,
    news: broadcast::Sender<v1::WatchResponse>,
}

/// A write that was begun.
#[derive(Debug, Clone)]
pub(crate) struct Write {
    pub(crate) begun: v1::BeginWriteRequest,
    pub(crate) ended: Ended,
}

/// How a write ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Ended {
    Open,
    Committed(v1::InvalidateRequest),
    Aborted,
}

#[derive(Debug, Default)]
struct Versions {
    sequence: u64,
    bumps: BTreeMap<String, u64>,
    directory: BTreeMap<(String, String), u64>,
}

impl Versions {
    fn latest(&self, class: &str) -> Vec<u64> {
        let ends = class
            .match_indices('/')
            .map(|(at, _)| at)
            .chain([class.len()]);
        ends.map(|end| self.bumps.get(&class[..end]).copied().unwrap_or(0))
            .collect()
    }

    fn token(&self, classes: &[String]) -> u64 {
        let mut hasher = DefaultHasher::new();
        for class in classes {
            self.latest(class).hash(&mut hasher);
        }
        hasher.finish()
    }
}

/// A running sidecar; dropping it ends it.
pub(crate) struct Fake {
    pub(crate) state: Arc<State>,
    pub(crate) endpoint: String,
    dir: Option<tempfile::TempDir>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Fake {
    /// On a Unix socket.
    pub(crate) fn unix() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let endpoint = format!("unix:{}", dir.path().join("app.sock").display());
        let mut fake = Self {
            state: State::new(1),
            endpoint,
            dir: Some(dir),
            runtime: None,
        };
        fake.start();
        fake
    }

    /// On loopback TCP.
    pub(crate) fn tcp() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut fake = Self {
            state: State::new(2),
            endpoint: listener.local_addr().unwrap().to_string(),
            dir: None,
            runtime: None,
        };
        drop(listener);
        fake.start();
        fake
    }

    /// Starts it (again), with the versions it had.
    pub(crate) fn start(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let application = ApplicationServiceServer::from_arc(Arc::clone(&self.state))
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        let admin = AdminServiceServer::from_arc(Arc::clone(&self.state));
        let server = tonic::transport::Server::builder()
            .add_service(self.noting(application))
            .add_service(self.noting(admin));
        let _guard = runtime.enter();
        if let Some(dir) = &self.dir {
            let path = dir.path().join("app.sock");
            let _ = std::fs::remove_file(&path);
            let listener = tokio::net::UnixListener::bind(path).unwrap();
            runtime.spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
        } else {
            let listener = std::net::TcpListener::bind(&self.endpoint).unwrap();
            listener.set_nonblocking(true).unwrap();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            // Without it every answer would wait for a delayed acknowledgement.
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            runtime.spawn(server.serve_with_incoming(incoming));
        }
        self.runtime = Some(runtime);
    }

    fn noting<S>(&self, service: S) -> Noting<S> {
        let state = Arc::clone(&self.state);
        Noting { service, state }
    }

    /// Ends it as the end of a process would.
    pub(crate) fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Joining the worker closes its sockets before this returns.
            std::thread::spawn(move || runtime.shutdown_timeout(Duration::from_secs(5)))
                .join()
                .unwrap();
        }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop();
    }
}

impl State {
    fn new(id: u8) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            this: Weak::clone(this),
            incarnation: Bytes::from(vec![id; 16]),
            versions: Mutex::default(),
            script: Mutex::default(),
            calls: Mutex::default(),
            bypass: AtomicBool::new(false),
            elect: AtomicBool::new(false),
            unknown: AtomicBool::new(false),
            resolve_items: AtomicU64::new(0),
            resolve_session: Mutex::default(),
            committed: Mutex::default(),
            receipt_timeouts: Mutex::default(),
            turn_waits: Mutex::default(),
            writes: Mutex::default(),
            reports: Mutex::default(),
            row_commits: Mutex::default(),
            stale: Mutex::default(),
            leaves: Mutex::default(),
            tables: Mutex::default(),
            foreign: AtomicBool::new(false),
            heard: Mutex::default(),
            news: broadcast::channel(8).0,
        })
    }

    pub(crate) fn next(&self, method: Method, reply: Reply) {
        self.script
            .lock()
            .entry(method)
            .or_default()
            .push_back(reply);
    }

    pub(crate) fn calls(&self, method: Method) -> u64 {
        self.calls.lock().get(&method).copied().unwrap_or(0)
    }

    /// How many bumps there have been.
    pub(crate) fn bumps(&self) -> u64 {
        self.versions.lock().sequence
    }

    /// Bumps without an RPC, as if another sidecar's event had arrived.
    pub(crate) fn bump(&self, class: &str) -> u64 {
        let mut versions = self.versions.lock();
        versions.sequence += 1;
        let sequence = versions.sequence;
        versions.bumps.insert(class.to_owned(), sequence);
        // Before anybody is answered by it.
        self.tables.lock().tell(class);
        drop(versions);
        let event = self.event(sequence);
        let bump = v1::WatchBump {
            event: Some(event),
            classes: vec![class.to_owned()],
            r#match: v1::Match::Any.into(),
        };
        let _ = self.news.send(v1::WatchResponse {
            kind: Some(v1::watch_response::Kind::Bump(bump)),
        });
        sequence
    }

    fn event(&self, sequence: u64) -> v1::EventId {
        v1::EventId {
            incarnation: self.incarnation.clone(),
            sequence,
        }
    }

    fn session_token(&self, sequence: u64) -> Bytes {
        let mut token = vec![1];
        token.extend(&self.incarnation);
        token.extend(sequence.to_be_bytes());
        token.into()
    }

    /// Counts the call and plays its part of the script; what is returned replaces the answer.
    async fn play(&self, method: Method) -> Result<Option<Instead>, Status> {
        *self.calls.lock().entry(method).or_default() += 1;
        let reply = self
            .script
            .lock()
            .get_mut(&method)
            .and_then(VecDeque::pop_front);
        if let Some(Reply::Hold(permits) | Reply::HoldAfter(permits, _)) = &reply {
            permits.acquire().await.unwrap().forget();
        }
        match reply {
            None | Some(Reply::Hold(_)) => Ok(None),
            Some(Reply::Status(code)) => Err(Status::new(code, "scripted")),
            Some(Reply::NoRoom(after)) => Err(Status::with_error_details(
                Code::ResourceExhausted,
                "scripted",
                ErrorDetails::with_retry_info(Some(after)),
            )),
            Some(Reply::Hang) => std::future::pending().await,
            Some(Reply::After(code) | Reply::HoldAfter(_, code)) => Ok(Some(Instead::Status(
                Status::new(code, "scripted, afterwards"),
            ))),
            Some(Reply::AfterHang) => Ok(Some(Instead::Nothing)),
            Some(Reply::Late(late)) => Ok(Some(Instead::Late(late))),
        }
    }

    /// A session that came with the call, as gRPC metadata.
    fn check_carried<M>(&self, request: &Request<M>) -> Result<(), Status> {
        let carried = Session::from_headers(request.metadata().as_ref()).unwrap();
        let session = v1::Session {
            tokens: carried.tokens().to_vec(),
            wait_ms: 0,
        };
        self.check_session(Some(&session))
    }

    fn check_session(&self, session: Option<&v1::Session>) -> Result<(), Status> {
        let sequence = self.versions.lock().sequence;
        let seen = |token: &Bytes| (1..=sequence).any(|seen| *token == self.session_token(seen));
        match session {
            Some(session) if !session.tokens.iter().all(seen) => {
                let details = ErrorDetails::with_error_info("SESSION_BEHIND", "grapevine.v1", []);
                Err(Status::with_error_details(
                    Code::DeadlineExceeded,
                    "not applied yet",
                    details,
                ))
            }
            _ => Ok(()),
        }
    }

    fn resolve_item(
        &self,
        index: usize,
        item: &v1::ResolveItem,
        snapshot: Option<&Bytes>,
    ) -> Result<v1::Resolution, Status> {
        // What only the sidecar can know: that an address is too long once it is decorated.
        if item.address.len() > 230 {
            return Err(invalid(
                &format!("items[{index}].address"),
                "too long once decorated",
            ));
        }
        let first = &item.classes[0];
        let policy = first.split('/').next().unwrap();
        let versions = self.versions.lock();
        let (strategy, page_size) = match policy {
            "registered" => (v1::Strategy::Registered, None),
            "paged_registered" => (v1::Strategy::Registered, Some(PAGE_SIZE)),
            "bucketed" => (v1::Strategy::Bucketed, None),
            "ttl" => (v1::Strategy::Ttl, None),
            "paged" => (v1::Strategy::Versioned, Some(PAGE_SIZE)),
            _ => (v1::Strategy::Versioned, None),
        };
        // Bumps do not concern `ttl`.
        let token = match strategy {
            v1::Strategy::Ttl => 0,
            _ => versions.token(&item.classes),
        };
        let decorate = |address: String| match strategy {
            v1::Strategy::Versioned => format!("{address}~1{token:016x}"),
            // One bucket: every address of a class collides with every other one.
            v1::Strategy::Bucketed => format!("{first}~b1.0"),
            _ => address,
        };
        let targets = match (item.page, page_size) {
            (None, _) => vec![v1::Target {
                address: decorate(item.address.clone()),
                ..v1::Target::default()
            }],
            (Some(_), None) => {
                return Err(invalid(
                    &format!("items[{index}].page"),
                    "the policy has no paging",
                ));
            }
            (Some(page), Some(size)) => plan(page, size)
                .into_iter()
                .map(|target| v1::Target {
                    address: decorate(format!("{}~p{size}.{}", item.address, target.page_index)),
                    ..target
                })
                .collect(),
        };
        let stamp = match snapshot {
            None => Some(versions.sequence),
            Some(snapshot) => <[u8; 8]>::try_from(&snapshot[..])
                .ok()
                .map(u64::from_be_bytes),
        };
        let classes = item.classes.iter();
        let changed = classes
            .flat_map(|class| versions.latest(class))
            .any(|bump| stamp.is_none_or(|stamp| bump > stamp));
        Ok(v1::Resolution {
            targets,
            token,
            lease: Bytes::copy_from_slice(&stamp.unwrap_or(0).to_be_bytes()),
            read_primary: false,
            fill_forbidden: stamp.is_none() || (changed && strategy != v1::Strategy::Ttl),
            lease_ms: 10_000,
            strategy: strategy.into(),
            ttl_ms: u64::try_from(POLICY_TTL.as_millis()).unwrap(),
            envelope: strategy != v1::Strategy::Versioned,
            commit_required: strategy == v1::Strategy::Registered
                || self.elect.load(Ordering::SeqCst),
            bypass: self.bypass.load(Ordering::SeqCst),
            elect: self.elect.load(Ordering::SeqCst),
            stale: self.stale.lock().clone(),
        })
    }

    fn commit(&self, fill: &v1::Fill) -> v1::FillVerdict {
        let mut versions = self.versions.lock();
        let stamp = u64::from_be_bytes(fill.lease.as_ref().try_into().unwrap());
        let classes: Vec<String> = fill
            .classes
            .iter()
            .chain(&fill.added_classes)
            .cloned()
            .collect();
        let bumped = classes
            .iter()
            .flat_map(|class| versions.latest(class))
            .any(|bump| bump > stamp);
        if bumped {
            return v1::FillVerdict {
                accepted: false,
                reason: v1::CondemnReason::Bumped.into(),
                token: 0,
            };
        }
        for class in &classes {
            versions
                .directory
                .insert((class.clone(), fill.address.clone()), fill.ttl_ms);
        }
        self.committed.lock().push(fill.clone());
        v1::FillVerdict {
            accepted: true,
            reason: v1::CondemnReason::Unspecified.into(),
            token: versions.token(&classes),
        }
    }
}

fn plan(page: v1::Page, size: u32) -> Vec<v1::Target> {
    let wide = u64::from(size);
    let end = page.offset + u64::from(page.limit);
    let mut targets = Vec::new();
    for index in page.offset / wide..=(end - 1) / wide {
        let start = index * wide;
        let skip = page.offset.saturating_sub(start);
        targets.push(v1::Target {
            address: String::new(),
            page_index: index,
            page_size: size,
            skip: u32::try_from(skip).unwrap(),
            take: u32::try_from((end - start).min(wide) - skip).unwrap(),
        });
    }
    targets
}
