//! Who may import whom.

use serde_json::Value;

use crate::run::{Failure, metadata};

/// What each crate may depend on, of those in this workspace; beside it only what is not listed here (examples, tests,
/// tools) may depend on anything.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("buttress-core", &[]),
    ("buttress-testkit", &["buttress-core"]),
    ("buttress-http", &["buttress-core"]),
    ("buttress-grpc", &["buttress-core", "buttress-http"]),
    ("buttress-circuit-breaker", &["buttress-core"]),
    ("buttress-retry", &["buttress-core"]),
    ("buttress-deadline", &["buttress-core"]),
    ("buttress-degrade", &["buttress-core", "buttress-http", "buttress-store"]),
    ("buttress-heal", &["buttress-core"]),
    ("buttress-chaos", &["buttress-core"]),
    ("buttress-store", &["buttress-core"]),
    ("buttress-idempotency", &["buttress-core", "buttress-http", "buttress-store"]),
    ("buttress-checkpoint", &["buttress-core", "buttress-http", "buttress-store"]),
    (
        "buttress",
        &[
            "buttress-checkpoint",
            "buttress-circuit-breaker",
            "buttress-core",
            "buttress-deadline",
            "buttress-degrade",
            "buttress-grpc",
            "buttress-heal",
            "buttress-http",
            "buttress-idempotency",
            "buttress-retry",
            "buttress-store",
        ],
    ),
    ("buttress-cli", &["buttress-checkpoint", "buttress-store"]),
    ("buttress-reqwest", &["buttress"]),
    ("buttress-aws", &["buttress"]),
];

/// What no library may depend on: `tower` itself is for tests.
const TESTS_ONLY: &[&str] = &["buttress-testkit", "tower", "tower-test", "tokio-test", "proptest"];

/// But for this: the errors of tower's own layers are known by their types, to those who have `tower` anyway.
const OPTIONAL: (&str, &str) = ("buttress-core", "tower");

pub(crate) fn check() -> Result<(), Failure> {
    let violations = violations(&metadata()?);
    if violations.is_empty() {
        println!("layering: every crate imports only what it may");
        return Ok(());
    }
    Err(Failure(format!("the layering rule is broken:\n  {}", violations.join("\n  "))))
}

fn violations(metadata: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let packages = metadata["packages"].as_array().into_iter().flatten();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(of, _)| *of == name) else { continue };
        let dependencies = package["dependencies"].as_array().into_iter().flatten();
        // `kind` is null for ordinary dependencies.
        for dependency in dependencies.filter(|dependency| dependency["kind"].is_null()) {
            let on = dependency["name"].as_str().unwrap_or_default();
            let ours = on.starts_with("buttress");
            let excepted = (name, on) == OPTIONAL && dependency["optional"] == true;
            if TESTS_ONLY.contains(&on) && !excepted || ours && !allowed.contains(&on) {
                found.push(format!("{name} must not depend on {on}"));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn this_workspace_keeps_the_rule() {
        assert_eq!(violations(&metadata().unwrap()), Vec::<String>::new());
    }

    #[test]
    fn a_pattern_that_imports_another_is_found() {
        let dependency = |name: &str, kind: Value| json!({ "name": name, "kind": kind });
        let retry = [
            dependency("buttress-core", Value::Null),
            dependency("buttress-circuit-breaker", Value::Null),
            dependency("tower", Value::Null),
            dependency("buttress-testkit", json!("dev")),
        ];
        let metadata = json!({ "packages": [{ "name": "buttress-retry", "dependencies": retry }] });
        let expected = [
            "buttress-retry must not depend on buttress-circuit-breaker",
            "buttress-retry must not depend on tower",
        ];
        assert_eq!(violations(&metadata), expected);
    }
}
