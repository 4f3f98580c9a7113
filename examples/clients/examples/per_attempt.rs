//! Layers of one's own in a stack: each attempt is signed anew, and no more than two are under way at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use buttress::core::{Backoff, Carried};
use buttress::http::ReplayBody;
use buttress::{BoxError, ResponseExt};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use loopback::{Do, Server, status};
use tower::limit::ConcurrencyLimitLayer;
use tower::util::{BoxCloneSyncService, MapRequestLayer};
use tower::{Layer, ServiceExt};

type Body = Full<Bytes>;

/// A type that can be written down, whatever the stack is made of.
type Api = BoxCloneSyncService<Request<Body>, Response<Incoming>, BoxError>;

/// What a signature has to be made of when it is sent: a number used once, and which attempt this is.
#[derive(Clone, Default)]
struct Signer {
    nonce: Arc<AtomicU32>,
}

impl Signer {
    fn sign(&self, mut request: Request<ReplayBody<Body>>) -> Request<ReplayBody<Body>> {
        // Nothing is carried with a first attempt.
        let attempt = request.extensions().get::<Carried>().map_or(1, |carried| carried.attempt.max(1));
        let signature = format!("nonce={} attempt={attempt}", self.nonce.fetch_add(1, Relaxed));
        let signature = HeaderValue::from_str(&signature).expect("letters and digits");
        request.headers_mut().insert(header::AUTHORIZATION, signature);
        request
    }
}

fn api() -> Result<Api, BoxError> {
    let signer = Signer::default();
    let stack = buttress::http("billing")
        .background()
        .map_retry(|retry| retry.backoff(Backoff::constant(Duration::from_millis(20))))
        // From the outside in: whoever waits for a place is signed only when it has one.
        .per_attempt(ConcurrencyLimitLayer::new(2))
        .per_attempt(MapRequestLayer::new(move |request| signer.sign(request)))
        .build()?;
    println!("{}", stack.explain());
    let client = Client::builder(TokioExecutor::new()).build_http();
    Ok(BoxCloneSyncService::new(stack.layer(client)))
}

/// So many calls at once; how many attempts they took in all.
async fn run(api: &Api, server: &Server, calls: u32) -> Result<u32, BoxError> {
    let calls = (0..calls).map(|number| {
        let request = Request::get(server.at(&format!("/invoices/{number}"))).body(Body::default());
        let api = api.clone();
        tokio::spawn(async move { api.oneshot(request?).await })
    });
    let mut attempts = 0;
    for call in calls.collect::<Vec<_>>() {
        attempts += call.await??.attempts();
    }
    Ok(attempts)
}

/// Is busy for a moment.
async fn server() -> Server {
    let busy: [Do; 3] = std::array::from_fn(|_| status(503));
    Server::start_then(busy, status(200)).await
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let server = server().await;
    let attempts = run(&api()?, &server, 8).await?;
    println!("8 calls took {attempts} attempts, at most {} of them at once", server.most_under_way());
    server.seen().iter().for_each(|seen| println!("{} {}", seen.uri, seen.header("authorization")));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[tokio::test]
    async fn each_attempt_is_signed_once_and_a_limit_holds_for_all_of_them() {
        let server = server().await;
        let attempts = run(&api().unwrap(), &server, 8).await.unwrap();
        let seen = server.seen();
        assert_eq!((attempts, seen.len()), (11, 11));
        assert!(server.most_under_way() <= 2, "{}", server.most_under_way());
        let signatures: HashSet<_> = seen.iter().map(|seen| seen.header("authorization")).collect();
        assert_eq!(signatures.len(), 11, "{signatures:?}");
        let first = signatures.iter().filter(|signature| signature.ends_with("attempt=1"));
        assert_eq!(first.count(), 8);
    }
}
