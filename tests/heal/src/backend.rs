//! A small HTTP/2 server, which is a process of its own.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use services::Program;
use tokio::net::TcpListener;

/// The first argument of `bench` that makes it such a server.
pub const COMMAND: &str = "backend";

/// Answers every request on this port with these words, until it is killed.
///
/// # Errors
///
/// If it cannot listen there.
pub async fn serve(port: u16, words: String) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let words = Bytes::from(words);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let words = words.clone();
        let answer = service_fn(move |_| {
            std::future::ready(Ok::<_, Infallible>(Response::new(Full::new(words.clone()))))
        });
        tokio::spawn(
            http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer),
        );
    }
}

/// Has this program start one, and returns when it listens.
///
/// # Panics
///
/// If it does not listen within a minute.
pub async fn start(program: &Path, port: u16, number: usize) -> Program {
    let words = [COMMAND.to_owned(), port.to_string(), number.to_string()];
    let backend = Program::start([program.to_string_lossy().into_owned()].into_iter().chain(words));
    for _ in 0..12_000 {
        if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return backend;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("no backend listens on port {port}");
}
