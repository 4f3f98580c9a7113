use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use buttress_chaos::{Stream, Toxic, ToxicProxy};
use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use services::Program;
use tokio::time::sleep;
use tower::service_fn;

use super::World;
use crate::fault::Fault;
use crate::network::{cut, free_port, restore};
use crate::{BoxError, Client, backend};

/// A parent starts its child again so long after its end, which is systemd's default (`RestartSec`).
const RESTART_AFTER: Duration = Duration::from_millis(100);
/// On loopback a connection is there at once or not at all.
const CONNECT_WITHIN: Duration = Duration::from_millis(30);

/// Two backends, which are processes, and before the first one a link that can be ill. The client speaks HTTP/2 over one
/// connection, as gRPC's and most SDKs' do.
#[derive(Debug)]
pub struct Http {
    fault: Fault,
    /// The first is the one that the fault meets.
    backends: [Arc<Mutex<Program>>; 2],
    ports: [u16; 2],
    proxy: Option<ToxicProxy>,
}

impl Http {
    /// Starts the backends.
    ///
    /// # Panics
    ///
    /// If they do not start.
    pub async fn start(fault: Fault) -> Self {
        let ports = [free_port(), free_port()];
        let bench = std::env::current_exe().expect("this program has a path");
        let backends = [backend::start(&bench, ports[0], 0).await, backend::start(&bench, ports[1], 1).await];
        let backends = backends.map(|backend| Arc::new(Mutex::new(backend)));
        let proxy = if matches!(fault, Fault::BlackHole | Fault::Unplug) {
            let upstream = format!("127.0.0.1:{}", ports[0]);
            Some(ToxicProxy::listen((Ipv4Addr::LOCALHOST, free_port()), upstream).await.expect("loopback"))
        } else {
            None
        };
        Self { fault, backends, ports, proxy }
    }

    fn signal(&self, name: &str) {
        self.backends[0].lock().unwrap_or_else(PoisonError::into_inner).signal(name);
    }

    async fn start_again(&self) {
        let backend = Arc::clone(&self.backends[0]);
        let restarted = move || backend.lock().unwrap_or_else(PoisonError::into_inner).restart();
        tokio::task::spawn_blocking(restarted).await.expect("it starts");
    }

    fn proxy(&self) -> &ToxicProxy {
        self.proxy.as_ref().expect("this fault is one of a proxy")
    }

    async fn cut(&self, cut: fn(u16)) {
        let port = self.ports[0];
        tokio::task::spawn_blocking(move || cut(port)).await.expect("the rules are loaded");
    }
}

#[async_trait]
impl World for Http {
    fn targets(&self) -> usize {
        // There is no way around a cut link.
        if self.fault == Fault::Cut { 1 } else { 2 }
    }

    async fn client(&self, target: usize) -> Result<Client, BoxError> {
        let by_proxy = self.proxy.as_ref().filter(|_| target == 0).map(|proxy| proxy.local_addr().port());
        http_client(by_proxy.unwrap_or(self.ports[target]))
    }

    async fn inject(&self) {
        match self.fault {
            Fault::Kill => {
                self.signal("KILL");
                sleep(RESTART_AFTER).await;
                self.start_again().await;
            }
            Fault::Stop => self.signal("STOP"),
            Fault::BlackHole => {
                let proxy = self.proxy().handle();
                for stream in [Stream::Upstream, Stream::Downstream] {
                    proxy.add(Toxic::black_hole().stream(stream)).expect("it is the first");
                }
            }
            Fault::Unplug => drop(self.proxy().handle().down().await),
            Fault::Cut => self.cut(cut).await,
            _ => {}
        }
    }

    async fn mend(&self) {
        match self.fault {
            Fault::Stop => self.signal("CONT"),
            Fault::BlackHole => self.proxy().handle().clear(),
            Fault::Unplug => drop(self.proxy().handle().up().await),
            Fault::Cut => self.cut(restore).await,
            _ => {}
        }
    }

    async fn restart(&self) {
        self.start_again().await;
    }
}

/// A client of this port of loopback. It connects when it is first called.
///
/// # Errors
///
/// None that is known.
pub fn http_client(port: u16) -> Result<Client, BoxError> {
    let uri: Uri = format!("http://127.0.0.1:{port}/").parse()?;
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_WITHIN));
    let client = HyperClient::builder(TokioExecutor::new()).http2_only(true).build(connector);
    Ok(Client::new(service_fn(move |()| get(client.clone(), uri.clone()))))
}

async fn get(client: HyperClient<HttpConnector, Empty<Bytes>>, uri: Uri) -> Result<usize, BoxError> {
    let request = Request::get(uri).body(Empty::new())?;
    let response = client.request(request).await?;
    if !response.status().is_success() {
        return Err(format!("the backend answered {}", response.status()).into());
    }
    let words = response.into_body().collect().await?.to_bytes();
    Ok(std::str::from_utf8(&words)?.parse()?)
}
