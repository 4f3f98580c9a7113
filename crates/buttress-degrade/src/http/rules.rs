use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use buttress_core::{BoxError, Capture, Level};
use buttress_http::{Answer, HttpCapture};
use http::header::{
    AGE, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, DATE, ETAG, HOST, IF_MATCH, IF_MODIFIED_SINCE,
    IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, LAST_MODIFIED, PROXY_AUTHORIZATION, RANGE, SET_COOKIE,
    UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body;
use tokio::time::Instant;

use super::directives::Directives;
use super::fields::{NOT_RENEWED, combined, detach, etag, expires_in, initial_age, varying};
use super::kept::{HttpAsked, HttpKept, HttpRecording};
use super::named::named;
use super::{field, note_next_hop};
use crate::recall::{Accepts, Keep, Kept, Recall, Renewal, Restore};
use crate::store::Lifetime;

/// What says who asks.
const CREDENTIALS: [HeaderName; 10] = [
    AUTHORIZATION,
    COOKIE,
    PROXY_AUTHORIZATION,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("api-key"),
    HeaderName::from_static("dd-api-key"),
    HeaderName::from_static("dd-application-key"),
    HeaderName::from_static("x-auth-token"),
    HeaderName::from_static("x-amz-security-token"),
    HeaderName::from_static("x-csrf-token"),
];

/// What asks for less than the whole.
const OF_A_PART: [HeaderName; 4] = [RANGE, IF_RANGE, IF_NONE_MATCH, IF_MODIFIED_SINCE];

type Principal = dyn Fn(&HeaderMap) -> Option<Cow<'_, str>> + Send + Sync;

/// What RFC 9111 lets a store keep of HTTP, and how long: as a private store, or one that is shared between users.
///
/// * Kept are complete answers to `GET` without a body: 200, 203, 204, 300, 301, 308. Not kept: what says `no-store` (on either side) or
///   `Vary: *`; what is asked for by `Range` or with a condition (if the service fails, that gets the whole); and in a shared store `private`, `Set-Cookie`, and answers to `Authorization` that do not
///   allow it (§ 3.5).
/// * Requests with credentials are neither kept nor looked for, unless [`principal`](Self::principal) says whose they are.
///   Credentials are `Authorization`, `Cookie`, `Proxy-Authorization`, the usual headers of API keys and tokens (`X-Api-Key`,
///   `Api-Key`, `DD-Api-Key`, `DD-Application-Key`, `X-Auth-Token`, `X-Amz-Security-Token`, `X-CSRF-Token`), any value that
///   is marked as [sensitive](HeaderValue::is_sensitive), and what [`credential`](Self::credential) names.
/// * A `Host` that says another host than the URI is a part of the key.
/// * `Set-Cookie` is not kept of an answer: who is answered from a private store gets none.
/// * A lifetime that the answer brings (`s-maxage` in a shared store, `max-age`, `Expires`) takes the place of the store's `ttl`
///   and `while_revalidate`, and so do `stale-while-revalidate` and `stale-if-error` (RFC 5861). `no-cache` and `must-revalidate`, and in a shared store
///   `s-maxage` and `proxy-revalidate`, forbid to serve it stale, whatever fails (§ 4.2.4).
/// * A stale answer with an `ETag` or a `Last-Modified` is asked about with that, and a 304 makes it fresh again (§ 4.3), unless
///   it is degraded or forbids to keep it.
/// * What may not be used again without asking is an answer to him alone who asked, and to nobody who has waited for it (§ 4).
/// * Of each URI one answer is kept; a request whose headers differ in what its `Vary` names asks anew (§ 4.1).
/// * A write that succeeds forgets the answers of its URI and of those that its answer's `Location` and `Content-Location` name, if they
///   are of the same origin (§ 4.4); 410 forgets, too, and so does a newer complete answer that may not be kept. 401, 403 and 404 pass
///   through and change nothing.
///
/// A body over 1 MiB passes and is not kept.
///
/// The arithmetic is done here and not by `http-cache-semantics`, whose rules know nothing of `stale-if-error` and
/// `stale-while-revalidate`, which are the point; which tells time by the wall clock, by which ages run backwards; and which keeps a
/// copy of all headers of each request.
///
/// ```
/// use buttress_degrade::{HttpRules, LastGood};
///
/// let store = LastGood::new(HttpRules::private().principal(|headers| {
///     // One tenant a process: the credentials are always the same.
///     headers.contains_key("authorization").then(|| "us".into())
/// }));
/// # let _ = store;
/// ```
#[derive(Clone)]
pub struct HttpRules {
    shared: bool,
    max_body: usize,
    credentials: Arc<[HeaderName]>,
    principal: Option<Arc<Principal>>,
}

impl fmt::Debug for HttpRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("HttpRules");
        debug.field("shared", &self.shared).field("credentials", &self.credentials).finish_non_exhaustive()
    }
}

impl HttpRules {
    /// A store for the answers of one user, or of one service.
    pub fn private() -> Self {
        let credentials = CREDENTIALS.into();
        Self { shared: false, max_body: 1024 * 1024, credentials, principal: None }
    }

    /// A store for the answers of several users.
    pub fn shared() -> Self {
        Self { shared: true, ..Self::private() }
    }

    /// Keeps bodies of at most so many bytes. Default 1 MiB.
    #[must_use]
    pub fn max_body(self, bytes: usize) -> Self {
        Self { max_body: bytes, ..self }
    }

    /// This header is a credential, too, such as an API key of your own.
    #[must_use]
    pub fn credential(self, name: HeaderName) -> Self {
        let credentials = self.credentials.iter().cloned().chain([name]).collect();
        Self { credentials, ..self }
    }

    /// Whose request it is, by its headers: a part of each key. `None` neither keeps nor looks for an answer.
    ///
    /// The name is kept in memory as it is: derive it from the user or the tenant, not from a secret.
    #[must_use]
    pub fn principal(
        self,
        principal: impl Fn(&HeaderMap) -> Option<Cow<'_, str>> + Send + Sync + 'static,
    ) -> Self {
        Self { principal: Some(Arc::new(principal)), ..self }
    }

    #[cfg(feature = "store")]
    pub(super) fn is_credential(&self, name: &HeaderName) -> bool {
        self.credentials.contains(name)
    }

    /// The key of a URI, as [`LastGood::invalidate`](crate::LastGood::invalidate) takes it, of a principal if there is one.
    pub fn key_of<B>(&self, request: &Request<B>) -> Option<String> {
        let headers = request.headers();
        let has_credentials = || {
            self.credentials.iter().any(|name| headers.contains_key(name))
                || headers.values().any(HeaderValue::is_sensitive)
        };
        if self.principal.is_none() && has_credentials() {
            return None;
        }
        self.key_whoever_asks(request)
    }

    /// The same, of what may be answered from the store: a query in a body is no part of the key.
    fn key_to_look_for<B: Body>(&self, request: &Request<B>) -> Option<String> {
        let headers = request.headers();
        let body = request.body();
        if !body.is_end_stream() && body.size_hint().exact() != Some(0) {
            return None;
        }
        let protects = [IF_MATCH, IF_UNMODIFIED_SINCE, UPGRADE].iter().any(|name| headers.contains_key(name));
        if *request.method() != Method::GET || protects || Directives::of(headers).no_store {
            return None;
        }
        self.key_of(request)
    }

    /// The same, credentials or not, where there is no principal.
    fn key_whoever_asks<B>(&self, request: &Request<B>) -> Option<String> {
        let (headers, uri) = (request.headers(), request.uri());
        let principal = self.principal.as_ref().map_or(Some("".into()), |principal| principal(headers))?;
        // The origin form names no host, and a proxy that writes its backend into the URI leaves `Host` as it was.
        let host = combined(headers, &HOST);
        let host = host.as_ref().map_or(Some(""), |host| host.to_str().ok())?;
        let same = uri.authority().is_some_and(|authority| authority.as_str().eq_ignore_ascii_case(host));
        // Neither a host nor a URI has a line feed in it.
        Some(format!("{principal}\n{}\n{uri}", if same { "" } else { host }))
    }

    /// Whether it is known before its end that a body cannot be kept.
    fn is_too_large<B: Body>(&self, response: &Response<B>) -> bool {
        let headers = response.headers();
        let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.trim().parse().ok());
        let least = response.body().size_hint().lower().max(length.unwrap_or(0));
        let stream = b"text/event-stream";
        let is_stream = |value: &HeaderValue| {
            value.as_bytes().get(..stream.len()).is_some_and(|start| start.eq_ignore_ascii_case(stream))
        };
        least > self.max_body as u64 || headers.get(CONTENT_TYPE).is_some_and(is_stream)
    }

    /// What the headers of an answer say of its lifetime; `None` forbids to keep it.
    fn lifetime(&self, asked: &HttpAsked, headers: &HeaderMap, own: Lifetime) -> Option<Lifetime> {
        let says = Directives::of(headers);
        let authorized = says.public || says.must_revalidate || says.s_maxage.is_some();
        let varies_on_all = varying(headers, &asked.headers).is_none();
        if says.no_store || Directives::of(&asked.headers).no_store || varies_on_all {
            return None;
        }
        if self.shared {
            let unauthorized = asked.headers.contains_key(AUTHORIZATION) && !authorized;
            if says.private || unauthorized || headers.contains_key(SET_COOKIE) {
                return None;
            }
        }
        let s_maxage = says.s_maxage.filter(|_| self.shared);
        let explicit = s_maxage.or(says.max_age).or_else(|| expires_in(headers));
        let never_stale = says.no_cache
            || says.must_revalidate
            || s_maxage.is_some()
            || self.shared && says.proxy_revalidate;
        let stale =
            |time: Option<Duration>, own| if never_stale { Duration::ZERO } else { time.unwrap_or(own) };
        Some(Lifetime {
            age: initial_age(asked.sent, headers),
            fresh: if says.no_cache { Duration::ZERO } else { explicit.unwrap_or(own.fresh) },
            // The store's own is for answers that say nothing.
            while_revalidate: stale(
                says.stale_while_revalidate,
                if explicit.is_some() { Duration::ZERO } else { own.while_revalidate },
            ),
            if_error: stale(says.stale_if_error, own.if_error),
        })
    }
}

fn accepts(kept: &HttpKept, request: &HeaderMap) -> Accepts {
    if !kept.vary.iter().all(|(name, value)| combined(request, name) == *value) {
        return Accepts::No;
    }
    let says = Directives::of(request);
    let unconfirmed = says.no_cache || says.max_age == Some(Duration::ZERO);
    if unconfirmed { Accepts::IfConfirmed } else { Accepts::Yes }
}

impl Kept for HttpRules {
    type Record = HttpKept;

    fn size(&self, kept: &HttpKept) -> usize {
        kept.size()
    }

    /// RFC 9111 § 4: what may not be used again without asking is used for nobody else.
    fn is_for_all(&self, lifetime: &Lifetime) -> bool {
        !lifetime.left(lifetime.age).is_zero()
    }

    fn is_alike(&self, newer: &HttpKept, older: &HttpKept) -> bool {
        newer.vary == older.vary
    }
}

impl<B> Restore<Response<Answer<B>>> for HttpRules
where
    B: Body,
    B::Error: Into<BoxError>,
{
    fn restore(&self, kept: &HttpKept) -> Response<Answer<B>> {
        HttpCapture::up_to(self.max_body).restore(&kept.response).expect("only whole answers are kept")
    }
}

impl<B, Res> Recall<Request<B>, Response<Res>> for HttpRules
where
    B: Body,
    Res: Body + Send + 'static,
    Res::Error: Into<BoxError>,
{
    type Answer = Response<Answer<Res>>;
    type Asked = HttpAsked;
    type Recording = HttpRecording<Res>;

    fn key<'a>(&self, request: &'a Request<B>) -> Option<Cow<'a, str>> {
        let has = |name: &HeaderName| request.headers().contains_key(name);
        if OF_A_PART.iter().any(has) { None } else { self.key_to_look_for(request).map(Cow::Owned) }
    }

    /// A whole answer is one to those who ask for a part, or for what has changed.
    fn key_in_outage<'a>(&self, request: &'a Request<B>) -> Option<Cow<'a, str>> {
        self.key_to_look_for(request).map(Cow::Owned)
    }

    fn obsoletes(&self, request: &Request<B>) -> Option<String> {
        if request.method().is_safe() { None } else { self.key_whoever_asks(request) }
    }

    fn done(&self, answer: &Self::Answer) -> bool {
        answer.status().is_success() || answer.status().is_redirection()
    }

    fn obsoletes_too(&self, key: &str, answer: &Self::Answer) -> Vec<String> {
        named(key, answer.headers())
    }

    fn asked(&self, request: &Request<B>) -> HttpAsked {
        HttpAsked { headers: request.headers().clone(), sent: Instant::now() }
    }

    fn accepts(&self, kept: &HttpKept, request: &Request<B>) -> Accepts {
        accepts(kept, request.headers())
    }

    fn answers(&self, kept: &HttpKept, asked: &HttpAsked) -> Accepts {
        accepts(kept, &asked.headers)
    }

    fn variant(&self, kept: &HttpKept, request: &Request<B>) -> Option<u64> {
        let mut hasher = std::hash::DefaultHasher::new();
        kept.vary.iter().for_each(|(name, _)| combined(request.headers(), name).hash(&mut hasher));
        (!kept.vary.is_empty()).then(|| hasher.finish())
    }

    fn is_left(recording: &HttpRecording<Res>) -> bool {
        recording.recording.is_reading()
    }

    fn revalidate(&self, request: &mut Request<B>, kept: &HttpKept) {
        for (validator, condition) in [(ETAG, IF_NONE_MATCH), (LAST_MODIFIED, IF_MODIFIED_SINCE)] {
            if let Some(value) = kept.response.headers.get(validator) {
                request.headers_mut().insert(condition, value.clone());
            }
        }
    }

    fn renewed(
        &self,
        asked: &HttpAsked,
        kept: &HttpKept,
        response: &Response<Res>,
        own: Lifetime,
    ) -> Renewal<HttpKept> {
        let (new, old) = (response.headers(), &kept.response.headers);
        if response.status() != StatusCode::NOT_MODIFIED {
            return Renewal::Not;
        }
        if etag(new).is_some_and(|new| Some(new) != etag(old)) {
            return Renewal::Once;
        }
        let mut kept = kept.clone();
        for name in new.keys().filter(|name| !NOT_RENEWED.contains(name)) {
            kept.response.headers.remove(name);
            for value in new.get_all(name) {
                kept.response.headers.append(name, value.clone());
            }
        }
        // The age that it had is over.
        if !new.contains_key(AGE) {
            kept.response.headers.remove(AGE);
        }
        let mut headers = kept.response.headers.clone();
        headers.remove(DATE);
        headers.extend(new.get(DATE).map(|date| (DATE, date.clone())));
        kept.response.headers.remove(DATE);
        let lifetime = self.lifetime(asked, &headers, own);
        let (Some(lifetime), Some(vary)) = (lifetime, varying(&headers, &asked.headers)) else {
            return Renewal::Once;
        };
        kept.vary = vary;
        detach(&mut kept.response.headers);
        Renewal::Kept(kept, lifetime)
    }

    fn level(&self, response: &Response<Res>) -> Level {
        field::level(response.headers())
    }

    fn keep(&self, asked: &HttpAsked, response: &Response<Res>, good: bool, own: Lifetime) -> Keep {
        let (headers, status) = (response.headers(), response.status());
        let newer = good && status.is_success();
        let lifetime = self.lifetime(asked, headers, own).filter(|_| !self.is_too_large(response));
        let Some(lifetime) = lifetime else {
            return if newer || status == StatusCode::GONE { Keep::Withdraw } else { Keep::Alone };
        };
        let validates = headers.contains_key(ETAG) || headers.contains_key(LAST_MODIFIED);
        let of_use = validates || self.is_for_all(&lifetime);
        match status.as_u16() {
            410 => Keep::Forget,
            100..200 | 206 | 304 => Keep::Alone,
            200 | 203 | 204 | 300 | 301 | 308 if good && of_use => Keep::Store(lifetime),
            200 | 203 | 204 | 300 | 301 | 308 if good => Keep::Withdraw,
            _ if newer => Keep::Forget,
            _ => Keep::Share,
        }
    }

    fn capture(
        &self,
        asked: HttpAsked,
        mut response: Response<Res>,
    ) -> (Response<Answer<Res>>, HttpRecording<Res>) {
        note_next_hop(&mut response);
        // Where it is `None` nothing is kept.
        let vary = varying(response.headers(), &asked.headers).unwrap_or_default();
        let (answer, recording) = HttpCapture::up_to(self.max_body).stop_at_cap().capture(response);
        (answer, HttpRecording { recording, vary })
    }
}
