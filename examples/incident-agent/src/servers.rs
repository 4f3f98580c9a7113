//! The embedded vendors: servers on this machine that speak the vendors' wire formats, with chaos before them.

pub(crate) mod apart;
mod aws;
mod datadog;
pub(crate) mod ledger;
mod pagerduty;
mod service;

use std::convert::Infallible;
use std::fmt;
use std::future::{pending, ready};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use buttress::BoxError;
use buttress_chaos::ChaosBody;
use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt};

use crate::chaos::Chaos;
use crate::incident::Incident;
use crate::vendors::datadog::VALIDATE;
use crate::vendors::{Base, Vendor};
use ledger::{Entry, Ledger, State};

/// A restart is complete when it has been looked at so often; so every run without chaos makes the same calls.
pub(crate) const LOOKS: u32 = 6;

/// What the vendors have in common: the service that is ill, until its restart is complete.
#[derive(Debug)]
pub(crate) struct World {
    incident: Incident,
    /// How often a restart has to be looked at until it is complete.
    looks: u32,
    /// Restarts happen where they are not seen: at a real ECS.
    restarts_elsewhere: bool,
    /// The service is well without a restart that was seen.
    is_well: AtomicBool,
    ledger: Mutex<Ledger>,
}

impl World {
    pub(crate) fn new(incident: &Incident, ledger: Ledger, restarts_elsewhere: bool) -> Arc<Self> {
        let (ledger, is_well) = (Mutex::new(ledger), AtomicBool::new(false));
        Arc::new(Self { incident: incident.clone(), looks: LOOKS, restarts_elsewhere, is_well, ledger })
    }

    /// With a restart that takes longer.
    #[cfg(test)]
    pub(crate) fn slow(incident: &Incident, looks: u32) -> Arc<Self> {
        let mut world = Self::new(incident, Ledger::in_memory(&incident.key), false);
        Arc::get_mut(&mut world).unwrap().looks = looks;
        world
    }

    /// The service is well without anybody's doing.
    #[cfg(test)]
    pub(crate) fn recover(&self) {
        self.is_well.store(true, Relaxed);
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn state(&self) -> State {
        self.ledger().state().clone()
    }

    pub(crate) fn note(&self, entry: &Entry) {
        self.ledger().add(entry);
    }

    /// Makes a change, unless one with this key has been made.
    fn effect(&self, vendor: Vendor, what: &str, key: Option<&str>) {
        let mut ledger = self.ledger();
        let applied = vendor == Vendor::Aws || !key.is_some_and(|key| ledger.state().knows(key));
        let (what, key) = (what.to_owned(), key.map(str::to_owned));
        ledger.add(&Entry::Effect { vendor, what, key, applied });
    }

    fn is_well(&self) -> bool {
        self.is_well.load(Relaxed) || self.ledger().state().looks() >= Some(self.looks)
    }

    /// The metric, as whoever measures it now finds it.
    fn measure(&self) -> f64 {
        let height = if self.is_well() { 0.35 } else { 2.3 };
        if self.restarts_elsewhere {
            // It was restarted because of this measurement, if it ever is.
            self.is_well.store(true, Relaxed);
        }
        self.incident.threshold * height
    }
}

/// The status and the JSON of an answer.
type Reply = (StatusCode, Value);

type Answer = Response<ChaosBody<Full<Bytes>>>;

/// What becomes of the requests to one vendor.
pub(crate) struct Site {
    vendor: Vendor,
    world: Arc<World>,
    service: BoxCloneSyncService<Request<Bytes>, Answer, BoxError>,
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Site").field("vendor", &self.vendor).finish_non_exhaustive()
    }
}

impl Site {
    /// A vendor in this world, with its rules from their beginning.
    pub(crate) fn new(vendor: Vendor, chaos: &Chaos, world: &Arc<World>) -> Arc<Self> {
        let here = Arc::clone(world);
        let vendor_itself = tower::service_fn(move |request: Request<Bytes>| {
            let (head, body) = request.into_parts();
            ready(Ok::<_, Infallible>(json(reply(vendor, &here, &head, &body))))
        });
        let service = BoxCloneSyncService::new(chaos.layer(vendor).layer(vendor_itself));
        Arc::new(Self { vendor, world: Arc::clone(world), service })
    }

    /// The answer, or what a fault without one does.
    pub(crate) async fn answer(&self, request: Request<Bytes>) -> Result<Answer, BoxError> {
        // A check of its client is no call of the agent's.
        let is_check = request.uri().path() == VALIDATE;
        let vendor = self.vendor;
        self.world.note(&if is_check { Entry::Checked { vendor } } else { Entry::Received { vendor } });
        let mut response = self.service.clone().oneshot(request).await?;
        let json = header::HeaderValue::from_static("application/json");
        response.headers_mut().entry(header::CONTENT_TYPE).or_insert(json);
        Ok(response)
    }
}

fn reply(vendor: Vendor, world: &World, head: &Parts, body: &[u8]) -> Reply {
    match vendor {
        Vendor::Datadog => datadog::reply(world, head, body),
        Vendor::Aws => aws::reply(world, head, body),
        Vendor::Service => service::reply(world, head),
        Vendor::PagerDuty => pagerduty::reply(world, head, body),
    }
}

fn json((status, body): Reply) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body.to_string()));
    *response.status_mut() = status;
    response
}

/// One server for each vendor, until it is dropped.
#[derive(Debug)]
pub(crate) struct Servers {
    /// In the order of [`Vendor::ALL`].
    servers: Vec<Server>,
}

impl Servers {
    /// Starts all of them; some may find no caller.
    pub(crate) async fn start(chaos: &Chaos, world: &Arc<World>) -> std::io::Result<Self> {
        let mut servers = Vec::new();
        for vendor in Vendor::ALL {
            servers.push(Server::start(Site::new(vendor, chaos, world)).await?);
        }
        Ok(Self { servers })
    }

    pub(crate) fn bases(&self) -> Vec<Base> {
        self.servers.iter().map(|server| server.base.clone()).collect()
    }
}

#[derive(Debug)]
struct Server {
    base: Base,
    accepting: JoinHandle<Infallible>,
}

impl Server {
    async fn start(site: Arc<Site>) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let base = Base::local(listener.local_addr()?);
        Ok(Self { base, accepting: tokio::spawn(accept(listener, site)) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, site: Arc<Site>) -> Infallible {
    // The connections end with the server.
    let mut connections = JoinSet::new();
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            connections.spawn(serve(stream, Arc::clone(&site)));
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(stream: TcpStream, site: Arc<Site>) {
    let cut = Notify::new();
    let service = service_fn(|request| over_the_wire(&site, request, &cut));
    let mut connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        _ = &mut connection => return,
        () = cut.notified() => {}
    }
    // A socket that lingers for no time is reset when it is closed.
    let stream = connection.into_parts().io.into_inner();
    let _ = stream.set_zero_linger();
}

async fn over_the_wire(
    site: &Site,
    request: Request<Incoming>,
    cut: &Notify,
) -> Result<Answer, hyper::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let Ok(response) = site.answer(Request::from_parts(head, body)).await else {
        // A fault without an answer.
        cut.notify_one();
        return pending().await;
    };
    Ok(response)
}
