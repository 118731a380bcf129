//! Listings: registered addresses and known classes, streamed in a stable order and resumable.
//!
//! A listing arrives in chunks. Each chunk says where to go on after it; a listing that broke is resumed by starting
//! another one with [`Listing::resume_at`].

use std::time::Duration;

use bytes::Bytes;
use grapevine_proto::v1;
use tonic::Streaming;

use crate::channel::{Gated, Link};
use crate::client::Client;
use crate::error::CallError;
use crate::names::check_class;
use crate::session::Session;

/// A listing under way.
#[derive(Debug)]
pub struct Listing<C> {
    client: Client,
    stream: Streaming<C>,
    deadline: Duration,
    resume_at: Bytes,
}

/// A chunk of a listing.
pub trait Chunk {
    /// What is listed.
    type Entry;

    /// The entries, and where to go on after them.
    fn split(self) -> (Vec<Self::Entry>, Bytes);
}

impl Chunk for v1::ListAddressesResponse {
    type Entry = v1::AddressEntry;

    fn split(self) -> (Vec<v1::AddressEntry>, Bytes) {
        (self.entries, self.next_page_token)
    }
}

impl Chunk for v1::ListClassesResponse {
    type Entry = v1::ClassEntry;

    fn split(self) -> (Vec<v1::ClassEntry>, Bytes) {
        (self.entries, self.next_page_token)
    }
}

impl<C: Chunk> Listing<C> {
    /// The next chunk, up to 1,000 entries; `None` at the end. Waits for the builder's `call_deadline` at most.
    pub async fn next_chunk(&mut self) -> Result<Option<Vec<C::Entry>>, CallError> {
        let link = self.client.own();
        let Ok(message) = tokio::time::timeout(self.deadline, self.stream.message()).await else {
            return Err(CallError::Deadline {
                endpoint: link.name().clone(),
                deadline: self.deadline,
            });
        };
        match message {
            Ok(None) => Ok(None),
            Ok(Some(chunk)) => {
                let (entries, resume_at) = chunk.split();
                self.resume_at = resume_at;
                Ok(Some(entries))
            }
            Err(status) => Err(failed(link, &status)),
        }
    }

    /// Everything that is left, in memory.
    pub async fn collect(mut self) -> Result<Vec<C::Entry>, CallError> {
        let mut all = Vec::new();
        while let Some(entries) = self.next_chunk().await? {
            all.extend(entries);
        }
        Ok(all)
    }

    /// Where another listing goes on after the last chunk; empty at the start and at the end.
    pub fn resume_at(&self) -> &Bytes {
        &self.resume_at
    }
}

fn failed(link: &Link, status: &tonic::Status) -> CallError {
    let error = CallError::from_status(link.name(), status);
    link.note(&error);
    error
}

impl Client {
    /// Lists the registered addresses at and below `class`, in byte order: at most `limit` of them, or all for 0, from
    /// where `resume_at` says, or from the start when it is empty.
    pub async fn list_addresses(
        &self,
        class: &str,
        limit: u64,
        resume_at: Bytes,
    ) -> Result<Listing<v1::ListAddressesResponse>, CallError> {
        self.list_addresses_in(&Session::new(), class, limit, resume_at)
            .await
    }

    /// The same, at a sidecar that has seen what `session` has, waiting for it as long as the session says.
    pub async fn list_addresses_in(
        &self,
        session: &Session,
        class: &str,
        limit: u64,
        resume_at: Bytes,
    ) -> Result<Listing<v1::ListAddressesResponse>, CallError> {
        check_class("class", class)?;
        let request = v1::ListAddressesRequest {
            class: class.to_owned(),
            limit,
            page_token: resume_at.clone(),
        };
        let mut application = self.own().application();
        let call = application.list_addresses(session.request(request));
        let deadline = self.settings().call_deadline + session.extra();
        let stream = self.own().call(Gated::Yes, deadline, call).await?;
        Ok(self.listing(stream, resume_at))
    }

    /// Lists the classes at and below `below` (all when it is empty) that were bumped or hold registrations; `limit` and
    /// `resume_at` as for [`list_addresses`](Self::list_addresses).
    pub async fn list_classes(
        &self,
        below: &str,
        limit: u64,
        resume_at: Bytes,
    ) -> Result<Listing<v1::ListClassesResponse>, CallError> {
        self.list_classes_in(&Session::new(), below, limit, resume_at)
            .await
    }

    /// The same, at a sidecar that has seen what `session` has, waiting for it as long as the session says.
    pub async fn list_classes_in(
        &self,
        session: &Session,
        below: &str,
        limit: u64,
        resume_at: Bytes,
    ) -> Result<Listing<v1::ListClassesResponse>, CallError> {
        if !below.is_empty() {
            check_class("below", below)?;
        }
        let request = v1::ListClassesRequest {
            below: below.to_owned(),
            limit,
            page_token: resume_at.clone(),
        };
        let mut application = self.own().application();
        let call = application.list_classes(session.request(request));
        let deadline = self.settings().call_deadline + session.extra();
        let stream = self.own().call(Gated::Yes, deadline, call).await?;
        Ok(self.listing(stream, resume_at))
    }

    fn listing<C>(&self, stream: Streaming<C>, resume_at: Bytes) -> Listing<C> {
        Listing {
            client: self.clone(),
            stream,
            deadline: self.settings().call_deadline,
            resume_at,
        }
    }
}
