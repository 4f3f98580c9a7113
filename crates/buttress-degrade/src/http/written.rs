//! What is kept of HTTP as bytes, for a store behind the memory.

use buttress_core::BoxError;
use buttress_http::StoredResponse;
use bytes::{Buf, BufMut, Bytes};
use http::{HeaderName, HeaderValue};

use super::fields::Varying;
use super::kept::HttpKept;
use super::rules::HttpRules;
use crate::backing::Writes;

/// The fields that its `Vary` names, each with its length before it, and then the response.
impl Writes for HttpRules {
    fn write(&self, kept: &HttpKept) -> Option<Bytes> {
        let secret = |(name, value): &(HeaderName, Option<HeaderValue>)| {
            self.is_credential(name) || value.as_ref().is_some_and(HeaderValue::is_sensitive)
        };
        if kept.vary.iter().any(secret) {
            return None;
        }
        let mut out = Vec::new();
        out.put_u16(u16::try_from(kept.vary.len()).ok()?);
        for (name, value) in &kept.vary {
            put(&mut out, Some(name.as_str().as_bytes()))?;
            put(&mut out, value.as_ref().map(HeaderValue::as_bytes))?;
        }
        out.put_slice(&kept.response.encode());
        Some(out.into())
    }

    fn read(&self, mut bytes: Bytes) -> Result<HttpKept, BoxError> {
        let mut vary = Varying::new();
        for _ in 0..bytes.try_get_u16()? {
            let name = get(&mut bytes)?.ok_or("a field without a name")?;
            let value = get(&mut bytes)?.map(HeaderValue::from_maybe_shared).transpose()?;
            vary.push((HeaderName::from_bytes(&name)?, value));
        }
        let kept = HttpKept::of(StoredResponse::decode(bytes)?, vary);
        Ok(kept.ok_or("the response is not whole")?)
    }
}

/// `u32::MAX` stands for none.
fn put(out: &mut Vec<u8>, part: Option<&[u8]>) -> Option<()> {
    let length = part.map_or(Some(u32::MAX), |part| u32::try_from(part.len()).ok())?;
    out.put_u32(length);
    out.put_slice(part.unwrap_or_default());
    Some(())
}

fn get(bytes: &mut Bytes) -> Result<Option<Bytes>, BoxError> {
    let length = bytes.try_get_u32()?;
    if length == u32::MAX {
        return Ok(None);
    }
    let length = usize::try_from(length)?;
    if length > bytes.len() {
        return Err("it is cut off".into());
    }
    Ok(Some(bytes.split_to(length)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::{ACCEPT_LANGUAGE, AUTHORIZATION, ETAG};

    fn kept(vary: Varying) -> HttpKept {
        let response = http::Response::builder().status(203).header(ETAG, "\"one\"").body("body");
        HttpKept::of(StoredResponse::from(response.unwrap()), vary).unwrap()
    }

    #[test]
    fn what_is_kept_survives_and_what_is_cut_off_is_refused() {
        let rules = HttpRules::shared();
        let vary = vec![(ACCEPT_LANGUAGE, Some(HeaderValue::from_static("de"))), (ETAG, None)];
        let written = rules.write(&kept(vary.clone())).unwrap();
        let read = rules.read(written.clone()).unwrap();
        assert_eq!((read.vary, read.response), (vary, kept(Vec::new()).response));
        let head = written.len() - "body".len();
        assert!((0..head).all(|length| rules.read(written.slice(..length)).is_err()));
    }

    #[test]
    fn a_credential_does_not_leave_the_process() {
        let rules = HttpRules::private().credential(HeaderName::from_static("x-own"));
        let mut secret = HeaderValue::from_static("de");
        secret.set_sensitive(true);
        for vary in [
            (AUTHORIZATION, Some(HeaderValue::from_static("Bearer a"))),
            (HeaderName::from_static("x-own"), None),
            (ACCEPT_LANGUAGE, Some(secret)),
        ] {
            assert!(rules.write(&kept(vec![vary])).is_none());
        }
    }
}
