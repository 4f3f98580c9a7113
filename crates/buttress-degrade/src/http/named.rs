//! What a write has changed besides the URI that it went to.

use http::header::{CONTENT_LOCATION, LOCATION};
use http::uri::PathAndQuery;
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

/// The path and query of a reference, relative to what was asked for. `None` of another origin, and of what would take more to
/// resolve: dot segments, a reference that begins with the host.
fn resolve(target: &Uri, host: &str, reference: &str) -> Option<PathAndQuery> {
    let reference = reference.split('#').next()?.trim();
    let absolute = reference.parse::<Uri>().ok().filter(|uri| uri.scheme().is_some());
    if let Some(absolute) = absolute {
        let authority = absolute.authority()?.as_str();
        let same = if host.is_empty() {
            let asked = target.authority()?.as_str();
            target.scheme() == absolute.scheme() && asked.eq_ignore_ascii_case(authority)
        } else {
            host.eq_ignore_ascii_case(authority)
        };
        return absolute.into_parts().path_and_query.filter(|_| same);
    }
    let base = match reference.as_bytes() {
        [] | [b'/', b'/', ..] => return None,
        [b'/', ..] => "",
        [b'?', ..] => target.path(),
        // A scheme ends there.
        _ if reference.split(['/', '?']).next()?.contains(':') => return None,
        _ => &target.path()[..=target.path().rfind('/')?],
    };
    let path = format!("{base}{reference}").parse::<PathAndQuery>().ok()?;
    (!path.path().split('/').any(|segment| matches!(segment, "." | ".."))).then_some(path)
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
            (target, "https://shop.example/orders/8", None),
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
        for (reference, found) in
            [("http://shop.example/orders/8", true), ("http://10.0.0.1/orders/8", false)]
        {
            let headers = HeaderMap::from_iter([(CONTENT_LOCATION, HeaderValue::from_static(reference))]);
            let expected = found.then(|| "\nshop.example\nhttp://10.0.0.1/orders/8".to_owned());
            assert_eq!(named(key, &headers), Vec::from_iter(expected), "{reference}");
        }
    }
}
