//! What a session holds in memory, looked at from inside.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::super::{QUEUE_REQUESTS_MAX, Settings};
use super::*;
use crate::memcached::wire::encode_set_line;

const VALUE_BYTES: usize = 200 << 10;

fn worker() -> (mpsc::Sender<Request>, Worker) {
    let (sender, queue) = mpsc::channel(QUEUE_REQUESTS_MAX);
    let settings = Settings {
        address: Arc::new("127.0.0.1:1".parse().unwrap()),
        timeout: Duration::from_secs(5),
        value_bytes_max: VALUE_BYTES,
    };
    let worker = Worker {
        server: "stub".to_owned(),
        settings,
        queue,
        down: Arc::default(),
    };
    (sender, worker)
}

fn set(number: usize, value: &Bytes) -> (Request, oneshot::Receiver<Result<Reply, CacheError>>) {
    let (sender, receiver) = oneshot::channel();
    let request = Request {
        kind: Kind::Set,
        head: encode_set_line(&format!("k{number}"), value.len(), Duration::from_secs(9)),
        body: Some(value.clone()),
        answer: Answer::One(sender),
    };
    (request, receiver)
}

#[tokio::test]
async fn g10_a_batch_of_large_values_is_encoded_as_it_is_written() {
    let (_sender, mut worker) = worker();
    let (ours, _theirs) = tokio::io::duplex(1 << 10);
    let mut session = Session::new(&mut worker, Box::new(ours));
    let value = Bytes::from(vec![b'v'; VALUE_BYTES]);
    let (requests, _receivers): (Vec<_>, Vec<_>) =
        (0..128).map(|number| set(number, &value)).unzip();
    session.taken.extend(requests);
    let mut turns = 0;
    while !session.taken.is_empty() {
        session.encode();
        assert!(
            session.unwritten.len() <= UNWRITTEN_BYTES_MAX + VALUE_BYTES + 100,
            "{} bytes in turn {turns}",
            session.unwritten.len()
        );
        assert!(!session.may_encode() || session.taken.is_empty());
        // As if all of it was written.
        session.unwritten.clear();
        turns += 1;
    }
    assert_eq!((turns, session.waiting.len()), (64, 128));
    assert!(session.unwritten.capacity() > IDLE_BUFFER_BYTES_MAX);
    session.make_room();
    assert!(
        session.unwritten.capacity() <= IDLE_BUFFER_BYTES_MAX,
        "not kept"
    );
}

#[tokio::test]
async fn requests_that_were_taken_and_not_sent_are_told_how_the_session_ended() {
    let (sender, mut worker) = worker();
    let (ours, theirs) = tokio::io::duplex(1 << 10);
    let session = Session::new(&mut worker, Box::new(ours));
    let value = Bytes::from(vec![b'v'; VALUE_BYTES]);
    let (requests, receivers): (Vec<_>, Vec<_>) = (0..20).map(|number| set(number, &value)).unzip();
    for request in requests {
        sender.try_send(request).map_err(|_| "full").unwrap();
    }
    let closing = tokio::spawn(async move {
        let mut theirs = theirs;
        let mut some = [0; 100];
        theirs.read_exact(&mut some).await.unwrap();
    });
    assert!(matches!(session.run().await, End::Failed { .. }));
    closing.await.unwrap();
    for receiver in receivers {
        let told = receiver.await.expect("an answer, not silence");
        assert!(
            matches!(told, Err(CacheError::Unreachable { .. })),
            "{told:?}"
        );
    }
}
