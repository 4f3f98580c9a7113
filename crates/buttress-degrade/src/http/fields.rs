//! What single header fields of requests and responses say.

use std::time::Duration;

use buttress_core::clock::wall;
use http::header::{
    AGE, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, DATE, ETAG, EXPIRES,
    SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;

use super::directives::seconds;
use super::{CACHE_STATUS, DEGRADATION};

/// What of a 304 is not true of the answer that it confirms: what describes the body, the connection and this one response.
pub(super) const NOT_RENEWED: [HeaderName; 13] = [
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_RANGE,
    CONTENT_TYPE,
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    CACHE_STATUS,
    DEGRADATION,
];

/// The `ETag`, as RFC 9110 § 8.8.3.2 compares it weakly.
pub(super) fn etag(headers: &HeaderMap) -> Option<&[u8]> {
    let etag = headers.get(ETAG)?.as_bytes();
    Some(etag.strip_prefix(b"W/").unwrap_or(etag))
}

/// RFC 9111 § 4.2.1: `Expires` minus `Date`. What is no date is in the past.
pub(super) fn expires_in(headers: &HeaderMap) -> Option<Duration> {
    let expires = headers.get(EXPIRES)?;
    let now = date(headers.get(DATE)).unwrap_or_else(wall);
    Some(date(Some(expires)).and_then(|expires| expires.duration_since(now).ok()).unwrap_or_default())
}

fn date(value: Option<&HeaderValue>) -> Option<std::time::SystemTime> {
    httpdate::parse_http_date(value?.to_str().ok()?).ok()
}

/// RFC 9111 § 4.2.3: by the answer's `Age` and the time that it took, or by its `Date`, whichever makes it older. This is all
/// that the wall clock has a part in: from here on the age counts on tokio's.
pub(super) fn initial_age(sent: Instant, headers: &HeaderMap) -> Duration {
    let age =
        headers.get(AGE).and_then(|age| age.to_str().ok()).map_or(Duration::ZERO, |age| seconds(age.trim()));
    let apparent =
        date(headers.get(DATE)).and_then(|date| wall().duration_since(date).ok()).unwrap_or_default();
    // Dates are whole seconds.
    let apparent = Duration::from_secs(apparent.as_secs().saturating_sub(1));
    age.saturating_add(sent.elapsed()).max(apparent)
}

/// A copy of each value: what a client gives is a part of the buffer that it read the whole head into, and more. Cookies are for
/// whoever was answered by the service itself.
pub(super) fn detach(headers: &mut HeaderMap) {
    headers.remove(SET_COOKIE);
    for value in headers.values_mut() {
        if let Ok(mut copy) = HeaderValue::from_bytes(value.as_bytes()) {
            copy.set_sensitive(value.is_sensitive());
            *value = copy;
        }
    }
}

pub(super) type Varying = Vec<(HeaderName, Option<HeaderValue>)>;

/// The fields of a request that an answer's `Vary` names; `None` if it names all, or cannot be parsed.
pub(super) fn varying(vary: &HeaderMap, request: &HeaderMap) -> Option<Varying> {
    let mut varying = Varying::new();
    for names in vary.get_all(VARY) {
        for name in names.to_str().ok()?.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            // `*` could be a name.
            let name: HeaderName = name.parse().ok().filter(|_| name != "*")?;
            let value = combined(request, &name);
            varying.push((name, value));
        }
    }
    Some(varying)
}

/// All values of a field as one.
pub(super) fn combined(headers: &HeaderMap, name: &HeaderName) -> Option<HeaderValue> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?.clone();
    let joined =
        values.fold(first.as_bytes().to_vec(), |joined, value| [&*joined, b", ", value.as_bytes()].concat());
    HeaderValue::from_bytes(&joined).ok().or(Some(first))
}
