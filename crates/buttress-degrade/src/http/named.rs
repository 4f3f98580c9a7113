//! What a write has changed besides the URI that it went to.

use http::header::{CONTENT_LOCATION, LOCATION};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Uri};

/// The keys of what an answer's `Location` and `Content-Location` name: of the same origin, as RFC 9111 § 4.4 demands, and of the same
/// principal as this key.
pub(super) fn named(key: &str, headers: &HeaderMap) -> Vec<String> {
    let Some((whose, uri)) = key.rsplit_once('\n') else { return Vec::new() };
    let Ok(target) = uri.parse::<Uri>() else { return Vec::new() };
    let host = whose.rsplit_once('\n').map_or("", |(_, host)| host);
    let origin = target.path_and_query().and_then(|path| uri.strip_suffix(path.as_str())).unwrap_or_default();
    let references =
        [LOCATION, CONTENT_LOCATION].into_iter().filter_map(|name| headers.get(name)?.to_str().ok());
    let paths = references.filter_map(|reference| resolve(&target, host, reference));
    paths.map(|path| format!("{whose}\n{origin}{path}")).filter(|named| named != key).collect()
}

/// The path and query of a reference, relative to what was asked for, or to the host that it was asked for. `None` of another
/// origin, and of what would take more to resolve: dot segments, a reference that begins with the host.
fn resolve(target: &Uri, host: &str, reference: &str) -> Option<PathAndQuery> {
    let reference = reference.split('#').next()?.trim();
    let absolute = reference.parse::<Uri>().ok().filter(|uri| uri.scheme().is_some());
    let path = if let Some(absolute) = absolute {
        let asked: Authority =
            if host.is_empty() { target.authority()?.clone() } else { host.parse().ok()? };
        let scheme = target.scheme().or(absolute.scheme())?;
        if origin(scheme, &asked) != origin(absolute.scheme()?, absolute.authority()?) {
            return None;
        }
        absolute.into_parts().path_and_query?
    } else {
        let base = match reference.as_bytes() {
            [] | [b'/', b'/', ..] => return None,
            [b'/', ..] => "",
            [b'?', ..] => target.path(),
            // A scheme ends there.
            _ if reference.split(['/', '?']).next()?.contains(':') => return None,
            _ => &target.path()[..=target.path().rfind('/')?],
        };
        format!("{base}{reference}").parse().ok()?
    };
    let is_dots = |segment: &str| matches!(&*segment.to_ascii_lowercase().replace("%2e", "."), "." | "..");
    (!path.path().split('/').any(is_dots)).then_some(path)
}

/// What two URIs of the same origin have in common (RFC 9110 § 4.3.1): a port that is not named is that of the scheme.
fn origin<'a>(scheme: &'a Scheme, authority: &Authority) -> (&'a Scheme, String, Option<u16>) {
    let usual = if *scheme == Scheme::HTTPS { Some(443) } else { (*scheme == Scheme::HTTP).then_some(80) };
    (scheme, authority.host().to_ascii_lowercase(), authority.port_u16().or(usual))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn what_is_of_the_same_origin_is_found() {
        let target = "http://shop.example/orders/7?full";
        for (key, reference, expected) in [
            (target, "/orders/8", Some("http://shop.example/orders/8")),
            (target, "8?a=b#part", Some("http://shop.example/orders/8?a=b")),
            (target, "?short", Some("http://shop.example/orders/7?short")),
            (target, "http://Shop.example/", Some("http://shop.example/")),
            (target, "http://shop.example", Some("http://shop.example/")),
            ("/orders/7", "/orders/8", Some("/orders/8")),
            (target, "http://shop.example:80/orders/8", Some("http://shop.example/orders/8")),
            (target, "http://me@shop.example/orders/8", Some("http://shop.example/orders/8")),
            ("https://shop.example:443/", "https://shop.example/a", Some("https://shop.example:443/a")),
            ("https://[::1]:8443/", "https://[::1]:8443/a", Some("https://[::1]:8443/a")),
            (target, "https://shop.example/orders/8", None),
            (target, "http://shop.example:8080/orders/8", None),
            (target, "http://shop.example/a/../orders/8", None),
            (target, "http://shop.example/a/%2E./orders/8", None),
            (target, "/a/%2e%2e/orders/8", None),
            ("/orders/7", "http://shop.example/orders/8", None),
            (target, "http://other.example/orders/8", None),
            (target, "//other.example/orders/8", None),
            (target, "../8", None),
            (target, "", None),
            (target, "http://[", None),
            (target, target, None),
        ] {
            let headers = HeaderMap::from_iter([(LOCATION, HeaderValue::from_static(reference))]);
            let expected: Vec<_> = expected.iter().map(|uri| format!("me\n\n{uri}")).collect();
            assert_eq!(named(&format!("me\n\n{key}"), &headers), expected, "{key} {reference}");
        }
    }

    #[test]
    fn the_origin_is_the_host_that_was_named() {
        let key = "\nshop.example\nhttp://10.0.0.1/orders";
        for (reference, found) in [
            ("http://shop.example/orders/8", true),
            ("http://Shop.example:80/orders/8", true),
            ("https://shop.example/orders/8", false),
            ("http://10.0.0.1/orders/8", false),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_LOCATION, HeaderValue::from_static(reference))]);
            let expected = found.then(|| "\nshop.example\nhttp://10.0.0.1/orders/8".to_owned());
            assert_eq!(named(key, &headers), Vec::from_iter(expected), "{reference}");
        }
    }
}
