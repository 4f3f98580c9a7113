use std::fmt;

use bytes::{Buf, BufMut, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

/// A response as it is stored.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredResponse {
    /// The status.
    pub status: StatusCode,
    /// The headers that are replayed.
    pub headers: HeaderMap,
    /// The body; `None` if it was larger than the cap.
    pub body: Option<Bytes>,
    /// What came after the body.
    pub trailers: Option<HeaderMap>,
}

impl fmt::Debug for StoredResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Headers and bodies hold secrets.
        let length = self.body.as_ref().map(Bytes::len);
        f.debug_struct("StoredResponse")
            .field("status", &self.status)
            .field("length", &length)
            .finish_non_exhaustive()
    }
}

/// A response that is in memory as a whole.
impl<B: Into<Bytes>> From<Response<B>> for StoredResponse {
    fn from(response: Response<B>) -> Self {
        let (parts, body) = response.into_parts();
        Self { status: parts.status, headers: parts.headers, body: Some(body.into()), trailers: None }
    }
}

/// Bytes that hold no response, or one that was stored by a newer release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unreadable;

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("what is stored is no response, or was stored by a newer release")
    }
}

impl std::error::Error for Unreadable {}

/// The first byte, which names the layout: status, headers, trailers, body, each with its length before it.
const VERSION: u8 = 1;

impl StoredResponse {
    /// A complete response, from where it was stored.
    pub fn new(status: StatusCode, headers: HeaderMap, body: Bytes, trailers: Option<HeaderMap>) -> Self {
        Self { status, headers, body: Some(body), trailers }
    }

    /// The response as bytes, for a store.
    pub fn encode(&self) -> Bytes {
        let body = self.body.as_deref().unwrap_or_default();
        let mut out = Vec::with_capacity(256 + body.len());
        out.put_u8(VERSION);
        out.put_u16(self.status.as_u16());
        put_headers(&mut out, Some(&self.headers));
        put_headers(&mut out, self.trailers.as_ref());
        out.put_u8(self.body.is_some().into());
        out.put_slice(body);
        out.into()
    }

    /// The response that these bytes hold; its body is a part of them.
    ///
    /// # Errors
    ///
    /// If they hold none.
    pub fn decode(mut bytes: Bytes) -> Result<Self, Unreadable> {
        let decoded = (|| {
            if bytes.try_get_u8().ok()? != VERSION {
                return None;
            }
            let status = StatusCode::from_u16(bytes.try_get_u16().ok()?).ok()?;
            let headers = get_headers(&mut bytes)??;
            let trailers = get_headers(&mut bytes)?;
            let body = match bytes.try_get_u8().ok()? {
                0 if bytes.is_empty() => None,
                1 => Some(bytes),
                _ => return None,
            };
            Some(Self { status, headers, body, trailers })
        })();
        decoded.ok_or(Unreadable)
    }
}

/// How many, and each with its length; `u32::MAX` stands for none at all.
fn put_headers(out: &mut Vec<u8>, headers: Option<&HeaderMap>) {
    let Some(headers) = headers else { return out.put_u32(u32::MAX) };
    out.put_u32(length(headers.len()));
    for (name, value) in headers {
        for part in [name.as_str().as_bytes(), value.as_bytes()] {
            out.put_u32(length(part.len()));
            out.put_slice(part);
        }
    }
}

/// A `HeaderMap` holds 32,768 values at most, and none of them is as long as memory.
fn length(length: usize) -> u32 {
    u32::try_from(length).expect("a header has less than 4 GiB")
}

#[allow(clippy::option_option, reason = "damaged, or none, or some")]
fn get_headers(bytes: &mut Bytes) -> Option<Option<HeaderMap>> {
    let count = bytes.try_get_u32().ok()?;
    if count == u32::MAX {
        return Some(None);
    }
    let mut headers = HeaderMap::new();
    for _ in 0..count {
        let name = HeaderName::from_bytes(&get_part(bytes)?).ok()?;
        let value = HeaderValue::from_maybe_shared(get_part(bytes)?).ok()?;
        headers.try_append(name, value).ok()?;
    }
    Some(Some(headers))
}

fn get_part(bytes: &mut Bytes) -> Option<Bytes> {
    let length = usize::try_from(bytes.try_get_u32().ok()?).ok()?;
    (length <= bytes.len()).then(|| bytes.split_to(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response() -> StoredResponse {
        let response = Response::builder().status(402).header("set-cookie", "a").header("set-cookie", "b");
        let latin = HeaderValue::from_bytes(b"caf\xe9").unwrap();
        let mut stored = StoredResponse::from(response.header("x-latin", latin).body("no funds").unwrap());
        stored.trailers = Some(HeaderMap::from_iter([("x-sum".parse().unwrap(), "1".parse().unwrap())]));
        stored
    }

    /// IA-32
    #[test]
    fn headers_that_repeat_or_are_no_text_survive() {
        assert_eq!(StoredResponse::decode(response().encode()), Ok(response()));
        let cut = StoredResponse { body: None, trailers: None, ..response() };
        assert_eq!(StoredResponse::decode(cut.encode()), Ok(cut));
    }

    #[test]
    fn what_is_cut_off_or_of_a_newer_release_is_refused() {
        let whole = response().encode();
        let head = whole.len() - "no funds".len();
        for length in 0..head {
            assert_eq!(StoredResponse::decode(whole.slice(..length)), Err(Unreadable), "{length}");
        }
        let mut newer = whole.to_vec();
        newer[0] = VERSION + 1;
        assert_eq!(StoredResponse::decode(newer.into()), Err(Unreadable));
    }
}
