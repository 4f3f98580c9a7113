//! Amazon ECS, as far as the agent asks it.

use http::request::Parts;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Reply, World};
use crate::servers::ledger::Entry;
use crate::vendors::Vendor;

const ARN: &str = "arn:aws:ecs:us-east-1:000000000000";

pub(super) fn reply(world: &World, head: &Parts, body: &[u8]) -> Reply {
    let header = |name| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !header("authorization").starts_with("AWS4-HMAC-SHA256 Credential=") {
        return error("MissingAuthenticationTokenException", "Missing Authentication Token");
    }
    if (&head.method, head.uri.path(), header("content-type"))
        != (&Method::POST, "/", "application/x-amz-json-1.1")
    {
        return error("UnknownOperationException", "not a request in AWS JSON 1.1");
    }
    let Ok(body) = serde_json::from_slice::<Value>(body) else {
        return error("SerializationException", "the body is not JSON");
    };
    if body["cluster"] != world.incident.cluster {
        return error("ClusterNotFoundException", "Cluster not found.");
    }
    let service = world.incident.ecs_service.as_str();
    match header("x-amz-target").strip_prefix("AmazonEC2ContainerServiceV20141113.") {
        Some("UpdateService") if body["service"] != service => {
            error("ServiceNotFoundException", "Service not found.")
        }
        Some("UpdateService") => {
            if body["forceNewDeployment"] == true {
                world.effect(Vendor::Aws, "restart", None);
            }
            let tasks = body["desiredCount"].as_u64();
            if let Some(tasks) = tasks.filter(|tasks| *tasks != world.state().tasks()) {
                world.effect(Vendor::Aws, "scale", Some(&tasks.to_string()));
            }
            (StatusCode::OK, json!({ "service": described(world) }))
        }
        Some("DescribeServices") if body["services"] == json!([service]) => {
            world.note(&Entry::Looked);
            (StatusCode::OK, json!({ "services": [described(world)], "failures": [] }))
        }
        Some("DescribeServices") => {
            let failures = json!([{ "arn": service, "reason": "MISSING" }]);
            (StatusCode::OK, json!({ "services": [], "failures": failures }))
        }
        _ => error("UnknownOperationException", "the embedded server does not know this operation"),
    }
}

/// In AWS JSON 1.1 it is the body that names the error.
fn error(code: &str, message: &str) -> Reply {
    (StatusCode::BAD_REQUEST, json!({ "__type": code, "message": message }))
}

/// The service, with the tasks that run since it was restarted.
fn described(world: &World) -> Value {
    let (cluster, service) = (&world.incident.cluster, &world.incident.ecs_service);
    let state = world.state();
    let tasks = state.tasks();
    let deployment = |id: u64, status: &str, state: &str, running: u64| {
        json!({
            "id": format!("ecs-svc/{id}"), "status": status, "rolloutState": state,
            "taskDefinition": format!("{ARN}:task-definition/{service}:42"), "createdAt": 1_763_888_400.0 + id as f64,
            "desiredCount": if status == "PRIMARY" { tasks } else { 0 },
            "runningCount": running, "pendingCount": 0, "failedTasks": 0,
        })
    };
    let latest = 4210 + state.applied("restart");
    let deployments = match state.looks() {
        Some(looks) if looks < world.looks => {
            let running = tasks * u64::from(looks) / u64::from(world.looks);
            vec![
                deployment(latest, "PRIMARY", "IN_PROGRESS", running),
                deployment(latest - 1, "ACTIVE", "COMPLETED", tasks - running),
            ]
        }
        Some(_) | None => vec![deployment(latest, "PRIMARY", "COMPLETED", tasks)],
    };
    json!({
        "serviceArn": format!("{ARN}:service/{cluster}/{service}"),
        "serviceName": service, "clusterArn": format!("{ARN}:cluster/{cluster}"),
        "status": "ACTIVE", "launchType": "FARGATE", "schedulingStrategy": "REPLICA",
        "desiredCount": tasks, "runningCount": tasks, "pendingCount": 0,
        "deployments": deployments,
    })
}
