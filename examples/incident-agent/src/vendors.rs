//! The vendors' APIs: requests in their wire formats, sent with any HTTP client.

pub(crate) mod aws;
pub(crate) mod datadog;
pub(crate) mod pagerduty;
pub(crate) mod service;
mod sigv4;

use std::fmt;
use std::time::Duration;

use buttress::{BoxError, Refused, ResponseExt, find};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;

use crate::input::BadInput;

/// Whom the agent calls: three vendors, and the service that is ill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Vendor {
    Datadog,
    Aws,
    Service,
    PagerDuty,
}

impl Vendor {
    pub(crate) const ALL: [Self; 4] = [Self::Datadog, Self::Aws, Self::Service, Self::PagerDuty];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Datadog => "datadog",
            Self::Aws => "aws",
            Self::Service => "service",
            Self::PagerDuty => "pagerduty",
        }
    }

    /// The vendor that a layer of this name calls.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|vendor| vendor.as_str() == name)
    }
}

/// What answers are made of, wherever they come from.
pub(crate) type Body = UnsyncBoxBody<Bytes, BoxError>;

/// An HTTP client for requests with this kind of body.
pub(crate) type Wire<B> = BoxCloneSyncService<Request<B>, Response<Body>, BoxError>;

/// An HTTP client: a bare one, or one behind a Buttress stack. Call sites cannot tell.
pub(crate) type Client = Wire<Full<Bytes>>;

/// Why a call brought nothing.
#[derive(Debug)]
pub(crate) enum CallError {
    /// The vendor refused or failed.
    Status(Vendor, StatusCode, Said),
    /// There was no answer.
    Failed(Vendor, BoxError),
    /// The answer is not in the vendor's format.
    Unreadable(Vendor, BoxError),
    /// The incident's time was used up before the answer came.
    OutOfTime(Vendor),
}

/// What comes with a status that is none of success.
#[derive(Debug, Default)]
pub(crate) struct Said {
    /// The vendor's reason.
    why: Option<String>,
    /// How long it wants to be left alone.
    pub(crate) retry_after: Option<Duration>,
}

impl CallError {
    /// Whether the vendor may have done what it was asked for, although it did not say so.
    pub(crate) fn is_open(&self) -> bool {
        match self {
            Self::Status(_, status, _) => status.is_server_error(),
            Self::Failed(_, error) => find::<Refused>(&**error).is_none(),
            Self::Unreadable(..) | Self::OutOfTime(_) => true,
        }
    }

    /// The client's error, if there was no answer.
    pub(crate) fn error(&self) -> Option<&BoxError> {
        match self {
            Self::Failed(_, error) => Some(error),
            _ => None,
        }
    }
}

/// So that layers find what is in it.
impl std::error::Error for CallError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Failed(_, error) | Self::Unreadable(_, error) => Some(&**error),
            Self::Status(..) | Self::OutOfTime(_) => None,
        }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(vendor, status, Said { why: None, .. }) => {
                write!(f, "{} answered {status}", vendor.as_str())
            }
            Self::Status(vendor, status, Said { why: Some(why), .. }) => {
                write!(f, "{} answered {status}: {why}", vendor.as_str())
            }
            Self::Failed(vendor, error) => match find::<Refused>(&**error) {
                Some(refused) => {
                    write!(f, "{} was not asked: {}", vendor.as_str(), refused.reason().as_str())
                }
                None => write!(f, "{} did not answer: {}", vendor.as_str(), innermost(&**error)),
            },
            Self::Unreadable(vendor, error) => {
                write!(f, "{} answered something unexpected: {error}", vendor.as_str())
            }
            Self::OutOfTime(vendor) => {
                write!(f, "{} did not answer before the incident's time was used up", vendor.as_str())
            }
        }
    }
}

/// What went wrong at the bottom, in the words of whoever noticed it.
pub(crate) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let text = buttress::chain(error).last().unwrap_or(error).to_string();
    // The system's number for it is no news to a person.
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// The call site: the same with Buttress and without.
async fn call<T: DeserializeOwned>(
    vendor: Vendor,
    client: &Client,
    request: Request<Full<Bytes>>,
) -> Result<T, CallError> {
    let response = client.clone().oneshot(request).await.map_err(|error| CallError::Failed(vendor, error))?;
    let (status, retry_after) = (response.status(), response.retry_after());
    let body = response.into_body().collect().await;
    let body = body.map_err(|error| CallError::Failed(vendor, error))?.to_bytes();
    if !status.is_success() {
        return Err(CallError::Status(vendor, status, Said { why: reason(&body), retry_after }));
    }
    serde_json::from_slice(&body).map_err(|error| CallError::Unreadable(vendor, error.into()))
}

/// The vendor's reason, where one of the three formats has it: AWS's `__type`, the first of `errors`, or `message`.
fn reason(body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let places = [&body["__type"], &body["errors"][0], &body["message"]];
    let reason = places.into_iter().find_map(Value::as_str)?;
    Some(reason.chars().take(120).collect())
}

/// Where a vendor is: `https://host`, without a slash at the end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Base(String);

impl Base {
    /// From an option's value.
    pub(crate) fn parse(option: &str, url: &str) -> Result<Self, BadInput> {
        let bad = |problem: &str| {
            BadInput::new(
                option,
                format!("\"{url}\" {problem}"),
                "give a URL such as https://api.example.com",
            )
        };
        let uri: Uri = url.parse().map_err(|_| bad("is not a URL"))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(bad("does not begin with http:// or https://"));
        }
        if uri.query().is_some() {
            return Err(bad("has a query"));
        }
        Ok(Self(url.trim_end_matches('/').to_owned()))
    }

    /// A server on this machine.
    pub(crate) fn local(address: std::net::SocketAddr) -> Self {
        Self(format!("http://{address}"))
    }

    /// Where nobody is: all vendors are real.
    pub(crate) fn nowhere() -> Self {
        Self("http://embedded.invalid".to_owned())
    }

    /// The URI of this path, which begins with a slash.
    fn at(&self, path_and_query: &str) -> Uri {
        format!("{}{path_and_query}", self.0).parse().expect("a checked base and an encoded path are a URI")
    }
}

/// A key that is not to be shown.
#[derive(Clone)]
struct Secret(String);

impl Secret {
    /// What embedded servers take.
    fn embedded() -> Self {
        Self("embedded".to_owned())
    }

    fn expose(&self) -> &str {
        &self.0
    }

    fn header(&self) -> HeaderValue {
        let mut header = HeaderValue::from_str(&self.0).expect("secrets were checked to be visible ASCII");
        header.set_sensitive(true);
        header
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// A key from the environment, for the vendor whose option is given.
fn secret(
    variable: &str,
    option: &str,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<Secret, BadInput> {
    let value = environment(variable).unwrap_or_default().trim().to_owned();
    if value.is_empty() {
        let fix = format!("export {variable}, or leave {option} out to use the embedded server");
        return Err(BadInput::new(variable, format!("is not set, and {option} needs it"), fix));
    }
    if !value.bytes().all(|byte| byte.is_ascii_graphic()) {
        let problem = "has characters that a key cannot have";
        return Err(BadInput::new(variable, problem, format!("export {variable} as it was issued")));
    }
    Ok(Secret(value))
}

fn json_body(body: &Value) -> Full<Bytes> {
    Full::from(body.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_is_a_url_without_a_query() {
        assert_eq!(
            Base::parse("--aws-url", "https://a.example/").unwrap().at("/x?y=z"),
            "https://a.example/x?y=z"
        );
        for (url, problem) in [
            ("::", "is not a URL"),
            ("api.example.com", "does not begin with"),
            ("ftp://a.example", "does not begin with"),
            ("https://a.example/?q=1", "has a query"),
        ] {
            let error = Base::parse("--aws-url", url).unwrap_err().to_string();
            assert!(error.starts_with("--aws-url: ") && error.contains(problem), "{error}");
        }
    }

    #[test]
    fn a_missing_key_is_named_and_a_present_one_is_not_shown() {
        let error = secret("DD_API_KEY", "--datadog-url", |_| None).unwrap_err().to_string();
        assert!(error.starts_with("DD_API_KEY: is not set, and --datadog-url needs it"), "{error}");
        let error =
            secret("DD_API_KEY", "--datadog-url", |_| Some("a\nb".to_owned())).unwrap_err().to_string();
        assert!(error.starts_with("DD_API_KEY: has characters") && !error.contains("a\nb"), "{error}");
        assert_eq!(format!("{:?}", Secret("hunter2".to_owned())), "Secret");
    }

    #[test]
    fn the_vendors_reasons_are_found() {
        for (body, expected) in [
            (
                r#"{"__type":"ServiceNotFoundException","message":"Service not found."}"#,
                "ServiceNotFoundException",
            ),
            (r#"{"errors":["Forbidden"]}"#, "Forbidden"),
            (r#"{"status":"invalid event","message":"Event object is invalid"}"#, "Event object is invalid"),
        ] {
            assert_eq!(reason(body.as_bytes()).as_deref(), Some(expected));
        }
        assert_eq!(reason(b"<html>"), None);
    }
}
