use std::fmt;
use std::sync::{Arc, OnceLock};

use http::uri::{Authority, Scheme};
use http::{HeaderValue, Uri};

/// The idempotency key of one logical call and the origin that it was made for, shared by all attempts at the call.
///
/// A retry puts an empty one beside a request that has no key, so that a layer *inside* it that makes a key for the first
/// attempt finds the same key at every other one. In the extensions of requests.
#[derive(Clone, Debug, Default)]
pub struct CallKey(Arc<OnceLock<(HeaderValue, Origin)>>);

impl CallKey {
    /// The key of the call, and for whom it was made; `None` as long as there is none.
    pub fn get(&self) -> Option<(&HeaderValue, &Origin)> {
        self.0.get().map(|(key, origin)| (key, origin))
    }

    /// The same, but this key if there is none yet. It is marked as [sensitive](HeaderValue::set_sensitive).
    pub fn get_or_set(&self, mut key: HeaderValue, origin: Origin) -> (&HeaderValue, &Origin) {
        key.set_sensitive(true);
        let (key, origin) = self.0.get_or_init(|| (key, origin));
        (key, origin)
    }
}

/// Where a request goes: scheme, host and port (RFC 9110 § 4.3.1). A URI without them has none of them.
#[derive(Clone)]
pub struct Origin {
    scheme: Option<Scheme>,
    authority: Option<Authority>,
}

impl Origin {
    /// That of a URI.
    pub fn of(uri: &Uri) -> Self {
        Self { scheme: uri.scheme().cloned(), authority: uri.authority().cloned() }
    }

    fn host(&self) -> &str {
        self.authority.as_ref().map_or("", Authority::host)
    }

    fn port(&self) -> Option<u16> {
        let port = self.authority.as_ref().and_then(Authority::port_u16);
        port.or(match self.scheme.as_ref()?.as_str() {
            "https" => Some(443),
            "http" => Some(80),
            _ => None,
        })
    }
}

impl PartialEq for Origin {
    fn eq(&self, other: &Self) -> bool {
        self.scheme == other.scheme
            && self.port() == other.port()
            && self.host().eq_ignore_ascii_case(other.host())
    }
}

impl Eq for Origin {}

/// `https://api.example.com:443`, with the port, in lower case, and without the user's name and password.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.scheme.as_ref().map_or("", Scheme::as_str);
        write!(f, "{scheme}://{}", self.host().to_ascii_lowercase())?;
        self.port().map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(uri: &'static str) -> Origin {
        Origin::of(&Uri::from_static(uri))
    }

    #[test]
    fn clones_of_a_call_share_its_key() {
        let call = CallKey::default();
        let other = call.clone();
        assert!(call.get().is_none());
        let key = |key| HeaderValue::from_static(key);
        assert_eq!(other.get_or_set(key("a"), origin("https://a")).0, "a");
        assert_eq!(call.get_or_set(key("b"), origin("https://b")), (&key("a"), &origin("https://a")));
        assert_eq!(format!("{call:?}"), "CallKey(OnceLock((Sensitive, https://a:443)))");
    }

    #[test]
    fn equal_origins_read_the_same() {
        let same = [origin("https://u:secret@API.example.com"), origin("https://api.example.com:443/x?y")];
        assert_eq!(same[0], same[1]);
        assert!(same.iter().all(|origin| origin.to_string() == "https://api.example.com:443"));
        for other in ["http://api.example.com", "https://api.example.com:80", "https://example.com", "/x"] {
            assert_ne!(origin(other), same[0]);
            assert_ne!(origin(other).to_string(), same[0].to_string());
        }
        assert_eq!(origin("http://[::1]/").to_string(), "http://[::1]:80");
    }
}
