//! Controls toxic proxies over HTTP.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use buttress_core::ConfigError;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::{TcpListener, ToSocketAddrs};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Duration, sleep};

use crate::proxy::{ProxyHandle, ToxicError};
use crate::written::WrittenToxic;

/// A server that controls toxic proxies, for a shell or another process. Paths and bodies are a part of toxiproxy's own API.
///
/// | request | what |
/// |---|---|
/// | `GET /proxies` | all proxies, by name |
/// | `GET /proxies/NAME` | one: `name`, `listen`, `upstream`, `enabled`, `toxics`, `counts` |
/// | `POST /proxies/NAME` | `{"enabled": false}` cuts and refuses connections, `true` accepts them again; `{"upstream": "host:port"}` forwards further ones there |
/// | `GET /proxies/NAME/toxics` | its toxics |
/// | `POST /proxies/NAME/toxics` | adds one |
/// | `GET /proxies/NAME/toxics/TOXIC` | one toxic |
/// | `POST` or `PATCH /proxies/NAME/toxics/TOXIC` | replaces it, whole |
/// | `DELETE /proxies/NAME/toxics/TOXIC` | removes it |
/// | `POST /reset` | removes every toxic of every proxy, and accepts connections again |
///
/// A toxic is written as in [toxiproxy](https://github.com/Shopify/toxiproxy#toxics): `type`, `stream`, `toxicity` and
/// `attributes`, where a time is a number of milliseconds (microseconds for `slicer`) or text (`"250ms"`), with `from`,
/// `until` and `every` on top. What cannot be done is answered with 400, 404 or 409 and `{"error": "…"}`.
///
/// ```sh
/// curl -d '{"type": "latency", "attributes": {"latency": "250ms", "jitter": "50ms"}}' localhost:8474/proxies/db/toxics
/// curl -X DELETE localhost:8474/proxies/db/toxics/latency_downstream
/// ```
///
/// There is no authentication: listen on a loopback address. A request with an `Origin`, which is a web page's, is answered with 403. It serves until it is dropped.
#[derive(Debug)]
pub struct ControlServer {
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

type Proxies = BTreeMap<String, ProxyHandle>;

impl ControlServer {
    /// Listens on an address, port 0 for any, and controls these proxies under these names.
    ///
    /// # Errors
    ///
    /// If it cannot listen there.
    pub async fn listen<N: Into<String>>(
        address: impl ToSocketAddrs,
        proxies: impl IntoIterator<Item = (N, ProxyHandle)>,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let proxies: Proxies = proxies.into_iter().map(|(name, handle)| (name.into(), handle)).collect();
        let accepting = tokio::spawn(accept(listener, Arc::new(proxies)));
        Ok(Self { address, accepting })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, proxies: Arc<Proxies>) {
    // The connections end with the server.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let proxies = Arc::clone(&proxies);
                    let service = service_fn(move |request| answer(request, Arc::clone(&proxies)));
                    connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
                }
                Err(_) => sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// What was asked for, or why it cannot be.
type Outcome = Result<Value, Refusal>;

struct Refusal(StatusCode, String);

impl From<ConfigError> for Refusal {
    fn from(error: ConfigError) -> Self {
        Self(StatusCode::BAD_REQUEST, error.to_string())
    }
}

impl From<ToxicError> for Refusal {
    fn from(error: ToxicError) -> Self {
        let status = match error {
            ToxicError::Exists(_) => StatusCode::CONFLICT,
            ToxicError::NotFound(_) => StatusCode::NOT_FOUND,
            ToxicError::Invalid(_) => StatusCode::BAD_REQUEST,
        };
        Self(status, error.to_string())
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}

async fn answer(
    request: Request<Incoming>,
    proxies: Arc<Proxies>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, value) = match route(request, &proxies).await {
        Ok(value) => (StatusCode::OK, value),
        Err(Refusal(status, error)) => (status, json!({ "error": error })),
    };
    let mut response = Response::new(Full::from(format!("{value}\n")));
    *response.status_mut() = status;
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    Ok(response)
}

/// No toxic is written in more bytes than this.
const BODY: usize = 64 << 10;

async fn route(request: Request<Incoming>, proxies: &Proxies) -> Outcome {
    let (head, body) = request.into_parts();
    if head.headers.contains_key(header::ORIGIN) {
        let refused = "web pages are not answered: one that is open on this machine could forward connections elsewhere";
        return Err(Refusal(StatusCode::FORBIDDEN, refused.to_owned()));
    }
    let bad = |error: &dyn std::fmt::Display| Refusal(StatusCode::BAD_REQUEST, error.to_string());
    let body = Limited::new(body, BODY).collect().await.map_err(|error| bad(&error))?.to_bytes();
    let path: Vec<&str> = head.uri.path().trim_matches('/').split('/').collect();
    let proxy = |name: &str| {
        let known = || format!("there is no proxy `{name}`, only {:?}", proxies.keys().collect::<Vec<_>>());
        proxies.get(name).ok_or_else(|| Refusal(StatusCode::NOT_FOUND, known()))
    };
    match (&head.method, &path[..]) {
        (&Method::GET, ["proxies"]) => {
            let mut all = serde_json::Map::new();
            for (name, handle) in proxies {
                all.insert(name.clone(), describe(name, handle).await);
            }
            Ok(all.into())
        }
        (&Method::GET, ["proxies", name]) => Ok(describe(name, proxy(name)?).await),
        (&Method::POST, ["proxies", name]) => {
            let handle = proxy(name)?;
            change(handle, &body).await?;
            Ok(describe(name, handle).await)
        }
        (&Method::POST, ["reset"]) => {
            for handle in proxies.values() {
                handle.clear();
                handle.up().await?;
            }
            Ok(json!({}))
        }
        (method, ["proxies", name, "toxics", rest @ ..]) => toxics(method, proxy(name)?, rest, &body),
        (method, _) => Err(unknown(method, head.uri.path())),
    }
}

fn toxics(method: &Method, proxy: &ProxyHandle, path: &[&str], body: &[u8]) -> Outcome {
    match (method, path) {
        (&Method::GET, []) => {
            Ok(proxy.toxics().iter().map(WrittenToxic::from).map(written).collect::<Vec<_>>().into())
        }
        (&Method::POST, []) => {
            let toxic = read::<WrittenToxic>(body)?.read()?;
            proxy.add(toxic.clone())?;
            Ok(written((&toxic.clone().named(toxic.name())).into()))
        }
        (&Method::GET, [name]) => {
            let toxic = proxy.toxics().into_iter().find(|toxic| toxic.name() == *name);
            let toxic = toxic.ok_or_else(|| ToxicError::NotFound((*name).to_owned()))?;
            Ok(written((&toxic).into()))
        }
        (&Method::POST | &Method::PATCH, [name]) => {
            let toxic = read::<WrittenToxic>(body)?.read()?.named(*name);
            proxy.update(toxic.clone())?;
            Ok(written((&toxic).into()))
        }
        (&Method::DELETE, [name]) => {
            proxy.remove(name)?;
            Ok(json!({}))
        }
        (method, path) => Err(unknown(method, &path.join("/"))),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    enabled: Option<bool>,
    upstream: Option<String>,
}

async fn change(proxy: &ProxyHandle, body: &[u8]) -> Result<(), Refusal> {
    let Change { enabled, upstream } = read(body)?;
    if let Some(upstream) = upstream {
        proxy.set_upstream(upstream);
    }
    match enabled {
        Some(true) => Ok(proxy.up().await?),
        Some(false) => Ok(proxy.down().await?),
        None => Ok(()),
    }
}

async fn describe(name: &str, proxy: &ProxyHandle) -> Value {
    let toxics: Vec<_> = proxy.toxics().iter().map(WrittenToxic::from).map(written).collect();
    let counts = proxy.counts();
    json!({
        "name": name,
        "listen": proxy.local_addr(),
        "upstream": proxy.upstream(),
        "enabled": proxy.is_up().await,
        "toxics": toxics,
        "counts": {
            "accepted": counts.accepted,
            "open": counts.open,
            "upstream_bytes": counts.upstream_bytes,
            "downstream_bytes": counts.downstream_bytes,
        },
    })
}

fn written(mut toxic: WrittenToxic) -> Value {
    toxic
        .name
        .get_or_insert_with(|| format!("{}_{}", toxic.kind, toxic.stream.as_deref().unwrap_or("downstream")));
    serde_json::to_value(toxic).unwrap_or_default()
}

fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Refusal> {
    let bad =
        |error| Refusal(StatusCode::BAD_REQUEST, format!("the body is not what is expected here: {error}"));
    serde_json::from_slice(body).map_err(bad)
}

fn unknown(method: &Method, path: &str) -> Refusal {
    Refusal(
        StatusCode::NOT_FOUND,
        format!("there is no {method} {path}; see the documentation of `ControlServer`"),
    )
}
