//! The toxic TCP proxy.

mod effects;
mod handle;
mod link;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use handle::{Command, Shared};
pub use handle::{ProxyCounts, ProxyHandle, ToxicError};

/// A TCP proxy that makes the network between a client and a server ill: slow, narrow, cut off.
///
/// It forwards bytes and half-closes in both directions, and [`Toxic`](crate::Toxic)s say what is wrong with them, also
/// for connections that are open already. A connection holds 1 MiB of each direction at most; beyond that its sender
/// waits, as it would without a proxy. A reset of one side resets the other one. If the server cannot be reached, the
/// client's connection is reset.
///
/// Dropping it cuts every connection. It has nothing to do with the guard on release builds: a proxy is only in the way
/// of who connects to it.
///
/// ```
/// use std::time::Duration;
/// use buttress_chaos::{Toxic, ToxicProxy};
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
/// use tokio::net::{TcpListener, TcpStream};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = TcpListener::bind("127.0.0.1:0").await?;
/// let proxy = ToxicProxy::listen("127.0.0.1:0", server.local_addr()?.to_string()).await?;
/// proxy.handle().add(Toxic::limit_data(5))?;
///
/// let mut client = TcpStream::connect(proxy.local_addr()).await?;
/// let (mut accepted, _) = server.accept().await?;
/// accepted.write_all(b"hello, world").await?;
/// let mut heard = String::new();
/// client.read_to_string(&mut heard).await?;
/// assert_eq!(heard, "hello");
/// proxy.shutdown(Duration::from_secs(1)).await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ToxicProxy {
    handle: ProxyHandle,
    accepting: JoinHandle<()>,
}

impl ToxicProxy {
    /// Listens on an address, port 0 for any, and forwards each connection to `upstream`, a host and a port that is looked
    /// up for each connection. The seed is 0.
    ///
    /// # Errors
    ///
    /// If it cannot listen there.
    pub async fn listen(address: impl ToSocketAddrs, upstream: impl Into<String>) -> io::Result<Self> {
        Self::listen_with_seed(address, upstream, 0).await
    }

    /// The same, with a seed for jitter, the sizes of slices, and the choice of connections.
    ///
    /// # Errors
    ///
    /// If it cannot listen there.
    pub async fn listen_with_seed(
        address: impl ToSocketAddrs,
        upstream: impl Into<String>,
        seed: u64,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let (shared, commands) = Shared::new(listener.local_addr()?, upstream.into(), seed);
        let handle = ProxyHandle::new(Arc::clone(&shared));
        let accepting = tokio::spawn(Accepting::new(listener, shared).run(commands));
        Ok(Self { handle, accepting })
    }

    /// Where clients connect.
    pub fn local_addr(&self) -> SocketAddr {
        self.handle.local_addr()
    }

    /// Reads and controls it.
    pub fn handle(&self) -> ProxyHandle {
        self.handle.clone()
    }

    /// Accepts no more, waits so long for open connections to end, and cuts the others.
    pub async fn shutdown(mut self, grace: Duration) {
        if self.handle.ask(|reply| Command::Shutdown(grace, reply)).await.is_ok() {
            let _ = (&mut self.accepting).await;
        }
    }
}

impl Drop for ToxicProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// The task of a proxy: who owns it owns its connections.
struct Accepting {
    listener: Option<TcpListener>,
    connections: JoinSet<()>,
    shared: Arc<Shared>,
}

impl Accepting {
    fn new(listener: TcpListener, shared: Arc<Shared>) -> Self {
        Self { listener: Some(listener), connections: JoinSet::new(), shared }
    }

    async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        loop {
            tokio::select! {
                stream = accept(self.listener.as_ref()) => self.serve(stream),
                Some(_) = self.connections.join_next() => {}
                Some(command) = commands.recv() => match command {
                    Command::Down(done) => {
                        self.listener = None;
                        self.connections.shutdown().await;
                        let _ = done.send(());
                    }
                    Command::Up(done) => {
                        let _ = done.send(self.up().await);
                    }
                    Command::IsUp(answer) => {
                        let _ = answer.send(self.listener.is_some());
                    }
                    Command::Shutdown(grace, done) => {
                        self.listener = None;
                        let ended = async { while self.connections.join_next().await.is_some() {} };
                        let _ = timeout(grace, ended).await;
                        self.connections.shutdown().await;
                        let _ = done.send(());
                        return;
                    }
                }
            }
        }
    }

    fn serve(&mut self, stream: TcpStream) {
        let number = self.shared.counters.accepted.fetch_add(1, Relaxed);
        self.connections.spawn(link::serve(stream, number, Arc::clone(&self.shared)));
    }

    async fn up(&mut self) -> io::Result<()> {
        if self.listener.is_none() {
            self.listener = Some(TcpListener::bind(self.shared.address).await?);
        }
        Ok(())
    }
}

/// The next connection; never, while there is no listener.
async fn accept(listener: Option<&TcpListener>) -> TcpStream {
    let Some(listener) = listener else { return never(std::future::pending().await) };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            // Out of file descriptors, mostly; that passes, and until then trying is of no use.
            Err(_) => sleep(Duration::from_millis(10)).await,
        }
    }
}

fn never(never: Infallible) -> TcpStream {
    match never {}
}
