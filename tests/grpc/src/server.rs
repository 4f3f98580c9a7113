use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};
use tonic_health::ServingStatus;

use crate::echo::echo_server::{Echo, EchoServer};
use crate::echo::{Answer, Ask};
use crate::script::{Do, Script, Seen};

/// A tonic server that serves until it is dropped, and then breaks off as one that was killed does.
#[derive(Debug)]
pub struct Server {
    /// Another one after each revival: nobody can keep a port for it.
    address: Arc<Mutex<SocketAddr>>,
    script: Script,
    /// Of its own, so that it can end with all its connections.
    runtime: Option<Runtime>,
}

impl Server {
    /// Follows the script, and serves what comes after it.
    pub async fn start(script: impl IntoIterator<Item = Do>) -> Self {
        Self::start_then(script, Do::Pass).await
    }

    /// Follows the script, and does this with what comes after it.
    pub async fn start_then(script: impl IntoIterator<Item = Do>, then: Do) -> Self {
        let script = Script::new(script, then);
        let (address, runtime) = serve(script.clone()).await;
        Self { address: Arc::new(Mutex::new(address)), script, runtime: Some(runtime) }
    }

    /// Ends it, with all its connections, and returns when they are gone.
    ///
    /// # Panics
    ///
    /// If that takes longer than a minute.
    pub fn kill(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        // A runtime must not be waited for inside of another one.
        let (ended, end) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            drop(runtime);
            let _ = ended.send(());
        });
        end.recv_timeout(Duration::from_secs(60)).expect("a server that ends");
    }

    /// Starts it again, and leads the channels that there are to it.
    pub async fn revive(&mut self) {
        let (address, runtime) = serve(self.script.clone()).await;
        *self.address.lock().unwrap_or_else(PoisonError::into_inner) = address;
        self.runtime = Some(runtime);
    }

    /// From now on follows this script, and does this with what comes after it.
    pub fn script(&self, script: impl IntoIterator<Item = Do>, then: Do) {
        self.script.set(script, then);
    }

    /// A channel of tonic's to it, which connects when it is first needed.
    pub fn channel(&self) -> Channel {
        let address = Arc::clone(&self.address);
        let connect = tower::service_fn(move |_| {
            let address = *address.lock().unwrap_or_else(PoisonError::into_inner);
            async move { Ok::<_, io::Error>(TokioIo::new(TcpStream::connect(address).await?)) }
        });
        Endpoint::from_static("http://echo").connect_with_connector_lazy(connect)
    }

    /// The calls so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.script.seen()
    }

    /// How many calls there were so far.
    pub fn calls(&self) -> usize {
        self.script.seen().len()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn serve(script: Script) -> (SocketAddr, Runtime) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a loopback interface");
    listener.set_nonblocking(true).expect("an option of sockets");
    let address = listener.local_addr().expect("it is bound");
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_service_status("echo.v1.Echo", ServingStatus::Serving).await;
    runtime.spawn(async move {
        let listener = TcpListener::from_std(listener).expect("a listener");
        let mut server = tonic::transport::Server::builder().layer(script);
        let server = server.add_service(EchoServer::new(Echoing)).add_service(health_service);
        // Keeps what it reports.
        let _health = health;
        server.serve_with_incoming(TcpListenerStream::new(listener)).await
    });
    (address, runtime)
}

/// The service.
#[derive(Clone, Copy, Debug)]
pub struct Echoing;

type Answers = Pin<Box<dyn Stream<Item = Result<Answer, Status>> + Send>>;

fn echoed(ask: Ask) -> Answer {
    Answer { text: ask.text }
}

#[tonic::async_trait]
impl Echo for Echoing {
    type ExpandStream = Answers;
    type ChatStream = Answers;

    async fn unary(&self, ask: Request<Ask>) -> Result<Response<Answer>, Status> {
        Ok(Response::new(echoed(ask.into_inner())))
    }

    /// All of what it is asked, one after the other.
    async fn collect(&self, asks: Request<Streaming<Ask>>) -> Result<Response<Answer>, Status> {
        let (mut asks, mut text) = (asks.into_inner(), String::new());
        while let Some(ask) = asks.next().await {
            text.push_str(&ask?.text);
        }
        Ok(Response::new(Answer { text }))
    }

    /// A letter every 50 ms.
    async fn expand(&self, ask: Request<Ask>) -> Result<Response<Answers>, Status> {
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move {
            for letter in ask.into_inner().text.chars() {
                if sender.send(Ok(Answer { text: letter.into() })).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn chat(&self, asks: Request<Streaming<Ask>>) -> Result<Response<Answers>, Status> {
        Ok(Response::new(Box::pin(asks.into_inner().map(|ask| ask.map(echoed)))))
    }
}
