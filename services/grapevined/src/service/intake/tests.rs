#![allow(clippy::unwrap_used, reason = "tests")]
use grapevine_proto::v1;
use http_body::Body as _;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::Code;
use tonic_types::StatusExt as _;

use super::*;

const MIB: usize = 1 << 20;

/// A body that says what it is told to say.
struct Told(mpsc::Receiver<Vec<u8>>);

impl http_body::Body for Told {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let next = ready!(self.0.poll_recv(cx));
        Poll::Ready(next.map(|bytes| Ok(Frame::data(bytes.into()))))
    }
}

fn room(bytes: usize) -> Intake {
    Intake::new(bytes, Arc::new(Counters::new()))
}

fn message(bytes: usize) -> Vec<u8> {
    let length = u32::try_from(bytes).unwrap().to_be_bytes();
    [&[0], &length[..], &vec![7; bytes]].concat()
}

/// A call, and how to have it say more.
struct Call {
    says: mpsc::Sender<Vec<u8>>,
    body: Body,
    _charge: Charge,
}

impl Call {
    fn begin(intake: &Intake) -> Self {
        Self::of(intake, false)
    }

    fn of(intake: &Intake, streams: bool) -> Self {
        Self::with(intake, http::Request::new(()), streams).unwrap()
    }

    fn with(intake: &Intake, head: http::Request<()>, streams: bool) -> Result<Self, Status> {
        let (says, told) = mpsc::channel(8);
        let (head, ()) = head.into_parts();
        let (body, charge) = intake.counted(&head, Body::new(Told(told)), streams)?;
        Ok(Self {
            says,
            body,
            _charge: charge,
        })
    }

    async fn say(&mut self, bytes: Vec<u8>) -> Result<(), Status> {
        self.says.send(bytes).await.unwrap();
        self.hear().await
    }

    async fn hear(&mut self) -> Result<(), Status> {
        let next = std::future::poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx)).await;
        next.unwrap().map(drop)
    }
}

#[tokio::test]
async fn g10_calls_under_way_are_bounded_in_bytes_and_their_room_comes_back() {
    let intake = room(16 * MIB);
    let mut calls = Vec::new();
    let mut refused = None;
    while refused.is_none() && calls.len() < 20 {
        let mut call = Call::begin(&intake);
        refused = call.say(message(MIB)).await.err();
        calls.push(call);
    }
    calls.pop();
    let refused = refused.unwrap();
    assert_eq!(
        calls.len(),
        13,
        "seven eighths of the room, and each has a head"
    );
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("limits.calls_bytes_max"));
    assert!(refused.message().contains("16777216"), "{refused}");
    assert!(refused.get_details_retry_info().is_some());
    assert_eq!(intake.counters.get(Counter::IntakeRejected), 1);
    // Small ones have their own.
    let mut small = Call::begin(&intake);
    small.say(message(1_000)).await.unwrap();
    // The body may be gone long before its call is answered.
    let Call {
        body,
        _charge: charge,
        ..
    } = calls.pop().unwrap();
    drop(body);
    Call::begin(&intake).say(message(MIB)).await.unwrap_err();
    drop(charge);
    Call::begin(&intake).say(message(MIB)).await.unwrap();
    drop(calls);
    // One larger than all the room is possible, alone.
    Call::begin(&intake).say(message(20 * MIB)).await.unwrap();
}

#[tokio::test]
async fn g10_a_message_is_charged_for_what_came_of_it_and_a_stream_for_its_last_one() {
    let intake = room(16 * MIB);
    let mut stream = Call::of(&intake, true);
    let large = message(8 * MIB);
    let (first, second) = large.split_at(3 * MIB);
    stream.say(first.to_vec()).await.unwrap();
    assert_eq!(intake.large.room.available_permits(), 14 * MIB - 3 * MIB);
    stream.say(second.to_vec()).await.unwrap();
    assert_eq!(
        intake.large.room.available_permits(),
        14 * MIB - large.len()
    );
    // Its handler asks for the next one: that one was dealt with.
    let next = std::future::poll_fn(|cx| {
        Poll::Ready(Pin::new(&mut stream.body).poll_frame(cx).is_pending())
    });
    assert!(next.await);
    assert_eq!(intake.large.room.available_permits(), 14 * MIB);
    stream.say(message(1_000)).await.unwrap();
    assert_eq!(intake.large.room.available_permits(), 14 * MIB);
    assert_eq!(intake.small.room.available_permits(), 2 * MIB - 1_005);
    stream.say(message(100)).await.unwrap();
    assert_eq!(intake.small.room.available_permits(), 2 * MIB - 105);
    drop(stream);
    assert_eq!(intake.small.room.available_permits(), 2 * MIB);
    // A call is asked for more at once, and its end is an empty frame: it is under way all the same.
    let mut call = Call::begin(&intake);
    call.say(message(1_000)).await.unwrap();
    call.say(Vec::new()).await.unwrap();
    assert_eq!(intake.small.room.available_permits(), 2 * MIB - 1_005);
}

#[tokio::test(start_paused = true)]
async fn g10_a_message_that_stalls_is_given_up_and_a_stream_between_two_is_not() {
    let intake = room(16 * MIB);
    let mut call = Call::begin(&intake);
    call.say(message(100)).await.unwrap();
    // It is whole, and its handler waits for the end of the body.
    let endless = tokio::time::timeout(10 * MESSAGE_WAIT, call.hear()).await;
    let endless = endless.unwrap().unwrap_err();
    assert_eq!(endless.code(), Code::DeadlineExceeded);
    assert!(endless.message().contains("its end did not"), "{endless}");
    drop(call);
    assert_eq!(intake.small.room.available_permits(), 2 * MIB);
    // What comes behind the only message is not let in at the price of that one.
    let mut call = Call::begin(&intake);
    call.say(message(1_000)).await.unwrap();
    let further = call.say(message(1)).await.unwrap_err();
    assert_eq!(further.code(), Code::InvalidArgument);
    let mut call = Call::of(&intake, true);
    call.say(message(100)).await.unwrap();
    let silent = tokio::time::timeout(2 * MESSAGE_WAIT, call.hear()).await;
    assert!(silent.is_err(), "{silent:?}");
    let begun = Instant::now();
    call.say(message(100)[..40].to_vec()).await.unwrap();
    tokio::time::advance(MESSAGE_WAIT / 2).await;
    // A few bytes more do not help.
    call.say(vec![7; 3]).await.unwrap();
    let stalled = tokio::time::timeout(10 * MESSAGE_WAIT, call.hear()).await;
    let stalled = stalled.unwrap().unwrap_err();
    assert_eq!(begun.elapsed(), MESSAGE_WAIT);
    assert_eq!(stalled.code(), Code::DeadlineExceeded);
    let message = stalled.message();
    assert!(
        message.contains("43 bytes of it came and 62 are missing"),
        "{message}"
    );
}

/// So much of a message that declares another length.
fn beginning(declared: usize, bytes: usize) -> Vec<u8> {
    let mut whole = message(declared);
    whole.truncate(bytes);
    whole
}

#[tokio::test]
async fn g10_half_sent_small_messages_give_way_to_whole_ones() {
    let intake = room(16 * MIB);
    let mut half_sent = Vec::new();
    for _ in 0..200 {
        let mut call = Call::begin(&intake);
        call.say(beginning(60_000, 50_000)).await.unwrap();
        half_sent.push(call);
    }
    let held = 2 * MIB - intake.small.room.available_permits();
    assert_eq!(held, 41 * 50_000, "it is full of the youngest");
    // Nobody who sends a whole one is kept out, and nobody else gives way than who must.
    for _ in 0..100 {
        let mut call = Call::begin(&intake);
        call.say(message(60_000)).await.unwrap();
    }
    assert_eq!(intake.counters.get(Counter::IntakeRejected), 200 - 41 + 1);
    for (number, call) in half_sent.iter_mut().enumerate() {
        let heard = tokio::time::timeout(Duration::ZERO, call.hear()).await;
        if number > 200 - 41 {
            assert!(heard.is_err(), "{number}: {heard:?}");
            continue;
        }
        let status = heard.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{number}");
        assert!(status.message().contains("limits.calls_bytes_max"));
        assert!(status.get_details_retry_info().is_some());
    }
    // One that did not give way becomes whole, and is not among them any more.
    half_sent[199].say(vec![7; 10_005]).await.unwrap();
    let mut calls = Vec::new();
    while intake.small.room.available_permits() >= 60_005 || calls.len() < 40 {
        let mut call = Call::begin(&intake);
        match call.say(message(60_000)).await {
            Ok(()) => calls.push(call),
            Err(_) => break,
        }
    }
    assert_eq!(
        calls.len(),
        33,
        "as many as fit beside the one that is whole"
    );
    half_sent[199].say(Vec::new()).await.unwrap();
}

#[tokio::test]
async fn g10_who_waits_for_the_rest_of_its_message_is_woken_when_it_gives_way() {
    let intake = room(16 * MIB);
    let mut call = Call::begin(&intake);
    call.say(beginning(60_000, 50_000)).await.unwrap();
    let waits = tokio::spawn(async move { call.hear().await });
    tokio::task::yield_now().await;
    let mut others = Vec::new();
    for _ in 0..34 {
        let mut other = Call::begin(&intake);
        other.say(message(61_000)).await.unwrap();
        others.push(other);
    }
    let gave_way = tokio::time::timeout(Duration::from_secs(10), waits).await;
    let status = gave_way.unwrap().unwrap().unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn g10_large_messages_take_no_room_of_small_ones_and_their_rest_is_reserved() {
    let intake = room(16 * MIB);
    let (small, large) = (2 * MIB, 14 * MIB);
    let mut first = Call::begin(&intake);
    first.say(beginning(MIB, 100)).await.unwrap();
    assert_eq!(intake.small.room.available_permits(), small);
    // A few bytes are no reason to be charged for less than the head was.
    assert_eq!(intake.large.room.available_permits(), large - HEAD_BYTES);
    drop(first);
    // Of forty that arrive at the same pace those that do not fit hear of it early, and the others become whole.
    let mut calls: Vec<_> = (0..40).map(|_| Call::begin(&intake)).collect();
    for (number, piece) in message(MIB).chunks(64 << 10).enumerate() {
        let mut still = Vec::new();
        for mut call in calls {
            match call.say(piece.to_vec()).await {
                Ok(()) => still.push(call),
                Err(status) => assert_eq!(number, 1, "{status}"),
            }
        }
        calls = still;
    }
    assert_eq!(calls.len(), 13);
    assert_eq!(intake.small.room.available_permits(), small);
}

#[tokio::test(start_paused = true)]
async fn g10_a_large_message_that_falls_behind_gives_way_and_one_that_keeps_its_pace_does_not() {
    let intake = room(16 * MIB);
    let mut slow = Vec::new();
    for _ in 0..3 {
        let mut call = Call::begin(&intake);
        call.say(beginning(4 * MIB, 100)).await.unwrap();
        call.say(vec![7; 100]).await.unwrap();
        slow.push(call);
    }
    let mut comes = Call::begin(&intake);
    let refused = comes.say(message(3 * MIB)).await.unwrap_err();
    assert_eq!(
        refused.code(),
        Code::ResourceExhausted,
        "nobody is behind yet"
    );
    tokio::time::advance(Duration::from_millis(900)).await;
    slow[1].say(vec![7; 2 * MIB]).await.unwrap();
    tokio::time::advance(Duration::from_millis(200)).await;
    let mut comes = Call::begin(&intake);
    comes.say(message(3 * MIB)).await.unwrap();
    let status = slow[0].hear().await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("200 bytes had come"), "{status}");
    let mut comes_too = Call::begin(&intake);
    comes_too.say(message(4 * MIB)).await.unwrap();
    slow[2].hear().await.unwrap_err();
    comes_too = Call::begin(&intake);
    comes_too.say(message(8 * MIB)).await.unwrap_err();
    slow[1].say(vec![7; 2 * MIB - 195]).await.unwrap();
}

#[test]
fn messages_are_told_apart_however_they_are_cut() {
    let sizes = [0, 3, 40, 0, 0, 17, 1];
    let bytes: Vec<u8> = sizes.iter().flat_map(|&size| message(size)).collect();
    let ends = sizes.iter().scan(0, |end, size| {
        *end += size + 5;
        Some(*end)
    });
    let ends: Vec<usize> = ends.collect();
    for cut in 1..=bytes.len() {
        let mut framing = Framing::default();
        let mut came = 0;
        for piece in bytes.chunks(cut) {
            framing.take(piece);
            came += piece.len();
            let whole = ends.iter().rev().find(|end| **end <= came);
            assert_eq!(
                framing.begun,
                came - whole.unwrap_or(&0),
                "cut {cut}, {came}"
            );
        }
        assert_eq!(framing.begun, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn g10_nothing_gives_way_in_vain() {
    let intake = room(16 * MIB);
    let mut whole = Vec::new();
    for _ in 0..10 {
        let mut call = Call::begin(&intake);
        call.say(message(MIB)).await.unwrap();
        whole.push(call);
    }
    let mut behind = Vec::new();
    for _ in 0..3 {
        let mut call = Call::begin(&intake);
        call.say(beginning(2 * MIB, MIB)).await.unwrap();
        behind.push(call);
    }
    tokio::time::advance(Duration::from_secs(5)).await;
    // All of them together have not room enough for this one, but for that one.
    Call::begin(&intake)
        .say(message(8 * MIB))
        .await
        .unwrap_err();
    for call in &mut behind {
        let heard = tokio::time::timeout(Duration::ZERO, call.hear()).await;
        assert!(heard.is_err(), "{heard:?}");
    }
    let rejected = || intake.counters.get(Counter::IntakeRejected);
    assert_eq!(rejected(), 1, "that one");
    let mut large = Call::begin(&intake);
    large.say(message(5 * MIB / 2)).await.unwrap();
    assert_eq!(rejected(), 3, "and those two");
    let mut gone = 0;
    for call in &mut behind {
        let heard = tokio::time::timeout(Duration::ZERO, call.hear()).await;
        gone += usize::from(heard.is_ok());
    }
    assert_eq!(gone, 2, "one MiB was free");
    drop((whole, large));
}

#[tokio::test]
async fn g10_a_message_is_charged_for_what_is_made_of_it() {
    let intake = room(64 * MIB);
    let fills = "/grapevine.v1.ApplicationService/CommitFill";
    let head = || http::Request::builder().uri(fills).body(()).unwrap();
    let mut call = Call::with(&intake, head(), false).unwrap();
    // Empty fills, of two bytes each on the wire.
    let mut empties = message(200_000);
    empties[5..]
        .chunks_mut(2)
        .for_each(|fill| fill.copy_from_slice(&[0x0a, 0]));
    let (first, second) = empties.split_at(100_005);
    call.say(first.to_vec()).await.unwrap();
    let large = |intake: &Intake| 56 * MIB - intake.large.room.available_permits();
    assert_eq!(large(&intake), 50_000 * 288 / 4);
    call.say(second.to_vec()).await.unwrap();
    assert_eq!(large(&intake), 100_000 * 288 / 4);
    drop(call);
    // A small message of which much is made takes no room of those that stay small.
    let mut small = Call::with(&intake, head(), false).unwrap();
    let mut empties = message(60_000);
    empties[5..]
        .chunks_mut(2)
        .for_each(|fill| fill.copy_from_slice(&[0x0a, 0]));
    small.say(empties).await.unwrap();
    assert_eq!(intake.small.room.available_permits(), 8 * MIB);
    assert_eq!(large(&intake), 30_000 * 288 / 4);
    drop(small);
    // What says something costs what it is on the wire.
    let told = v1::CommitFillRequest {
        fills: vec![
            v1::Fill {
                address: "a".repeat(250),
                classes: vec!["c".repeat(200); 16],
                ..v1::Fill::default()
            };
            100
        ],
    };
    let mut call = Call::with(&intake, head(), false).unwrap();
    let told = told.encode_to_vec();
    let mut whole = message(told.len());
    whole[5..].copy_from_slice(&told);
    call.say(whole.clone()).await.unwrap();
    assert_eq!(large(&intake), whole.len());
}

/// A call with so many entries of metadata that say nothing.
fn with_metadata(entries: usize) -> http::Request<()> {
    (0..entries)
        .fold(http::Request::builder(), |head, _| head.header("x", ""))
        .body(())
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn g10_calls_are_charged_from_their_heads_on_and_give_way_without_a_message() {
    let intake = room(16 * MIB);
    let small = || 2 * MIB - intake.small.room.available_permits();
    let mut first = Call::with(&intake, with_metadata(400), false).unwrap();
    let head = HEAD_BYTES + 400 * (ENTRY_BYTES + 1);
    assert_eq!(small(), head);
    let mut heads = Vec::new();
    for _ in 0..2 * MIB / HEAD_BYTES {
        heads.push(Call::begin(&intake));
    }
    let gave_way = first.hear().await.unwrap_err();
    assert_eq!(gave_way.code(), Code::ResourceExhausted);
    assert_eq!(small(), 2 * MIB);
    // Who sends a message finds room; the metadata that every call has are not charged for beside it.
    let mut call = Call::with(&intake, with_metadata(20), false).unwrap();
    call.say(message(1_000)).await.unwrap();
    heads[0].hear().await.unwrap_err();
    drop(heads);
    assert_eq!(
        small(),
        1_005 + 20 * (ENTRY_BYTES + 1) - METADATA_FREE_BYTES.min(20 * (ENTRY_BYTES + 1))
    );
    drop(call);
    // Nor is there more time without a message than within one.
    let begun = Instant::now();
    let stalled = Call::begin(&intake).hear().await.unwrap_err();
    assert_eq!(stalled.code(), Code::DeadlineExceeded);
    assert_eq!(begun.elapsed(), MESSAGE_WAIT);
    assert_eq!(small(), 0);
    // Metadata alone may be more than there is room for beside what does not give way.
    let mut whole = Vec::new();
    for _ in 0..33 {
        let mut call = Call::begin(&intake);
        call.say(message(60_000)).await.unwrap();
        whole.push(call);
    }
    let refused = Call::with(&intake, with_metadata(1_500), false)
        .err()
        .unwrap();
    assert_eq!(refused.code(), Code::ResourceExhausted);
}

#[tokio::test(start_paused = true)]
async fn g10_a_stream_that_is_silent_ends_after_a_while_and_holds_no_room_until_then() {
    let intake = room(16 * MIB);
    let mut stream = Call::with(&intake, with_metadata(100), true).unwrap();
    for _ in 0..3 {
        let silent = tokio::time::timeout(STREAM_WAIT * 9 / 10, stream.hear());
        silent.await.unwrap_err();
        assert_eq!(intake.small.room.available_permits(), 2 * MIB);
        stream.say(message(1_000)).await.unwrap();
    }
    let begun = Instant::now();
    let ended = stream.hear().await.unwrap_err();
    assert_eq!(ended.code(), Code::DeadlineExceeded);
    assert!(ended.message().contains("300 s"), "{ended}");
    assert_eq!(begun.elapsed(), STREAM_WAIT);
}
