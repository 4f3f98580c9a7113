//! Amazon ECS: `UpdateService` and `DescribeServices` in AWS JSON 1.1, signed with Signature Version 4.

use std::fmt;

use buttress::RequestExt;
use buttress::core::clock::wall;
use bytes::Bytes;
use http::{HeaderValue, Request, Uri};
use http_body_util::Full;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::sigv4::{Credentials, Scope, sign};
use super::{Base, CallError, Client, Secret, Vendor, call, secret};
use crate::input::BadInput;

/// Where ECS is, in which region, and who asks.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    base: Base,
    region: String,
    credentials: Credentials,
}

impl Access {
    pub(crate) fn from_environment(
        base: Base,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, BadInput> {
        let variable = |name| secret(name, "--aws-url", &environment);
        let token = environment("AWS_SESSION_TOKEN").filter(|token| !token.is_empty());
        let credentials = Credentials {
            access_key_id: variable("AWS_ACCESS_KEY_ID")?.expose().to_owned(),
            secret_access_key: variable("AWS_SECRET_ACCESS_KEY")?,
            session_token: token.map(|_| variable("AWS_SESSION_TOKEN")).transpose()?,
        };
        Ok(Self { base, region: variable("AWS_REGION")?.expose().to_owned(), credentials })
    }

    /// To the embedded server, which takes any signature.
    pub(crate) fn embedded(base: Base) -> Self {
        let credentials = Credentials {
            access_key_id: "AKIDEXAMPLE".to_owned(),
            secret_access_key: Secret::embedded(),
            session_token: None,
        };
        Self { base, region: "us-east-1".to_owned(), credentials }
    }
}

#[derive(Clone)]
pub(crate) struct Ecs {
    client: Client,
    access: Access,
}

/// How far a service's latest deployment is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Rollout {
    Completed,
    InProgress { running: u64, desired: u64 },
    Failed,
}

/// What ECS says of a service: its latest deployment, and how many tasks it is to have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Deploys {
    /// The id of the latest deployment, which every restart changes.
    pub(crate) latest: String,
    /// When that was, in seconds since 1970.
    pub(crate) at: f64,
    pub(crate) rollout: Rollout,
    pub(crate) desired: u64,
}

impl fmt::Display for Rollout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Completed => f.write_str("all tasks run"),
            Self::InProgress { running, desired } => write!(f, "{running} of {desired} tasks run"),
            Self::Failed => f.write_str("the last deployment failed"),
        }
    }
}

impl Ecs {
    pub(crate) fn new(client: Client, access: Access) -> Self {
        Self { client, access }
    }

    /// Replaces all tasks of a service by new ones. ECS has no token by which it would know a repetition, so this is sent
    /// once, and whoever gets no answer has to look.
    pub(crate) async fn restart(&self, cluster: &str, service: &str) -> Result<(), CallError> {
        let body = json!({ "cluster": cluster, "service": service, "forceNewDeployment": true });
        let request = self.request("UpdateService", &body).with_max_retries(0);
        let Updated { .. } = call(Vendor::Aws, &self.client, request).await?;
        Ok(())
    }

    /// Says how many tasks a service is to have. To repeat it changes nothing.
    pub(crate) async fn scale(&self, cluster: &str, service: &str, tasks: u64) -> Result<(), CallError> {
        let body = json!({ "cluster": cluster, "service": service, "desiredCount": tasks });
        let Updated { .. } = self.act("UpdateService", &body).await?;
        Ok(())
    }

    /// What was deployed last, and how far that is.
    pub(crate) async fn deploys(&self, cluster: &str, service: &str) -> Result<Deploys, CallError> {
        let body = json!({ "cluster": cluster, "services": [service] });
        let described: Described = self.act("DescribeServices", &body).await?;
        described.deploys().ok_or_else(|| {
            CallError::Unreadable(Vendor::Aws, format!("no deployment of service `{service}`").into())
        })
    }

    async fn act<T: DeserializeOwned>(&self, action: &str, body: &Value) -> Result<T, CallError> {
        call(Vendor::Aws, &self.client, self.request(action, body)).await
    }

    fn request(&self, action: &str, body: &Value) -> Request<Full<Bytes>> {
        let uri = self.access.base.at("/");
        let body = Bytes::from(body.to_string());
        let request = Request::post(&uri)
            .header("host", host(&uri))
            .header("content-type", "application/x-amz-json-1.1")
            .header("x-amz-target", format!("AmazonEC2ContainerServiceV20141113.{action}"));
        let mut request = request.body(()).expect("all parts are valid");
        let scope = Scope { region: &self.access.region, service: "ecs" };
        sign(&mut request, &body, &self.access.credentials, scope, wall());
        request.map(|()| Full::new(body))
    }
}

/// The `Host` header, which is signed: as the client would write it.
fn host(uri: &Uri) -> HeaderValue {
    let host = uri.host().unwrap_or_default();
    let port = uri.port_u16().filter(|port| match uri.scheme_str() {
        Some("https") => *port != 443,
        _ => *port != 80,
    });
    let host = port.map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    HeaderValue::from_str(&host).expect("the host of a URI is a valid header")
}

#[derive(Deserialize)]
struct Updated {
    #[serde(rename = "service")]
    _service: Service,
}

#[derive(Deserialize)]
struct Described {
    #[serde(default)]
    services: Vec<Service>,
}

#[derive(Deserialize)]
struct Service {
    #[serde(default)]
    deployments: Vec<Deployment>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Deployment {
    id: String,
    #[serde(default)]
    created_at: f64,
    /// `PRIMARY` for the latest, `ACTIVE` for those that it replaces.
    status: String,
    /// Not of every kind of service.
    rollout_state: Option<String>,
    desired_count: u64,
    running_count: u64,
}

impl Described {
    fn deploys(&self) -> Option<Deploys> {
        let deployments = &self.services.first()?.deployments;
        let latest = deployments.iter().find(|deployment| deployment.status == "PRIMARY")?;
        let (running, desired) = (latest.running_count, latest.desired_count);
        let rollout = match latest.rollout_state.as_deref() {
            Some("COMPLETED") => Rollout::Completed,
            Some("FAILED") => Rollout::Failed,
            None if deployments.len() == 1 && running == desired => Rollout::Completed,
            _ => Rollout::InProgress { running, desired },
        };
        Some(Deploys { latest: latest.id.clone(), at: latest.created_at, rollout, desired })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rollout(deployments: &Value) -> Option<Rollout> {
        let described = json!({ "services": [{ "deployments": deployments }], "failures": [] });
        serde_json::from_value::<Described>(described).unwrap().deploys().map(|deploys| deploys.rollout)
    }

    #[test]
    fn the_primary_deployment_says_how_far_it_is() {
        let deployment = |status: &str, state: Option<&str>, running: u64| json!({ "id": "ecs-svc/1", "status": status, "rolloutState": state, "desiredCount": 4, "runningCount": running });
        let old = || deployment("ACTIVE", Some("COMPLETED"), 3);
        assert_eq!(
            rollout(&json!([old(), deployment("PRIMARY", Some("IN_PROGRESS"), 1)])),
            Some(Rollout::InProgress { running: 1, desired: 4 })
        );
        assert_eq!(rollout(&json!([deployment("PRIMARY", Some("COMPLETED"), 4)])), Some(Rollout::Completed));
        assert_eq!(rollout(&json!([deployment("PRIMARY", None, 4)])), Some(Rollout::Completed));
        assert_eq!(rollout(&json!([deployment("PRIMARY", Some("FAILED"), 0)])), Some(Rollout::Failed));
        assert_eq!(rollout(&json!([old()])), None);
        let missing = json!({ "services": [], "failures": [{ "reason": "MISSING" }] });
        assert_eq!(serde_json::from_value::<Described>(missing).unwrap().deploys(), None);
    }

    #[test]
    fn the_host_is_written_as_the_client_writes_it() {
        for (uri, expected) in [
            ("https://ecs.eu-west-1.amazonaws.com/", "ecs.eu-west-1.amazonaws.com"),
            ("https://a.example:443/", "a.example"),
            ("https://a.example:8443/", "a.example:8443"),
            ("http://127.0.0.1:4566/", "127.0.0.1:4566"),
        ] {
            assert_eq!(host(&uri.parse().unwrap()), expected);
        }
    }
}
