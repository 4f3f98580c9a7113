//! The HTTP clients: hyper's, as anyone would build it, bare or behind a Buttress stack.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use buttress::circuit_breaker::{self, Trip};
use buttress::core::{Backoff, Observe};
use buttress::degrade::{Component, Level};
use buttress::http::{HttpReplay, ReplayBody};
use buttress::idempotency::IdempotencyKeyLayer;
use buttress::retry::{self, Budget};
use buttress::{BoxError, ConfigError, HttpBuilder, HttpLayer};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as Hyper;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tower::ServiceBuilder;
use tower::timeout::TimeoutLayer;

use crate::timeline::Timeline;
use crate::vendors::{Body, Client, Vendor, Wire};

/// How much time there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Somebody is watching: the presets, with limits that fit into a minute.
    Demonstration,
    /// The presets as they are.
    Production,
}

/// What a client without Buttress gets: one try, at most so long.
pub(crate) const BARE_LIMIT: Duration = Duration::from_secs(5);

/// How requests get to a vendor.
#[derive(Clone, Debug)]
pub(crate) enum Reach {
    /// Over a socket.
    Network,
    /// By a call: for tests on a paused clock, which would not wait for a socket.
    #[cfg(test)]
    Here(Vec<Arc<crate::servers::Site>>),
}

impl Reach {
    pub(crate) fn wire<B>(&self, #[cfg_attr(not(test), expect(unused_variables))] vendor: Vendor) -> Wire<B>
    where
        B: hyper::body::Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
    {
        match self {
            Self::Network => {
                let hyper: Hyper<HttpsConnector<HttpConnector>, B> =
                    Hyper::builder(TokioExecutor::new()).build(connector());
                let client = ServiceBuilder::new()
                    .map_response(|response: Response<hyper::body::Incoming>| response.map(boxed))
                    .map_err(BoxError::from)
                    .service(hyper);
                Wire::new(client)
            }
            #[cfg(test)]
            Self::Here(sites) => {
                let site = Arc::clone(&sites[vendor as usize]);
                Wire::new(tower::service_fn(move |request: http::Request<B>| {
                    let site = Arc::clone(&site);
                    async move {
                        let (head, body) = request.into_parts();
                        let body = body.collect().await.map_err(Into::into)?.to_bytes();
                        let answer = site.answer(http::Request::from_parts(head, body)).await?;
                        Ok(answer.map(boxed))
                    }
                }))
            }
        }
    }
}

/// No answer that the agent asks for is longer.
const LONGEST_ANSWER: usize = 1024 * 1024;

/// A body of no particular kind.
pub(crate) fn boxed<B>(body: B) -> Body
where
    B: hyper::body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    Limited::new(body, LONGEST_ANSWER).boxed_unsync()
}

/// A client as most programs have it.
pub(crate) fn bare(vendor: Vendor, reach: &Reach, timeline: &Arc<Timeline>) -> Client {
    let client = ServiceBuilder::new()
        .layer(TimeoutLayer::new(BARE_LIMIT))
        .map_result(told(vendor, timeline))
        .service(reach.wire(vendor));
    Client::new(client)
}

/// The same client behind a Buttress stack, and that is the whole difference.
pub(crate) fn protected(
    vendor: Vendor,
    client: Wire<Body>,
    stack: &HttpLayer,
    timeline: &Arc<Timeline>,
    component: Option<Component>,
) -> Client {
    let client = ServiceBuilder::new()
        .map_result(move |result| {
            if let Some(component) = &component {
                component.report(level(&result));
            }
            result
        })
        // In a step of a workflow a call has the step's key, which is the same after a crash.
        .layer(IdempotencyKeyLayer::http().from_step())
        .layer(stack.clone())
        .map_result(told(vendor, timeline))
        .map_request(|request: Request<ReplayBody<Full<Bytes>>>| request.map(boxed))
        .service(client);
    Client::new(client)
}

/// How good an answer is: one that says that the caller is at fault is as good as any.
fn level(result: &Result<Response<Body>, BoxError>) -> Level {
    match result {
        Ok(response) if !response.status().is_server_error() && response.status() != 429 => Level::Full,
        Ok(_) | Err(_) => Level::Failed,
    }
}

/// The stack for one vendor; with a seed it draws the same delays each time.
pub(crate) fn stack(
    vendor: Vendor,
    pace: Pace,
    seed: Option<u64>,
    observers: Vec<Arc<dyn Observe>>,
) -> Result<HttpLayer, ConfigError> {
    let builder = buttress::http(vendor.as_str());
    let builder = match pace {
        Pace::Production => production(vendor, builder),
        Pace::Demonstration => demonstration(vendor, builder)?,
    };
    let builder = match vendor {
        // All that this agent asks of Datadog is answers, and its searches are `POST`s.
        Vendor::Datadog => builder.replay(HttpReplay::new().every_method()),
        Vendor::Aws | Vendor::Service | Vendor::PagerDuty => builder,
    };
    let builder = match seed {
        Some(seed) => builder.map_retry(|retry| retry.seed(seed.wrapping_add(vendor as u64))),
        None => builder,
    };
    observers.into_iter().fold(builder, HttpBuilder::observe).build()
}

fn production(vendor: Vendor, builder: HttpBuilder) -> HttpBuilder {
    match vendor {
        // Nobody waits for an agent's queries, and its few calls earn no retries in advance.
        Vendor::Datadog => builder.datadog().background().total(secs(300)),
        Vendor::Aws => builder.aws(),
        Vendor::Service => builder.user_facing(),
        Vendor::PagerDuty => builder.pagerduty(),
    }
}

fn demonstration(vendor: Vendor, builder: HttpBuilder) -> Result<HttpBuilder, ConfigError> {
    let backoff = Backoff::exponential(Duration::from_millis(300), 2.0, secs(1))?;
    // An outage on show is mostly failures, which earn no retries: there are enough in hand.
    let retry = retry::Config::background().backoff(backoff).budget(Budget::ratio(0.1, 20)?).rate_gate(true);
    let breaker = circuit_breaker::Config::standard().trip(Trip::ConsecutiveFailures(3)).open_for(secs(3));
    Ok(match vendor {
        // There is somebody else to ask.
        Vendor::Datadog => builder.datadog().total(secs(6)).attempt(secs(1)).retry(retry.max_retries(1)),
        Vendor::Aws => builder.aws().total(secs(15)).attempt(secs(2)),
        Vendor::Service => builder.total(secs(4)).attempt(secs(1)).retry(retry.max_retries(2)),
        Vendor::PagerDuty => builder.pagerduty().total(secs(20)).attempt(secs(2)).retry(retry),
    }
    .circuit_breaker(breaker))
}

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Rustls with Mozilla's roots; plain HTTP for servers on this machine.
fn connector() -> HttpsConnector<HttpConnector> {
    // The provider is named, because rustls has no default one where a build has two.
    let provider = rustls::crypto::ring::default_provider();
    let builder = HttpsConnectorBuilder::new().with_provider_and_webpki_roots(provider);
    builder.expect("ring has the suites of TLS 1.2 and 1.3").https_or_http().enable_http1().build()
}

/// Tells the timeline what came back.
fn told(
    vendor: Vendor,
    timeline: &Arc<Timeline>,
) -> impl Fn(Result<Response<Body>, BoxError>) -> Result<Response<Body>, BoxError> + Clone + use<> {
    let timeline = Arc::clone(timeline);
    move |result| {
        let outcome = result.as_ref().map(Response::status);
        timeline.came_back(vendor, outcome.map_err(|error| &**error as &(dyn Error + 'static)));
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::Console;
    use buttress::core::observe_fn;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tower::ServiceExt;

    #[test]
    fn every_stack_can_be_built_and_nothing_about_it_looks_wrong() {
        for vendor in Vendor::ALL {
            for pace in [Pace::Demonstration, Pace::Production] {
                let stack = stack(vendor, pace, Some(7), vec![observe_fn(|_, _| ())]).unwrap();
                // In the demonstration one call may open its circuit: that is what one wants to see.
                let shown = |code| pace == Pace::Demonstration && code == "B007";
                let explanation = stack.explain();
                let mut warnings = explanation.warnings().iter();
                assert!(warnings.all(|warning| shown(warning.code)), "{explanation}");
            }
        }
    }

    #[tokio::test]
    async fn an_https_url_is_answered_over_tls_or_not_at_all() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut hello = [0; 3];
            stream.read_exact(&mut hello).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            hello
        });
        let timeline = Arc::new(Timeline::start(Console::silent()));
        let request = Request::get(url).body(Full::default()).unwrap();
        bare(Vendor::Datadog, &Reach::Network, &timeline).oneshot(request).await.unwrap_err();
        // A handshake record, TLS 1.0 or later (RFC 8446 § 5.1).
        assert_eq!(server.await.unwrap()[..2], [22, 3]);
    }
}
