//! S3's client over a stack, with bodies that can be read once.

mod common;

use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use buttress::circuit_breaker::{CircuitState, Config};
use bytes::Bytes;
use common::{bare, beneath, client, off, on, retrying, s3};
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use loopback::{Seen, Server, status};

const KIB: usize = 1024;

/// Pieces of a KiB that nobody can read twice.
fn one_shot(length: usize) -> ByteStream {
    let pieces = (0..length / KIB).map(|n| {
        let piece = vec![b'a' + u8::try_from(n % 26).unwrap(); KIB];
        Ok::<_, std::io::Error>(http_body::Frame::data(Bytes::from(piece)))
    });
    ByteStream::new(SdkBody::from_body_1_x(BodyExt::boxed(StreamBody::new(stream::iter(pieces)))))
}

async fn put(s3: &aws_sdk_s3::Client, body: ByteStream, length: usize) -> Result<(), aws_sdk_s3::Error> {
    let put = s3.put_object().bucket("bucket").key("key").body(body);
    put.content_length(i64::try_from(length).unwrap()).send().await?;
    Ok(())
}

/// The object, its signed chunks and checksum left out.
fn object(seen: &Seen) -> Vec<u8> {
    let mut rest = &seen.body[..];
    let mut object = Vec::new();
    loop {
        let line = rest.windows(2).position(|pair| pair == b"\r\n").unwrap();
        let head = std::str::from_utf8(&rest[..line]).unwrap();
        let length = usize::from_str_radix(head.split(';').next().unwrap(), 16).unwrap();
        if length == 0 {
            return object;
        }
        object.extend_from_slice(&rest[line + 2..line + 2 + length]);
        rest = &rest[line + 4 + length..];
    }
}

#[tokio::test]
async fn a_stream_that_can_be_read_once_is_replayed_byte_by_byte() {
    let server = Server::start([status(503), status(503)]).await;
    let s3 = s3(&server, client(retrying()), off());
    put(&s3, one_shot(48 * KIB), 48 * KIB).await.unwrap();
    let seen = server.seen();
    assert_eq!(seen.len(), 3);
    for request in &seen {
        assert_eq!(request.body, seen[0].body);
        assert_eq!(request.header("content-length"), request.body.len().to_string());
        assert_eq!(request.header("content-encoding"), "aws-chunked");
    }
    let object = object(&seen[2]);
    assert_eq!((object.len(), object[0], object[47 * KIB]), (48 * KIB, b'a', b'v'));
}

#[tokio::test]
async fn the_sdk_alone_gives_such_a_stream_up() {
    let server = Server::start([status(503)]).await;
    put(&s3(&server, bare(), on(3)), one_shot(48 * KIB), 48 * KIB).await.unwrap_err();
    assert_eq!(server.calls(), 1);
}

#[tokio::test]
async fn a_stream_too_long_to_be_kept_arrives_whole_and_is_sent_once() {
    let server = Server::start([status(503)]).await;
    let s3 = s3(&server, client(retrying()), off());
    put(&s3, one_shot(256 * KIB), 256 * KIB).await.unwrap_err();
    assert_eq!(server.calls(), 1);
    put(&s3, one_shot(256 * KIB), 256 * KIB).await.unwrap();
    assert_eq!(object(&server.seen()[1]).len(), 256 * KIB);
}

#[tokio::test]
async fn an_object_in_memory_is_sent_again_by_the_sdk_through_the_stack() {
    let server = Server::start([status(503)]).await;
    let s3 = s3(&server, client(beneath()), on(2));
    put(&s3, ByteStream::from(vec![b'x'; 300 * KIB]), 300 * KIB).await.unwrap();
    assert!(server.seen().iter().all(|seen| seen.body.len() == 300 * KIB));
    assert_eq!(server.calls(), 2);
}

#[tokio::test]
async fn slow_down_in_xml_is_throttling_and_a_missing_key_is_not() {
    let error = |status_code, code: &str| {
        let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>no</Message></Error>");
        status(status_code).header("content-type", "application/xml").body(body)
    };
    let server = Server::start_then([error(400, "SlowDown")], status(200).body("object")).await;
    let got = s3(&server, client(retrying()), off()).get_object().bucket("b").key("k").send().await.unwrap();
    assert_eq!(got.body.collect().await.unwrap().into_bytes(), "object");
    assert_eq!(server.calls(), 2);

    let server = Server::start_then([], error(404, "NoSuchKey")).await;
    let http_client = client(beneath().circuit_breaker(Config::critical()));
    let s3 = s3(&server, http_client.clone(), on(3));
    for _ in 0..4 {
        let error = s3.get_object().bucket("b").key("k").send().await.unwrap_err();
        assert!(error.into_service_error().is_no_such_key());
    }
    assert_eq!(server.calls(), 4);
    assert_eq!(http_client.layer().circuit_breaker().handle().state(), CircuitState::Closed);
}
