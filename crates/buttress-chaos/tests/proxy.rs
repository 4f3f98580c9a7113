//! The toxic proxy over real sockets. Every bound in time holds on a machine ten times slower.
#![cfg(feature = "proxy")]

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use buttress_chaos::{Latency, ProxyHandle, Stream, Toxic, ToxicError, ToxicProxy, Window};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// For what has to happen at all.
const SOON: Duration = Duration::from_secs(30);

/// Sends back what it receives, and closes when its peer has.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
                let _ = to.shutdown().await;
            });
        }
    });
    address
}

async fn proxied() -> (ToxicProxy, ProxyHandle) {
    let proxy = ToxicProxy::listen("127.0.0.1:0", echo().await.to_string()).await.unwrap();
    let handle = proxy.handle();
    (proxy, handle)
}

async fn connect(handle: &ProxyHandle) -> TcpStream {
    TcpStream::connect(handle.local_addr()).await.unwrap()
}

/// Sends and reads it back.
async fn round_trip(stream: &mut TcpStream, data: &[u8]) -> io::Result<Duration> {
    let start = Instant::now();
    stream.write_all(data).await?;
    let mut back = vec![0; data.len()];
    timeout(SOON, stream.read_exact(&mut back)).await.expect("in time")?;
    assert_eq!(back, data);
    Ok(start.elapsed())
}

/// Reads to the end.
async fn rest(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut rest = Vec::new();
    timeout(SOON, stream.read_to_end(&mut rest)).await.expect("in time")?;
    Ok(rest)
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < SOON, "{what}");
        sleep(millis(5)).await;
    }
}

#[tokio::test]
async fn without_toxics_bytes_and_half_closes_pass_and_are_counted() {
    let (_proxy, handle) = proxied().await;
    let mut stream = connect(&handle).await;
    let sent: Vec<u8> = (0..3_000_000_u32).map(|n| (n / 7) as u8).collect();
    let (mut from, mut to) = stream.split();
    let (_, received) = tokio::join!(
        async {
            to.write_all(&sent).await.unwrap();
            // The server learns of it, and still answers.
            to.shutdown().await.unwrap();
        },
        async {
            let mut received = Vec::new();
            from.read_to_end(&mut received).await.unwrap();
            received
        }
    );
    assert!(received == sent);
    drop(stream);
    until("the connection ends", || handle.counts().open == 0).await;
    let counts = handle.counts();
    assert_eq!((counts.accepted, counts.upstream_bytes, counts.downstream_bytes), (1, 3_000_000, 3_000_000));
}

#[tokio::test]
async fn latency_delays_each_direction_and_goes_when_it_is_removed() {
    let (_proxy, handle) = proxied().await;
    let mut stream = connect(&handle).await;
    round_trip(&mut stream, b"warm").await.unwrap();
    handle.add(Toxic::latency(millis(150))).unwrap();
    handle.add(Toxic::latency(millis(100)).stream(Stream::Upstream)).unwrap();
    assert!(round_trip(&mut stream, b"slow").await.unwrap() >= millis(250));
    handle.remove("latency_downstream").unwrap();
    assert!(round_trip(&mut stream, b"half").await.unwrap() >= millis(100));
    handle.update(Toxic::latency(millis(3_600_000)).stream(Stream::Upstream)).unwrap();
    stream.write_all(b"late").await.unwrap();
    sleep(millis(50)).await;
    // What is under way already is let go.
    handle.clear();
    let mut back = [0; 4];
    timeout(SOON, stream.read_exact(&mut back)).await.unwrap().unwrap();
    assert_eq!(&back, b"late");
}

#[tokio::test]
async fn latency_with_jitter_keeps_the_order_and_does_not_narrow_the_line() {
    let (_proxy, handle) = proxied().await;
    handle.add(Toxic::latency(Latency::fixed(millis(200)).jitter(millis(100)))).unwrap();
    let mut stream = connect(&handle).await;
    let sent: Vec<u8> = (0..8_000_000_u32).map(|n| (n / 3) as u8).collect();
    let start = Instant::now();
    let (mut from, mut to) = stream.split();
    let mut received = vec![0; sent.len()];
    let (written, read) = tokio::join!(to.write_all(&sent), from.read_exact(&mut received));
    written.and(read.map(|_| ())).unwrap();
    assert!(received == sent);
    // One chunk for each latency would take minutes.
    assert!((millis(100)..millis(60_000)).contains(&start.elapsed()), "{:?}", start.elapsed());
}

#[tokio::test]
async fn bandwidth_is_kept_and_is_smooth() {
    let (_proxy, handle) = proxied().await;
    handle.add(Toxic::bandwidth(100)).unwrap();
    let mut stream = connect(&handle).await;
    let start = Instant::now();
    let (mut from, mut to) = stream.split();
    let (_, arrivals) = tokio::join!(async { to.write_all(&[7; 200_000]).await.unwrap() }, async {
        let (mut arrivals, mut left, mut buffer) = (Vec::new(), 200_000, [0; 64 << 10]);
        while left > 0 {
            let read = timeout(SOON, from.read(&mut buffer)).await.unwrap().unwrap();
            left -= read;
            arrivals.push((start.elapsed(), 200_000 - left));
        }
        arrivals
    });
    assert!(start.elapsed() >= millis(1999), "{:?}", start.elapsed());
    // At no time more than the line can have carried.
    for (time, bytes) in &arrivals {
        assert!(*bytes as f64 <= time.as_secs_f64() * 100_000.0 + 1.0, "{bytes} bytes after {time:?}");
    }
    assert!(arrivals.len() >= 3, "in pieces: {}", arrivals.len());
}

#[tokio::test]
async fn a_black_hole_accepts_and_forwards_nothing_and_keeps_what_it_held() {
    let (_proxy, handle) = proxied().await;
    handle.add(Toxic::black_hole().stream(Stream::Upstream)).unwrap();
    let mut stream = connect(&handle).await;
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut byte = [0; 1];
    assert!(timeout(millis(200), stream.read(&mut byte)).await.is_err(), "not even the end");
    assert_eq!(handle.counts().upstream_bytes, 0);
    handle.clear();
    assert_eq!(rest(&mut stream).await.unwrap(), b"hello");
}

#[tokio::test]
async fn a_time_out_closes_the_connection_in_the_end() {
    let (_proxy, handle) = proxied().await;
    handle.add(Toxic::timeout(millis(200))).unwrap();
    let start = Instant::now();
    let mut stream = connect(&handle).await;
    stream.write_all(b"hello").await.unwrap();
    assert_eq!(rest(&mut stream).await.unwrap(), b"");
    assert!(start.elapsed() >= millis(199));
    drop(stream);
    until("the connection ends", || handle.counts().open == 0).await;
}

#[tokio::test]
async fn a_reset_is_a_reset_at_both_ends() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = server.local_addr().unwrap().to_string();
    let proxy = ToxicProxy::listen("127.0.0.1:0", upstream).await.unwrap();
    let handle = proxy.handle();
    let mut client = connect(&handle).await;
    let (mut accepted, _) = server.accept().await.unwrap();
    accepted.write_all(b"x").await.unwrap();
    client.read_exact(&mut [0; 1]).await.unwrap();
    handle.add(Toxic::reset_peer(Duration::ZERO)).unwrap();
    for stream in [&mut client, &mut accepted] {
        assert_eq!(rest(stream).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn a_reset_of_one_side_resets_the_other() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = server.local_addr().unwrap().to_string();
    let proxy = ToxicProxy::listen("127.0.0.1:0", upstream).await.unwrap();
    let mut client = connect(&proxy.handle()).await;
    let (accepted, _) = server.accept().await.unwrap();
    accepted.set_zero_linger().unwrap();
    drop(accepted);
    assert_eq!(rest(&mut client).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_a_reset() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let proxy = ToxicProxy::listen("127.0.0.1:0", nobody.to_string()).await.unwrap();
    let mut client = connect(&proxy.handle()).await;
    assert_eq!(rest(&mut client).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    proxy.handle().set_upstream(echo().await.to_string());
    round_trip(&mut connect(&proxy.handle()).await, b"here").await.unwrap();
}

#[tokio::test]
async fn slow_close_keeps_the_end_back_and_not_the_data() {
    let (_proxy, handle) = proxied().await;
    handle.add(Toxic::slow_close(millis(300))).unwrap();
    let mut stream = connect(&handle).await;
    round_trip(&mut stream, b"data").await.unwrap();
    let start = Instant::now();
    stream.shutdown().await.unwrap();
    assert_eq!(rest(&mut stream).await.unwrap(), b"");
    assert!(start.elapsed() >= millis(299), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_slicer_cuts_data_into_pieces_and_pauses_between_them() {
    let (_proxy, handle) = proxied().await;
    handle.add(Toxic::slicer(10, 4, millis(20))).unwrap();
    let mut stream = connect(&handle).await;
    let sent: Vec<u8> = (0..200).collect();
    // 200 bytes are at least fifteen pieces of at most fourteen bytes.
    assert!(round_trip(&mut stream, &sent).await.unwrap() >= millis(14 * 20));
    // The first piece is there before the second.
    stream.write_all(&sent).await.unwrap();
    let mut buffer = [0; 256];
    let first = stream.read(&mut buffer).await.unwrap();
    assert!(first < 200, "{first}");
}

#[tokio::test]
async fn a_limit_is_exact_to_the_byte_in_either_direction() {
    for stream in [Stream::Upstream, Stream::Downstream] {
        for limit in [0, 1, 7_777, 100_000] {
            let (_proxy, handle) = proxied().await;
            handle.add(Toxic::limit_data(limit).stream(stream)).unwrap();
            let mut client = connect(&handle).await;
            let (mut from, mut to) = client.split();
            let (_, received) = tokio::join!(to.write_all(&[7; 300_000]), async {
                let mut received = Vec::new();
                let outcome = timeout(SOON, from.read_to_end(&mut received)).await.expect("in time");
                (outcome, received.len() as u64)
            });
            let counts = handle.counts();
            if stream == Stream::Downstream {
                assert_eq!(received.1, limit);
                received.0.expect("the end of the stream, and not a reset");
                assert_eq!(counts.downstream_bytes, limit);
            } else {
                assert_eq!(counts.upstream_bytes, limit);
            }
        }
    }
}

#[tokio::test]
async fn toxicity_makes_the_same_connections_ill_every_time() {
    let ill = async |seed| {
        let proxy =
            ToxicProxy::listen_with_seed("127.0.0.1:0", echo().await.to_string(), seed).await.unwrap();
        let handle = proxy.handle();
        handle.add(Toxic::reset_peer(Duration::ZERO).toxicity(0.5)).unwrap();
        let mut ill = Vec::new();
        for _ in 0..32 {
            ill.push(round_trip(&mut connect(&handle).await, b"x").await.is_err());
        }
        ill
    };
    let first = ill(7).await;
    assert!((6..=26).contains(&first.iter().filter(|ill| **ill).count()), "{first:?}");
    for _ in 0..3 {
        assert_eq!(ill(7).await, first);
    }
    assert_ne!(ill(8).await, first);
}

#[tokio::test]
async fn a_window_opens_and_closes_by_itself() {
    let (_proxy, handle) = proxied().await;
    let mut stream = connect(&handle).await;
    let start = Instant::now();
    handle.add(Toxic::black_hole().within(Window::always().until(millis(300)))).unwrap();
    round_trip(&mut stream, b"held").await.unwrap();
    assert!(start.elapsed() >= millis(299), "{:?}", start.elapsed());
    round_trip(&mut stream, b"free").await.unwrap();
}

#[tokio::test]
async fn while_it_is_down_connections_are_cut_and_refused_and_up_it_serves_again() {
    let (proxy, handle) = proxied().await;
    let mut open = connect(&handle).await;
    round_trip(&mut open, b"x").await.unwrap();
    handle.down().await.unwrap();
    assert_eq!(handle.counts().open, 0);
    assert!(!handle.is_up().await);
    assert!(rest(&mut open).await.is_ok_and(|rest| rest.is_empty()));
    let refused = TcpStream::connect(handle.local_addr()).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    handle.down().await.unwrap();
    handle.up().await.unwrap();
    handle.up().await.unwrap();
    round_trip(&mut connect(&handle).await, b"x").await.unwrap();
    proxy.shutdown(Duration::ZERO).await;
    assert_eq!(handle.up().await.unwrap_err().kind(), io::ErrorKind::NotConnected);
}

#[tokio::test]
async fn a_sender_has_to_wait_while_nothing_gets_through() {
    let (_proxy, handle) = proxied().await;
    handle.add(Toxic::black_hole().stream(Stream::Upstream)).unwrap();
    let mut stream = connect(&handle).await;
    let mut accepted = 0;
    // Buffers of the kernel aside, which are a few megabytes, a connection holds one.
    while let Ok(written) = timeout(millis(500), stream.write(&[7; 64 << 10])).await {
        accepted += written.unwrap();
        assert!(accepted < 64 << 20, "more than any buffer should hold");
    }
}

#[tokio::test]
async fn a_shutdown_waits_for_connections_and_cuts_what_takes_too_long() {
    let (proxy, handle) = proxied().await;
    let mut stream = connect(&handle).await;
    round_trip(&mut stream, b"x").await.unwrap();
    let ending = tokio::spawn(proxy.shutdown(SOON));
    round_trip(&mut stream, b"still served").await.unwrap();
    drop(stream);
    timeout(SOON / 2, ending).await.expect("it does not wait for its bound").unwrap();

    let (proxy, handle) = proxied().await;
    let mut stream = connect(&handle).await;
    round_trip(&mut stream, b"x").await.unwrap();
    proxy.shutdown(millis(50)).await;
    assert!(rest(&mut stream).await.is_ok_and(|rest| rest.is_empty()));
    assert_eq!(handle.counts().open, 0);
}

#[tokio::test]
async fn a_proxy_that_is_dropped_cuts_its_connections() {
    let (proxy, handle) = proxied().await;
    let mut stream = connect(&handle).await;
    round_trip(&mut stream, b"x").await.unwrap();
    drop(proxy);
    assert!(rest(&mut stream).await.is_ok_and(|rest| rest.is_empty()));
    assert!(TcpStream::connect(handle.local_addr()).await.is_err());
}

#[tokio::test]
async fn toxics_are_listed_and_have_to_make_sense() {
    let (_proxy, handle) = proxied().await;
    let slow = Toxic::latency(millis(1));
    handle.add(slow.clone()).unwrap();
    assert_eq!(handle.add(slow.clone()), Err(ToxicError::Exists("latency_downstream".into())));
    handle.add(slow.clone().named("other")).unwrap();
    assert_eq!(handle.toxics(), [slow.clone(), slow.clone().named("other")]);
    assert_eq!(handle.remove("x"), Err(ToxicError::NotFound("x".into())));
    assert_eq!(handle.update(Toxic::bandwidth(1)), Err(ToxicError::NotFound("bandwidth_downstream".into())));
    let invalid = [
        Toxic::bandwidth(0),
        Toxic::slicer(5, 5, Duration::ZERO),
        slow.clone().toxicity(2.0),
        slow.clone().within(Window::always().every(Duration::ZERO)),
    ];
    for toxic in invalid {
        assert!(matches!(handle.add(toxic.clone()), Err(ToxicError::Invalid(_))), "{toxic:?}");
    }
    assert!(handle.replace([slow.clone(), slow.clone()]).is_err());
    assert_eq!(handle.toxics().len(), 2);
    handle.replace([Toxic::black_hole()]).unwrap();
    assert_eq!(handle.toxics(), [Toxic::black_hole()]);
}
