use std::fmt;

use http::Uri;
use http::uri::Scheme;

/// A [`Uri`] that is kept in case it is needed again: a short one as text, of which it is then made anew.
///
/// To clone a `Uri` counts two references up, and to drop it two down: four locked operations. To copy some fifty bytes takes a
/// fraction of that. What has more than 85, or is no URL of `http`, `https` or a path, is cloned.
#[derive(Clone)]
pub struct KeptUri(Form);

#[derive(Clone)]
enum Form {
    Text { len: u8, text: [u8; ROOM] },
    Whole(Uri),
}

/// It makes no more of it than a `Uri` is.
const ROOM: usize = 85;

impl KeptUri {
    /// Keeps this one.
    #[inline]
    pub fn new(uri: &Uri) -> Self {
        Self(Form::text(uri).unwrap_or_else(|| Form::Whole(uri.clone())))
    }

    /// One that is equal to it.
    pub fn restored(&self) -> Uri {
        match &self.0 {
            Form::Text { len, text } => {
                Uri::try_from(&text[..usize::from(*len)]).expect("what was a URI is one again")
            }
            Form::Whole(uri) => uri.clone(),
        }
    }
}

impl Form {
    #[inline]
    fn text(uri: &Uri) -> Option<Self> {
        let path = uri.path_and_query()?.as_str();
        // What does not part itself from the authority would become a part of it.
        if !path.starts_with(['/', '?']) {
            return None;
        }
        let (scheme, authority) = match (uri.scheme(), uri.authority()) {
            (Some(scheme), Some(authority)) if *scheme == Scheme::HTTP => ("http://", authority.as_str()),
            (Some(scheme), Some(authority)) if *scheme == Scheme::HTTPS => ("https://", authority.as_str()),
            (None, None) if path.starts_with('/') => ("", ""),
            _ => return None,
        };
        let mut text = [0; ROOM];
        let mut end = 0;
        for part in [scheme, authority, path] {
            text.get_mut(end..end + part.len())?.copy_from_slice(part.as_bytes());
            end += part.len();
        }
        Some(Self::Text { len: u8::try_from(end).ok()?, text })
    }
}

/// As that of the URI.
impl fmt::Display for KeptUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.restored().fmt(f)
    }
}

impl fmt::Debug for KeptUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.restored(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn is_text(uri: &Uri) -> bool {
        matches!(KeptUri::new(uri).0, Form::Text { .. })
    }

    fn assert_kept(uri: &Uri) {
        let restored = KeptUri::new(uri).restored();
        assert_eq!(restored, *uri);
        assert_eq!(restored.to_string(), uri.to_string());
        let parts = |uri: &Uri| {
            let path = uri.path_and_query().map(|path| path.as_str().to_owned());
            (uri.scheme().cloned(), uri.authority().map(|authority| authority.as_str().to_owned()), path)
        };
        assert_eq!(parts(&restored), parts(uri));
    }

    #[test]
    fn it_is_no_larger_than_a_uri() {
        assert_eq!(size_of::<KeptUri>(), size_of::<Uri>());
    }

    #[test]
    fn every_form_of_a_uri_is_restored_as_it_was() {
        let long = format!("https://api.example/{}", "x".repeat(ROOM));
        let (text, whole) = (true, false);
        for (uri, as_text) in [
            ("http://a/", text),
            ("http://a", text),
            ("http://a?q", text),
            ("https://user:pass@api.example:8443/v2/enqueue?since=now&x=%20#fragment", text),
            ("http://[::1]:80/", text),
            ("HTTP://Example.COM/", text),
            ("/v2/enqueue?since=now", text),
            ("/", text),
            ("/a//b", text),
            ("*", whole),
            ("a.example:443", whole),
            ("ftp://a/b", whole),
            (&long, whole),
        ] {
            let uri = uri.parse::<Uri>().unwrap();
            assert_eq!(is_text(&uri), as_text, "{uri}");
            assert_kept(&uri);
        }
        assert_kept(&Uri::default());
        // `OPTIONS *` through a client that picks the connection by its authority.
        let all = Uri::builder().scheme("http").authority("a.example").path_and_query("*").build().unwrap();
        assert!(!is_text(&all), "as text the star would belong to the host");
        assert_kept(&all);
        assert_kept(&Uri::from_static("http://a/").into_parts().path_and_query.unwrap().into());
    }

    #[test]
    fn what_just_has_room_is_text() {
        let of = |len: usize| format!("http://a/{}", "x".repeat(len - 9)).parse::<Uri>().unwrap();
        assert!(is_text(&of(ROOM)));
        assert!(!is_text(&of(ROOM + 1)));
        assert_kept(&of(ROOM));
        assert_kept(&of(ROOM + 1));
    }

    proptest! {
        #[test]
        fn any_uri_is_restored_as_it_was(scheme in "(http|https|ws)", authority in "[a-zA-Z0-9.@:\\[\\]é-]{0,40}", path in "[/a-zA-Z0-9?#%.é&=*]{0,80}") {
            for text in [format!("{scheme}://{authority}{path}"), format!("{authority}{path}"), path] {
                if let Ok(uri) = text.parse::<Uri>() {
                    assert_kept(&uri);
                }
            }
        }
    }
}
