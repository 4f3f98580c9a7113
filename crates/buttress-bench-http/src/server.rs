//! What the clients call: as little work as a server can do, so that the client is what is measured.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use grpc_tests::Echoing;
use grpc_tests::echo::echo_server::EchoServer;
use http::Response;
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;

/// Where the servers are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    pub(crate) http1: SocketAddr,
    pub(crate) grpc: SocketAddr,
}

/// Starts all of them, in tasks of the runtime it is called in.
pub(crate) async fn start() -> io::Result<Addresses> {
    Ok(Addresses { http1: http1().await?, grpc: grpc().await? })
}

/// What is answered: 64 bytes.
pub(crate) const HELLO: &[u8; 64] = b"hello, world! hello, world! hello, world! hello, world! 64 bytes";

async fn http1() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // Small answers must not wait for each other.
            if stream.set_nodelay(true).is_err() {
                continue;
            }
            let hello = service_fn(async |_| {
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(HELLO))))
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), hello));
        }
    });
    Ok(address)
}

/// Gives back what it is asked.
async fn grpc() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let mut server = tonic::transport::Server::builder().tcp_nodelay(true);
    let server = server.add_service(EchoServer::new(Echoing));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    Ok(address)
}
