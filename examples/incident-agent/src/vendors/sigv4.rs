//! AWS Signature Version 4, as far as requests without a query need it.

use std::fmt::Write;
use std::time::SystemTime;

use http::{HeaderName, HeaderValue, Request, header};
use ring::{digest, hmac};

use super::Secret;
use crate::date::iso;

#[derive(Clone, Debug)]
pub(crate) struct Credentials {
    pub(crate) access_key_id: String,
    pub(crate) secret_access_key: Secret,
    pub(crate) session_token: Option<Secret>,
}

/// What a signature is good for.
#[derive(Clone, Copy)]
pub(crate) struct Scope<'a> {
    pub(crate) region: &'a str,
    pub(crate) service: &'a str,
}

/// Signs all headers, which must include `host`, and the body.
pub(crate) fn sign<B>(
    request: &mut Request<B>,
    body: &[u8],
    credentials: &Credentials,
    scope: Scope<'_>,
    now: SystemTime,
) {
    let time = iso(now).replace(['-', ':'], "");
    set(request, "x-amz-date", &time);
    if let Some(token) = &credentials.session_token {
        set(request, "x-amz-security-token", token.expose());
    }
    let (canonical, signed) = canonical(request, body);
    let Scope { region, service } = scope;
    let date = &time[..8];
    let scope = format!("{date}/{region}/{service}/aws4_request");
    let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", sha256(canonical.as_bytes()));
    let secret = format!("AWS4{}", credentials.secret_access_key.expose());
    let key = [date, region, service, "aws4_request"]
        .iter()
        .fold(secret.into_bytes(), |key, part| hmac(&key, part).as_ref().to_vec());
    let signature = hex(hmac(&key, &to_sign).as_ref());
    let id = &credentials.access_key_id;
    let value =
        format!("AWS4-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders={signed}, Signature={signature}");
    set(request, header::AUTHORIZATION.as_str(), &value);
}

/// The canonical request, and the list of signed headers in it.
fn canonical<B>(request: &Request<B>, body: &[u8]) -> (String, String) {
    debug_assert!(request.uri().query().is_none(), "queries are not signed here");
    let mut names: Vec<&str> = request.headers().keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    let signed = names.join(";");
    let mut canonical = format!("{}\n{}\n\n", request.method(), request.uri().path());
    for name in names {
        let value = request.headers()[name].as_bytes();
        let _ = writeln!(canonical, "{name}:{}", String::from_utf8_lossy(value).trim());
    }
    let _ = write!(canonical, "\n{signed}\n{}", sha256(body));
    (canonical, signed)
}

fn set<B>(request: &mut Request<B>, name: &'static str, value: &str) {
    let mut value = HeaderValue::from_str(value).expect("credentials were checked to be visible ASCII");
    value.set_sensitive(true);
    request.headers_mut().insert(name, value);
}

fn hmac(key: &[u8], text: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes())
}

fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    /// 2015-08-30T12:36:00Z
    const NOW: u64 = 1_440_938_160;

    fn signature(session_token: Option<&str>) -> String {
        let credentials = Credentials {
            access_key_id: "AKIDEXAMPLE".to_owned(),
            secret_access_key: Secret("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned()),
            session_token: session_token.map(|token| Secret(token.to_owned())),
        };
        let mut request = Request::post("/").header("host", "example.amazonaws.com").body(()).unwrap();
        let scope = Scope { region: "us-east-1", service: "service" };
        sign(&mut request, b"", &credentials, scope, UNIX_EPOCH + Duration::from_secs(NOW));
        request.headers()["authorization"].to_str().unwrap().to_owned()
    }

    /// `post-vanilla` of the test suite that AWS publishes.
    #[test]
    fn a_post_is_signed_as_in_the_test_suite_of_aws() {
        assert_eq!(
            signature(None),
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
             SignedHeaders=host;x-amz-date, \
             Signature=5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"
        );
    }

    /// `post-sts-header-before` of the same suite.
    #[test]
    fn a_session_token_is_signed_too() {
        let token = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeo\
                     IYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXD\
                     vp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOL\
                     n9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA==";
        let signature = signature(Some(token));
        assert!(signature.contains("SignedHeaders=host;x-amz-date;x-amz-security-token, "), "{signature}");
        assert!(
            signature.ends_with("=85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead"),
            "{signature}"
        );
    }
}
