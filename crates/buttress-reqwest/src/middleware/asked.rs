use std::mem;
use std::sync::LazyLock;

use http::{HeaderMap, Uri};
use reqwest::{ResponseBuilderExt, Url};

use crate::service::{into_http, with_url};

/// What a call asks for, so that a URL that stays the same is not parsed again by every attempt and for its answer.
#[derive(Clone)]
pub(crate) struct Asked {
    url: Url,
}

/// In the extensions of a response that came from the URL that was asked for.
#[derive(Clone, Copy)]
struct AsAsked;

impl Asked {
    pub(crate) fn new(url: Url) -> Self {
        Self { url }
    }

    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    /// Whether it is this URL, to the letter.
    #[inline]
    pub(crate) fn is_for(&self, url: &Url) -> bool {
        self.url == *url
    }

    /// Whether this is what `http` has made of the URL.
    fn is(&self, uri: &Uri) -> bool {
        let rest =
            uri.scheme_str().and_then(|scheme| self.url.as_str().strip_prefix(scheme)?.strip_prefix("://"));
        let rest =
            rest.zip(uri.authority()).and_then(|(rest, authority)| rest.strip_prefix(authority.as_str()));
        let rest = rest.zip(uri.path_and_query()).and_then(|(rest, path)| rest.strip_prefix(path.as_str()));
        // Only a fragment is left behind.
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('#'))
    }

    /// Whether the request is for the same URL still, and of what reqwest can be told by its parts.
    #[inline]
    pub(crate) fn is_of(&self, request: &http::Request<reqwest::Body>) -> bool {
        request.extensions().is_empty() && self.is(request.uri())
    }

    /// Any request as reqwest has it.
    #[cold]
    pub(crate) fn converted(
        &self,
        mut request: http::Request<reqwest::Body>,
    ) -> Result<reqwest::Request, reqwest::Error> {
        if !self.is(request.uri()) {
            return request.try_into();
        }
        // Nothing but the conversion takes extensions along; the least of all URLs is soon parsed.
        *request.uri_mut() = Uri::from_static("http://x/");
        let mut request = reqwest::Request::try_from(request)?;
        *request.url_mut() = self.url.clone();
        Ok(request)
    }

    /// What has come from below, as `http` has it.
    pub(crate) fn to_http(&self, response: reqwest::Response) -> http::Response<reqwest::Body> {
        if *response.url() != self.url {
            return into_http(response);
        }
        let mut response = http::Response::from(response);
        response.extensions_mut().insert(AsAsked);
        response
    }

    /// Puts the URL on what has come from below, for a layer that makes an answer of its own of it, if it is another one.
    #[inline]
    pub(crate) fn note(&self, response: &mut reqwest::Response) {
        if *response.url() != self.url {
            note(response);
        }
    }

    /// What the stack answers, with its URL for `reqwest::Response::from`: that of the last hop, or else what was asked for.
    pub(crate) fn answered<B>(self, mut response: http::Response<B>) -> http::Response<B> {
        if response.extensions_mut().remove::<AsAsked>().is_none() {
            return with_url(response, self.url);
        }
        let mut builder = http::Response::builder();
        if let Some(extensions) = builder.extensions_mut() {
            *extensions = mem::take(response.extensions_mut());
        }
        let mut builder = builder.url(self.url);
        if let Some(extensions) = builder.extensions_mut() {
            *response.extensions_mut() = mem::take(extensions);
        }
        response
    }
}

/// Puts a request into one of reqwest's that has its URL and nothing else of it. It is a blank one then; its URI is given back.
#[inline(always)]
pub(crate) fn fill(asked: &mut reqwest::Request, request: &mut http::Request<reqwest::Body>) -> Uri {
    *asked.method_mut() = mem::take(request.method_mut());
    put(asked.headers_mut(), mem::take(request.headers_mut()));
    *asked.version_mut() = mem::take(request.version_mut());
    *asked.body_mut() = Some(mem::take(request.body_mut()));
    mem::take(request.uri_mut())
}

/// A URL for a request whose own is kept elsewhere: of all, one of those that are soonest parsed.
pub(crate) fn nowhere() -> Url {
    static NOWHERE: LazyLock<Url> = LazyLock::new(|| Url::parse("x:1").expect("it is a URL"));
    NOWHERE.clone()
}

#[cold]
fn note(response: &mut reqwest::Response) {
    let builder = http::Response::builder().url(response.url().clone());
    if let Ok(noted) = builder.body(()) {
        response.extensions_mut().extend(noted.into_parts().0.extensions);
    }
}

/// Puts headers in the place of none.
#[inline]
pub(crate) fn put(place: &mut HeaderMap, headers: HeaderMap) {
    let before = mem::replace(place, headers);
    if before.capacity() == 0 {
        // It owns nothing, and whoever drops it has to find that out.
        mem::forget(before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_is_known_by_its_url_and_any_other_is_not() {
        for (url, uri, same) in [
            ("http://api:8080/v1/x?y=1", "http://api:8080/v1/x?y=1", true),
            ("http://api/x#part", "http://api/x", true),
            ("HTTP://API:80", "http://api/", true),
            ("http://user:secret@api/x", "http://user:secret@api/x", true),
            ("http://api/x?y=1", "http://api/x", false),
            ("http://api/x", "http://api/x?y=1", false),
            ("http://api/x", "https://api/x", false),
            ("http://api/x", "http://api2/x", false),
            ("http://api/x", "http://api/X", false),
            ("http://api/xy", "http://api/x", false),
            ("http://api/x", "/x", false),
        ] {
            let asked = Asked::new(Url::parse(url).unwrap());
            assert_eq!(asked.is(&uri.parse().unwrap()), same, "{url} {uri}");
        }
    }
}
