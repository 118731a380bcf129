#![allow(clippy::unwrap_used, reason = "tests")]
use grapevine_proto::v1;
use tonic::Code;
use tonic_types::StatusExt as _;

use super::*;
use crate::telemetry::Counter;

const MIB: usize = 1 << 20;

/// Answers each call with so many bytes, and then with nothing more for a while.
#[derive(Clone)]
struct Generous(usize);

struct Gift(Option<Bytes>);

impl http_body::Body for Gift {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.0.take().map_or(Poll::Pending, |bytes| {
            Poll::Ready(Some(Ok(Frame::data(bytes))))
        })
    }
}

impl Service<http::Request<Body>> for Generous {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<Body>) -> Self::Future {
        let body = Body::new(Gift(Some(vec![7; self.0].into())));
        std::future::ready(Ok(http::Response::new(body)))
    }
}

fn room(bytes: usize) -> Unread {
    Unread::new(bytes, Arc::new(Counters::new()))
}

async fn call(unread: &Unread, bytes: usize) -> Result<Body, Status> {
    let intake = Intake::new(MIB, unread.counters.clone());
    let mut service = Counted::new(Generous(bytes), intake, unread.clone());
    let answer = service.call(http::Request::new(Body::empty())).await;
    let answer = answer.unwrap();
    match Status::from_header_map(answer.headers()) {
        Some(status) => Err(status),
        None => Ok(answer.into_body()),
    }
}

/// The next frame's bytes, if there is one by now.
async fn frame(body: &mut Body) -> Option<Bytes> {
    let polled = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut *body).poll_frame(cx)));
    match polled.await {
        Poll::Ready(Some(frame)) => Some(frame.unwrap().into_data().unwrap()),
        Poll::Ready(None) | Poll::Pending => None,
    }
}

#[tokio::test]
async fn g10_answers_that_nobody_reads_are_bounded_and_their_room_comes_back() {
    let unread = room(16 * MIB);
    let mut kept = Vec::new();
    let mut refused = None;
    for _ in 0..20 {
        match call(&unread, MIB).await {
            Ok(body) => kept.push(body),
            Err(status) => {
                refused = Some(status);
                break;
            }
        }
    }
    let refused = refused.unwrap();
    assert_eq!(kept.len(), 14, "seven eighths of the room");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("limits.answers_bytes_max"));
    assert!(refused.message().contains("16777216"), "{refused}");
    assert!(refused.get_details_retry_info().is_some());
    assert_eq!(unread.counters.get(Counter::IntakeRejected), 1);
    // Small answers have their own, and a few bytes cost what a call does.
    let mut few = Vec::new();
    while let Ok(body) = call(&unread, 1).await {
        few.push(body);
    }
    assert_eq!(few.len(), 2 * MIB / (ANSWER_BYTES + 1));
    few.clear();
    call(&unread, 1_000).await.unwrap();
    // What the connection has taken may still wait in it, also when it has asked for more, or is done with the answer.
    let mut taken = frame(&mut kept[0]).await.unwrap();
    assert_eq!(taken.len(), MIB);
    assert_eq!(frame(&mut kept[0]).await, None);
    drop(kept.swap_remove(0));
    call(&unread, MIB).await.unwrap_err();
    // It is written bit by bit.
    drop(taken.split_to(MIB - 1));
    call(&unread, MIB).await.unwrap_err();
    drop(taken);
    let again = call(&unread, MIB).await.unwrap();
    call(&unread, MIB).await.unwrap_err();
    drop(again);
    call(&unread, MIB).await.unwrap();
    // Whoever leaves takes with him what he has not read.
    drop(kept);
    call(&unread, 14 * MIB).await.unwrap();
    // One larger than all the room is possible, alone.
    call(&unread, 64 * MIB).await.unwrap();
}

#[tokio::test]
async fn g10_streams_of_reflection_and_health_have_places_for_as_long_as_they_last() {
    let unread = room(16 * MIB);
    let intake = Intake::new(MIB, unread.counters.clone());
    let places = Places::new(2, "are open already", &unread.counters);
    let mut service =
        Counted::new(Generous(10), intake, unread.clone()).with_streams(places.clone());
    let mut open = async |path: &str| {
        let request = http::Request::builder().uri(path).body(Body::empty());
        let answer = service.call(request.unwrap()).await.unwrap();
        match Status::from_header_map(answer.headers()) {
            Some(status) => Err(status),
            None => Ok(answer.into_body()),
        }
    };
    let reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    let first = open(HEALTH_WATCH).await.unwrap();
    let _second = open(reflection).await.unwrap();
    for path in [HEALTH_WATCH, reflection] {
        let refused = open(path).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert_eq!(refused.message(), "2 are open already");
    }
    // A probe is no stream.
    open("/grpc.health.v1.Health/Check").await.unwrap();
    drop(first);
    open(reflection).await.unwrap();
}

#[test]
fn methods_whose_requests_are_streams_are_told_by_their_names() {
    let files = prost_types::FileDescriptorSet::decode(v1::FILE_DESCRIPTOR_SET).unwrap();
    let mut streams = 0;
    for file in files
        .file
        .iter()
        .filter(|file| file.package() == "grapevine.v1")
    {
        let served = file
            .service
            .iter()
            .filter(|service| service.name() != "PeerService");
        for (service, method) in served.flat_map(|it| it.method.iter().map(move |m| (it, m))) {
            let path = format!("/grapevine.v1.{}/{}", service.name(), method.name());
            assert_eq!(takes_a_stream(&path), method.client_streaming(), "{path}");
            streams += u32::from(method.client_streaming());
        }
    }
    assert!(streams >= 2);
}

/// A stream of answers as gRPC sends it.
struct Encoded(Answers<v1::ListClassesResponse>);

impl http_body::Body for Encoded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let next = ready!(Pin::new(&mut self.0).poll_next(cx));
        let encoded =
            |message: v1::ListClassesResponse| Frame::data(message.encode_to_vec().into());
        Poll::Ready(next.map(|message| message.map(encoded)))
    }
}

#[tokio::test]
async fn g10_messages_of_streams_are_charged_until_they_are_written() {
    let unread = room(16 * MIB);
    let large = |_| v1::ListClassesResponse {
        next_page_token: vec![7; 13 * MIB].into(),
        ..Default::default()
    };
    let (sender, answers) = Answers::channel(2);
    let (_, answers, extensions) = answers.response().into_parts();
    let mut answer = http::Response::new(Body::new(Encoded(answers)));
    *answer.extensions_mut() = extensions;
    let caller = Caller {
        connection: None,
        unread: unread.clone(),
    };
    let mut body = caller.charged(answer).await.into_body();
    assert!(sender.try_send(unread.message(large(0))).is_ok());
    assert!(unread.message(large(1)).is_error());
    let taken = frame(&mut body).await.unwrap();
    assert!(taken.len() > 13 * MIB);
    assert_eq!(frame(&mut body).await, None);
    assert!(unread.message(large(1)).is_error(), "taken, not written");
    drop(taken);
    // Its end takes along what waits.
    for leaves_a_frame in [true, false] {
        let next = unread.message(large(1));
        assert!(!next.is_error());
        assert!(sender.try_send(next).is_ok());
        if leaves_a_frame {
            frame(&mut body).await.unwrap();
        }
    }
    drop(body);
    assert!(!unread.message(large(2)).is_error());
}

/// Answers nobody.
#[derive(Clone)]
struct Silent;

impl Service<http::Request<Body>> for Silent {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = std::future::Pending<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<Body>) -> Self::Future {
        std::future::pending()
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_own_deadline_passes_is_told_so() {
    let unread = room(MIB);
    let intake = Intake::new(MIB, unread.counters.clone());
    let mut service = Counted::new(Silent, intake, unread);
    let request = http::Request::builder().header("grpc-timeout", "50m");
    let answer = service.call(request.body(Body::empty()).unwrap());
    let answer = tokio::time::timeout(Duration::from_secs(1), answer).await;
    let answer = answer.expect("it ends").unwrap();
    let told = Status::from_header_map(answer.headers()).unwrap();
    assert_eq!(told.code(), Code::DeadlineExceeded);
    assert!(told.message().contains("50ms"), "{told}");
}

/// Refuses every call, at length.
#[derive(Clone)]
struct Refusing;

impl Service<http::Request<Body>> for Refusing {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<Body>) -> Self::Future {
        let status = Status::invalid_argument("x".repeat(3_000));
        std::future::ready(Ok(status.into_http()))
    }
}

#[tokio::test]
async fn g10_refusals_that_nobody_reads_are_charged() {
    let unread = room(8 * (64 << 10));
    let connection = OfConnection::default();
    let refuse = async || {
        let intake = Intake::new(MIB, unread.counters.clone());
        let mut service = Counted::new(Refusing, intake, unread.clone());
        let mut request = http::Request::new(Body::empty());
        request.extensions_mut().insert(connection.clone());
        let answer = service.call(request).await.unwrap();
        Status::from_header_map(answer.headers()).unwrap()
    };
    // Small answers have 64 KiB, and each takes 3,000 bytes and some.
    let mut refusals = 0;
    let told = loop {
        let status = refuse().await;
        if status.code() != Code::InvalidArgument || refusals == 100 {
            break status;
        }
        refusals += 1;
    };
    assert!((8..16).contains(&refusals), "{refusals}");
    assert_eq!(told.code(), Code::ResourceExhausted);
    assert!(
        told.message().contains("limits.answers_bytes_max"),
        "{told}"
    );
    // Two of them are written.
    connection.written(2, usize::MAX);
    assert_eq!(refuse().await.code(), Code::InvalidArgument);
    connection.written(0, 0);
    assert_eq!(unread.small.available_permits(), 64 << 10);
}
