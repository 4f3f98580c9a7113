use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use buttress_core::BoxError;
use buttress_store::{Fingerprint, ScopedKey};
use http::request::Parts;
use http::{Request, header};
use http_body::Body;

use super::body::{Read, RequestBody};
use super::canonical;
use super::keys::{HttpKeys, IDEMPOTENCY_KEY};
use crate::error::{Error, InvalidKey};
use crate::key::{Hash, parse_key};
use crate::protocol::Identity;
use crate::value::scoped;

/// Resolves to an HTTP request and what identifies it, once its body has been read.
pub struct Identified<B> {
    keys: HttpKeys,
    /// `None` inside if the request is to be carried out without one.
    key: Option<Result<Option<ScopedKey>, Error>>,
    request: Option<(Parts, RequestBody<B>)>,
    /// What of the cap is left.
    left: usize,
}

impl<B> Identified<B> {
    pub(super) fn new(keys: HttpKeys, request: Request<B>) -> Self {
        let (parts, body) = request.into_parts();
        let key = keys.key(&parts).and_then(|key| {
            // Before a byte of it is read.
            if keys.is_too_large(&parts) { keys.too_large() } else { Ok(Some(key)) }
        });
        let left = keys.shared.max_request_body;
        Self { keys, key: Some(key), request: Some((parts, RequestBody::passing(body))), left }
    }
}

impl<B> fmt::Debug for Identified<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identified")
    }
}

impl<B> Future for Identified<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    type Output = (Request<RequestBody<B>>, Result<Option<Identity>, Error>);

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { keys, key, request, left } = self.get_mut();
        let (parts, body) = request.as_mut().expect("a future is not polled again after it was ready");
        let read = match key {
            Some(Ok(Some(_))) => ready!(body.poll_read(cx, left)),
            _ => Read::Whole,
        };
        let identified = match (key.take().expect("it is there as long as the request is"), read) {
            (Ok(Some(key)), Read::Whole) => Ok(Some((key, keys.hash(parts, body)))),
            (Ok(Some(_)), Read::TooLarge) => keys.too_large(),
            (Ok(Some(_)), Read::Failed) => {
                let error = body.error().unwrap_or_else(|| "the body failed".into());
                Err(Error::RequestFailed(error))
            }
            (Ok(None), _) => Ok(None),
            (Err(error), _) => Err(error),
        };
        let (parts, body) = request.take().expect("it was there above");
        Poll::Ready((Request::from_parts(parts, body), identified))
    }
}

impl HttpKeys {
    fn key(&self, parts: &Parts) -> Result<ScopedKey, Error> {
        let mut keys = parts.headers.get_all(IDEMPOTENCY_KEY).iter();
        let key = keys.next().ok_or(Error::KeyMissing)?;
        if keys.next().is_some() {
            return Err(Error::KeyInvalid(InvalidKey::Repeated));
        }
        let key = parse_key(key.as_bytes()).map_err(Error::KeyInvalid)?;
        let scope = self.shared.scope.as_ref().map_or(Cow::Borrowed(""), |scope| scope(parts));
        scoped(&scope, &key)
    }

    /// By what it says of its length.
    fn is_too_large(&self, parts: &Parts) -> bool {
        let declared = parts.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        declared
            .and_then(|length| length.parse().ok())
            .is_some_and(|length: usize| length > self.shared.max_request_body)
    }

    fn too_large<T>(&self) -> Result<Option<T>, Error> {
        let limit = self.shared.max_request_body;
        if self.shared.pass_larger { Ok(None) } else { Err(Error::RequestTooLarge { limit }) }
    }

    fn hash<B>(&self, parts: &Parts, body: &RequestBody<B>) -> Fingerprint {
        let mut pieces = body.pieces();
        let (first, second) = (pieces.next(), pieces.next());
        let body = match (first, second) {
            (None, _) => Cow::Borrowed(&[][..]),
            (Some(whole), None) => Cow::Borrowed(&whole[..]),
            _ => body.pieces().flat_map(|piece| piece.iter().copied()).collect(),
        };
        if let Some(fingerprint) = &self.shared.fingerprint {
            return fingerprint(parts, &body, Hash::new()).fingerprint();
        }
        let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
        let hash = Hash::new().part(parts.method.as_str()).part(target);
        let json = if self.shared.canonical_json { canonical::hash(&body) } else { None };
        match json {
            Some(json) => hash.part("json").part(json.fingerprint().as_bytes()),
            None => hash.part(&*body),
        }
        .fingerprint()
    }
}
