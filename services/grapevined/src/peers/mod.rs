//! Links between sidecars.
//!
//! Each sidecar dials every other one and says all it has to say on the stream it dialled, so a pair has one stream each
//! way. A link has two queues, urgent before bulk, bounded in messages and in bytes; when one is full its message is dropped and
//! counted, and the heads that travel with every grant lead to a pull. Serving a pull waits for room instead. Serving a snapshot also
//! waits until the receiver has taken what it was sent, which it says on the answering side of the stream: a slow disk
//! there must not stop the stream, which carries its grants and bumps, too.
//!
//! Whatever goes to a link is cut by its bytes on the wire (`wire::peer::cut`); a message that the other side refuses
//! would be asked for again, and break the link again, for ever.

mod connect;
mod dial;
mod introduced;
mod link;
mod refusals;
mod serve;
mod server;

pub(crate) use dial::{Dialler, run as run_dialler};
pub(crate) use introduced::Introduced;
pub(crate) use link::{Link, LinkId, LinkSender};
pub(crate) use refusals::Refusals;
pub(crate) use serve::{log as serve_log, snapshot as serve_snapshot};
pub(crate) use server::PeerServer;
