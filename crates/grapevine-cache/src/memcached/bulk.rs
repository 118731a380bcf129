//! Operations on many keys: cut into parts of one server each, a bounded number of which are under way at a time.

use std::collections::VecDeque;

use super::Shared;
use super::server::{Awaited, Server};
use super::wire::{Kind, Reply};
use crate::CacheError;

/// Parts of one bulk operation under way per connection; the others wait their turn.
const PARTS_PER_CONNECTION: usize = 4;

/// What a request line has beside its key, at most.
pub(super) const LINE_OVERHEAD_BYTES: usize = 8;

/// The places (among the operation's keys) of keys that one server holds.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) server: usize,
    pub(super) places: Vec<usize>,
}

/// A part and the replies to it, one per key.
pub(super) type Answered = (Part, Result<Vec<Reply>, CacheError>);

impl Shared {
    /// Sorts the places of keys by server and cuts them into parts.
    pub(super) fn parts_by_server(
        &self,
        places: impl IntoIterator<Item = usize>,
        server_of: impl Fn(usize) -> usize,
        keys_max: usize,
    ) -> Vec<Part> {
        let mut by_server = vec![Vec::new(); self.servers.len()];
        for place in places {
            by_server[server_of(place)].push(place);
        }
        let cut = |(server, places): (usize, Vec<usize>)| {
            let part = |places: &[usize]| Part {
                server,
                places: places.to_vec(),
            };
            places.chunks(keys_max).map(part).collect::<Vec<_>>()
        };
        by_server.into_iter().enumerate().flat_map(cut).collect()
    }

    /// Sends the parts and collects the replies to each.
    pub(super) async fn ask_many(
        &self,
        keys: &[String],
        parts: Vec<Part>,
        kind: Kind,
        encode: fn(&mut Vec<u8>, &str),
    ) -> Vec<Answered> {
        let connections: usize = self.servers.iter().map(Server::connection_count).sum();
        let under_way_max = connections * PARTS_PER_CONNECTION;
        let mut under_way = VecDeque::with_capacity(under_way_max.min(parts.len()));
        let mut answered = Vec::with_capacity(parts.len());
        for part in parts {
            if under_way.len() >= under_way_max {
                answered.extend(self.finish_oldest(&mut under_way).await);
            }
            let bytes: usize = part
                .places
                .iter()
                .map(|place| keys[*place].len() + LINE_OVERHEAD_BYTES)
                .sum();
            let mut head = Vec::with_capacity(bytes);
            for place in &part.places {
                encode(&mut head, &keys[*place]);
            }
            match self.servers[part.server]
                .send_many(kind, head, part.places.len())
                .await
            {
                Ok(awaited) => under_way.push_back((part, awaited)),
                Err(error) => answered.push((part, Err(error))),
            }
        }
        while let Some(oldest) = self.finish_oldest(&mut under_way).await {
            answered.push(oldest);
        }
        answered
    }

    async fn finish_oldest(
        &self,
        under_way: &mut VecDeque<(Part, Awaited<Vec<Reply>>)>,
    ) -> Option<Answered> {
        let (part, awaited) = under_way.pop_front()?;
        let replies = self.servers[part.server].answer(awaited).await;
        Some((part, replies))
    }
}
