//! The service that is ill, by the endpoints that its own team has given it: `GET /admin/metric` and
//! `POST /admin/cache/clear`, which knows a repetition by its `Idempotency-Key`.

use http::{HeaderValue, Request};
use http_body_util::Full;
use serde::Deserialize;

use super::{Base, CallError, Client, Vendor, call, secret};
use crate::input::BadInput;

/// Where the service is, and the token of its operators.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    base: Base,
    token: HeaderValue,
}

impl Access {
    pub(crate) fn from_environment(
        base: Base,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, BadInput> {
        Ok(Self { base, token: secret("SERVICE_TOKEN", "--service-url", environment)?.header() })
    }

    /// To the embedded server, which takes any token.
    pub(crate) fn embedded(base: Base) -> Self {
        Self { base, token: HeaderValue::from_static("embedded") }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Service {
    client: Client,
    access: Access,
}

#[derive(Deserialize)]
struct Metric {
    value: f64,
}

#[derive(Deserialize)]
struct Cleared {
    #[serde(rename = "cleared")]
    _entries: u64,
}

impl Service {
    pub(crate) fn new(client: Client, access: Access) -> Self {
        Self { client, access }
    }

    /// The metric that raised the alarm, as the service itself counts it.
    pub(crate) async fn metric(&self) -> Result<f64, CallError> {
        let request = Request::get(self.access.base.at("/admin/metric"));
        let request = request.header("x-operator-token", &self.access.token).body(Full::default());
        let Metric { value } =
            call(Vendor::Service, &self.client, request.expect("all parts are valid")).await?;
        Ok(value)
    }

    /// Empties its cache: once, however often it is asked under the same key. The client's layer sets the key.
    pub(crate) async fn clear_cache(&self) -> Result<(), CallError> {
        let request = Request::post(self.access.base.at("/admin/cache/clear"));
        let request = request.header("x-operator-token", &self.access.token).body(Full::default());
        let Cleared { .. } =
            call(Vendor::Service, &self.client, request.expect("all parts are valid")).await?;
        Ok(())
    }
}
