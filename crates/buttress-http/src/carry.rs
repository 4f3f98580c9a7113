use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use buttress_core::clock::wall;
use buttress_core::{Backoff, Carried, Carry, KeyOf, Stop};

use crate::Http;
use crate::hint::retry_after;
use crate::replay::{is_idempotent, is_said_to_be_repeatable};
use crate::status::LONGEST_HINT;

/// In the extensions of requests and responses. Nothing is written where there is nothing to say.
impl<B> Carry<http::Request<B>> for Http {
    const ACTIVE: bool = true;

    fn carried<'a>(&self, request: &'a http::Request<B>) -> Option<&'a Carried> {
        request.extensions().get()
    }

    fn carry(&self, request: &mut http::Request<B>, change: impl FnOnce(&mut Carried)) {
        change(request.extensions_mut().get_or_insert_default());
    }

    /// As [`HttpReplay`](crate::HttpReplay) has it: an idempotent method, a key, or the caller's word.
    fn may_repeat(&self, request: &http::Request<B>) -> bool {
        is_idempotent(request.method()) || is_said_to_be_repeatable(request)
    }
}

impl<B> Carry<http::Response<B>> for Http {
    const ACTIVE: bool = true;

    fn carried<'a>(&self, response: &'a http::Response<B>) -> Option<&'a Carried> {
        response.extensions().get()
    }

    fn carry(&self, response: &mut http::Response<B>, change: impl FnOnce(&mut Carried)) {
        change(response.extensions_mut().get_or_insert_default());
    }
}

/// Limits and a key of a request's own, for the layers that it passes through.
///
/// ```
/// use std::time::Duration;
/// use buttress_http::RequestExt;
/// use http::Request;
///
/// let request = Request::post("https://events.pagerduty.com/v2/enqueue").body("{}").unwrap();
/// // The receiver knows a repetition by the `dedup_key` in the body, so this request may be sent again.
/// let request = request.with_idempotency_key("incident-42").with_time_limit(Duration::from_secs(60));
/// # let _ = request;
/// ```
pub trait RequestExt: Sized {
    /// Retries this request at most so often, in place of the layer's own limit, which may be lower; 0 sends it once.
    #[must_use]
    fn with_max_retries(self, max_retries: u32) -> Self;

    /// Waits so before retries of this request, in place of the layer's own delays; what the server asks for still counts.
    #[must_use]
    fn with_backoff(self, backoff: Backoff) -> Self;

    /// Gives this request so much time in all, in place of the total deadline's own limit.
    #[must_use]
    fn with_time_limit(self, limit: Duration) -> Self;

    /// Gives each attempt at this request so much time, in place of the attempt deadline's own limit.
    #[must_use]
    fn with_attempt_limit(self, limit: Duration) -> Self;

    /// Says that applying this request several times is the same as applying it once, as that of a search that is sent as
    /// a `POST`.
    #[must_use]
    fn repeatable(self) -> Self;

    /// Says that the receiver recognises a repetition of this request by this key, wherever in the request it is. No
    /// header is set.
    #[must_use]
    fn with_idempotency_key(self, key: impl Into<Arc<str>>) -> Self;
}

impl<B> RequestExt for http::Request<B> {
    fn with_max_retries(mut self, max_retries: u32) -> Self {
        Http::new().carry(&mut self, |carried| carried.max_retries = Some(max_retries));
        self
    }

    fn with_backoff(mut self, backoff: Backoff) -> Self {
        Http::new().carry(&mut self, |carried| carried.backoff = Some(Arc::new(backoff)));
        self
    }

    fn with_time_limit(mut self, limit: Duration) -> Self {
        Http::new().carry(&mut self, |carried| carried.time_limit = Some(limit));
        self
    }

    fn with_attempt_limit(mut self, limit: Duration) -> Self {
        Http::new().carry(&mut self, |carried| carried.attempt_limit = Some(limit));
        self
    }

    fn repeatable(mut self) -> Self {
        Http::new().carry(&mut self, |carried| carried.repeatable = true);
        self
    }

    fn with_idempotency_key(mut self, key: impl Into<Arc<str>>) -> Self {
        Http::new().carry(&mut self, |carried| carried.idempotency_key = Some(key.into()));
        self
    }
}

/// What a stack has noted on a response.
pub trait ResponseExt {
    /// How many attempts it took to get it. Of an answer that a chain of fallbacks has given in place of a failure, or a store has kept, this
    /// says 1, and [`gave_up`](Self::gave_up) nothing: it is another answer than that which was asked for so often.
    fn attempts(&self) -> u32;

    /// Why a retry made no further attempt, if this is a failure that it gave up on. `None` of an answer that is no failure, and of
    /// one that is never retried and came at the first attempt. Of a retry above another one, with a policy of its own, the word of the one below
    /// stays on an answer that the one above finds good.
    fn gave_up(&self) -> Option<Stop>;

    /// How long the server wants to be left alone, if it says so in `Retry-After`; at most a day.
    fn retry_after(&self) -> Option<Duration>;
}

impl<B> ResponseExt for http::Response<B> {
    fn attempts(&self) -> u32 {
        Http::new().carried(self).map_or(1, |carried| carried.attempt.max(1))
    }

    fn gave_up(&self) -> Option<Stop> {
        Http::new().carried(self)?.stop
    }

    fn retry_after(&self) -> Option<Duration> {
        let value = self.headers().get(http::header::RETRY_AFTER)?;
        Some(retry_after(value, wall())?.min(LONGEST_HINT))
    }
}

/// Host and port, from the URI's authority or else from the `Host` header: without credentials, since keys are shown, and in small
/// letters and without the scheme's own port, since these are the same server (RFC 3986 § 6.2.3). Borrowed where it is so already.
impl<B> KeyOf<http::Request<B>> for Http {
    fn key<'a>(&self, request: &'a http::Request<B>) -> Option<Cow<'a, str>> {
        let authority = request.uri().authority().map(http::uri::Authority::as_str);
        let host = || request.headers().get(http::header::HOST)?.to_str().ok();
        let key = authority.or_else(host)?;
        let key = key.rsplit_once('@').map_or(key, |(_, server)| server);
        let port = match request.uri().scheme_str() {
            Some("https") => ":443",
            Some("http") => ":80",
            _ => "",
        };
        let key = key.strip_suffix(port).unwrap_or(key);
        let lower = !key.bytes().any(|byte| byte.is_ascii_uppercase());
        Some(if lower { Cow::Borrowed(key) } else { Cow::Owned(key.to_ascii_lowercase()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    #[test]
    fn a_request_is_keyed_by_its_authority() {
        let key = |uri: &str, host: Option<&str>| {
            let mut request = Request::builder().uri(uri);
            if let Some(host) = host {
                request = request.header("host", host);
            }
            Http::new().key(&request.body(()).unwrap()).map(Cow::into_owned)
        };
        assert_eq!(
            key("https://api.datadoghq.com:8443/x", Some("other")).as_deref(),
            Some("api.datadoghq.com:8443")
        );
        assert_eq!(key("/x", Some("api.pagerduty.com")).as_deref(), Some("api.pagerduty.com"));
        assert_eq!(key("/x", None), None);
        let same = "api.pagerduty.com";
        for uri in [
            "https://user:secret@api.pagerduty.com/x",
            "https://API.PagerDuty.com:443/",
            "http://api.pagerduty.com:80/",
        ] {
            assert_eq!(key(uri, None).as_deref(), Some(same), "{uri}");
        }
        assert_eq!(key("http://api.pagerduty.com:443/", None).as_deref(), Some("api.pagerduty.com:443"));
    }

    #[test]
    fn a_response_says_how_it_came_and_when_to_come_back() {
        let response = |value: &str| http::Response::builder().header("retry-after", value).body(()).unwrap();
        assert_eq!(
            (response("7").attempts(), response("7").retry_after()),
            (1, Some(Duration::from_secs(7)))
        );
        assert_eq!(response("999999999").retry_after(), Some(Duration::from_secs(86_400)));
        assert_eq!(response("soon").retry_after(), None);
        let mut third = response("7");
        Http::new().carry(&mut third, |carried| carried.attempt = 3);
        assert_eq!((third.attempts(), third.gave_up()), (3, None));
        Http::new().carry(&mut third, |carried| carried.stop = Some(Stop::Budget));
        assert_eq!((third.attempts(), third.gave_up()), (3, Some(Stop::Budget)));
    }

    #[test]
    fn what_may_go_to_somebody_else_is_idempotent_or_said_to_be() {
        let may = |request: Request<()>| Http::new().may_repeat(&request);
        let of = |method: &str| Request::builder().method(method).body(()).unwrap();
        assert!(["GET", "HEAD", "PUT", "DELETE"].into_iter().all(|method| may(of(method))));
        assert!(!["POST", "PATCH"].into_iter().any(|method| may(of(method))));
        assert!(may(of("POST").repeatable()) && may(of("POST").with_idempotency_key("k1")));
        assert!(may(Request::post("/").header("idempotency-key", "k1").body(()).unwrap()));
    }

    #[test]
    fn what_is_carried_survives_a_clone() {
        let mut request = Request::new(());
        assert!(Http::new().carried(&request).is_none());
        Http::new().carry(&mut request, |carried| carried.attempt = 2);
        Http::new().carry(&mut request, |carried| carried.max_retries = Some(1));
        let carried = Http::new().carried(&request.clone()).cloned().unwrap();
        assert_eq!((carried.attempt, carried.max_retries), (2, Some(1)));
    }
}
