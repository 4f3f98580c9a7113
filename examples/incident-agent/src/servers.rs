//! The embedded vendors: servers on this machine that speak the vendors' wire formats, with chaos before them.

mod aws;
mod datadog;
mod pagerduty;

use std::convert::Infallible;
use std::fmt;
use std::future::{pending, ready};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

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
use crate::vendors::{Base, Vendor};

pub(crate) use pagerduty::Paged;

/// One server for each vendor, until it is dropped.
#[derive(Debug)]
pub(crate) struct Servers {
    /// In the order of [`Vendor::ALL`].
    servers: [Server; 3],
    world: Arc<World>,
}

/// What the vendors have in common: the service that is ill, until its restart is complete.
#[derive(Debug)]
pub(crate) struct World {
    incident: Incident,
    /// How often the restart has been looked at since it began.
    looks: Mutex<Option<u32>>,
    /// Restarts happen where they are not seen: at a real ECS.
    restarts_elsewhere: bool,
    paged: Mutex<Paged>,
}

/// A restart is complete when it has been looked at so often; so every run without chaos makes the same calls.
const LOOKS: u32 = 4;

impl World {
    fn restart(&self) {
        *self.looks.lock().unwrap_or_else(PoisonError::into_inner) = Some(0);
    }

    /// Looks at the restart: how many of its steps are done.
    fn look(&self) -> Option<u32> {
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        looks.as_mut().map(|looks| {
            *looks = LOOKS.min(*looks + 1);
            *looks
        })
    }

    /// Whether whoever measures the service now finds it well.
    fn measure(&self) -> bool {
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        let is_well = *looks == Some(LOOKS);
        if self.restarts_elsewhere {
            // It was restarted because of this measurement, if it ever is.
            *looks = Some(LOOKS);
        }
        is_well
    }
}

/// The status and the JSON of an answer.
type Reply = (StatusCode, Value);

impl Servers {
    /// Starts all three, with the rules from their beginning; some may find no caller.
    pub(crate) async fn start(
        incident: &Incident,
        chaos: &Chaos,
        restarts_elsewhere: bool,
    ) -> std::io::Result<Self> {
        let world = Arc::new(World {
            incident: incident.clone(),
            looks: Mutex::new(None),
            restarts_elsewhere,
            paged: Mutex::new(Paged::new(&incident.key)),
        });
        let start = |vendor| Server::start(vendor, chaos, Arc::clone(&world));
        let servers =
            [start(Vendor::Datadog).await?, start(Vendor::Aws).await?, start(Vendor::PagerDuty).await?];
        Ok(Self { servers, world })
    }

    pub(crate) fn base(&self, vendor: Vendor) -> Base {
        self.server(vendor).base.clone()
    }

    /// How many requests have arrived.
    pub(crate) fn received(&self, vendor: Vendor) -> u64 {
        self.server(vendor).site.received.load(Relaxed)
    }

    /// What PagerDuty has been told.
    pub(crate) fn paged(&self) -> Paged {
        self.world.paged.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The service is well without anybody's doing.
    #[cfg(test)]
    pub(crate) fn recover(&self) {
        *self.world.looks.lock().unwrap() = Some(LOOKS);
    }

    fn server(&self, vendor: Vendor) -> &Server {
        &self.servers[vendor as usize]
    }
}

#[derive(Debug)]
struct Server {
    base: Base,
    site: Arc<Site>,
    accepting: JoinHandle<Infallible>,
}

type Answer = Response<ChaosBody<Full<Bytes>>>;

/// What becomes of requests.
struct Site {
    service: BoxCloneSyncService<Request<Bytes>, Answer, BoxError>,
    received: AtomicU64,
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Site").field("received", &self.received).finish_non_exhaustive()
    }
}

impl Server {
    async fn start(vendor: Vendor, chaos: &Chaos, world: Arc<World>) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let base = Base::local(listener.local_addr()?);
        let vendor_itself = tower::service_fn(move |request: Request<Bytes>| {
            let (head, body) = request.into_parts();
            ready(Ok::<_, Infallible>(json(reply(vendor, &world, &head, &body))))
        });
        let service = BoxCloneSyncService::new(chaos.layer(vendor).layer(vendor_itself));
        let site = Arc::new(Site { service, received: AtomicU64::new(0) });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&site)));
        Ok(Self { base, site, accepting })
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
    let service = service_fn(|request| site.answer(request, &cut));
    let mut connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        _ = &mut connection => return,
        () = cut.notified() => {}
    }
    // A socket that lingers for no time is reset when it is closed.
    let stream = connection.into_parts().io.into_inner();
    let _ = stream.set_zero_linger();
}

impl Site {
    async fn answer(&self, request: Request<Incoming>, cut: &Notify) -> Result<Answer, hyper::Error> {
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        self.received.fetch_add(1, Relaxed);
        let Ok(mut response) = self.service.clone().oneshot(Request::from_parts(head, body)).await else {
            // A fault without an answer.
            cut.notify_one();
            return pending().await;
        };
        let json = header::HeaderValue::from_static("application/json");
        response.headers_mut().entry(header::CONTENT_TYPE).or_insert(json);
        Ok(response)
    }
}

fn reply(vendor: Vendor, world: &World, head: &Parts, body: &[u8]) -> Reply {
    match vendor {
        Vendor::Datadog => datadog::reply(world, head, body),
        Vendor::Aws => aws::reply(world, head, body),
        Vendor::PagerDuty => pagerduty::reply(world, head, body),
    }
}

fn json((status, body): Reply) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body.to_string()));
    *response.status_mut() = status;
    response
}
