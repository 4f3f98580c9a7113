//! A service config in JSON, as `service_config.proto` has it in proto3's JSON mapping.

use std::time::Duration;

use buttress_core::ConfigError;
use serde_json::{Map, Value};

use crate::code::Code;
use crate::service_config::{Method, RetryPolicy, ServiceConfig};

pub(crate) fn parse(json: &str) -> Result<ServiceConfig, ConfigError> {
    let root: Value = serde_json::from_str(json)
        .map_err(|error| ConfigError::new("service config", error.to_string(), "must be JSON"))?;
    let root = object("service config", &root)?;
    let mut config = ServiceConfig::new();
    for method_config in list(root, "methodConfig")? {
        let method_config = object("methodConfig", method_config)?;
        let method = method(method_config)?;
        for name in list(method_config, "name")? {
            let name = name_of(object("name", name)?)?;
            let replaced = match &name {
                Some(name) => config.methods.insert(name.as_str().into(), method.clone()),
                None => config.default.replace(method.clone()),
            };
            if replaced.is_some() {
                let rule = "must be in one methodConfig only (gRPC A6)";
                return Err(ConfigError::new("name", name.unwrap_or_default(), rule));
            }
        }
    }
    if let Some(throttling) = root.get("retryThrottling").filter(|value| !value.is_null()) {
        config.throttle = Some(throttle(object("retryThrottling", throttling)?)?);
    }
    Ok(config)
}

/// `service/method`, `service`, or `None` for the default.
fn name_of(name: &Map<String, Value>) -> Result<Option<String>, ConfigError> {
    let part = |field: &'static str| match name.get(field) {
        None | Some(Value::Null) => Ok(""),
        Some(Value::String(text)) => Ok(text.as_str()),
        Some(other) => Err(ConfigError::new(field, shown(other), "must be a string")),
    };
    match (part("service")?, part("method")?) {
        ("", "") => Ok(None),
        ("", method) => Err(ConfigError::new("method", method, "must have a service beside it (gRPC A6)")),
        (service, "") => Ok(Some(service.to_owned())),
        (service, method) => Ok(Some(format!("{service}/{method}"))),
    }
}

fn method(config: &Map<String, Value>) -> Result<Method, ConfigError> {
    if let Some(hedging) = config.get("hedgingPolicy").filter(|value| !value.is_null()) {
        return Err(ConfigError::new(
            "hedgingPolicy",
            shown(hedging),
            "must not be there: nothing here hedges",
        ));
    }
    let timeout = config.get("timeout").filter(|value| !value.is_null());
    let timeout = timeout.map(|value| duration("timeout", value)).transpose()?;
    let policy = config.get("retryPolicy").filter(|value| !value.is_null());
    let retry = policy.map(|value| retry_policy(object("retryPolicy", value)?)).transpose()?;
    Ok(Method { timeout, retry })
}

fn retry_policy(policy: &Map<String, Value>) -> Result<RetryPolicy, ConfigError> {
    let max_attempts = required(policy, "maxAttempts")?;
    let Some(attempts) = whole(max_attempts) else {
        return Err(ConfigError::new("maxAttempts", shown(max_attempts), "must be a whole number (gRPC A6)"));
    };
    let multiplier = required(policy, "backoffMultiplier")?;
    let Some(factor) = multiplier.as_f64() else {
        return Err(ConfigError::new("backoffMultiplier", shown(multiplier), "must be a number (gRPC A6)"));
    };
    let codes = list(policy, "retryableStatusCodes")?.iter().map(code).collect::<Result<Vec<_>, _>>()?;
    RetryPolicy::new(
        u32::try_from(attempts).unwrap_or(u32::MAX),
        duration("initialBackoff", required(policy, "initialBackoff")?)?,
        factor,
        duration("maxBackoff", required(policy, "maxBackoff")?)?,
        codes,
    )
}

/// A name or a number.
fn code(value: &Value) -> Result<Code, ConfigError> {
    let code = match value {
        Value::String(name) => Code::from_name(name),
        other => whole(other).and_then(Code::from_number),
    };
    code.ok_or_else(|| {
        ConfigError::new(
            "retryableStatusCodes",
            shown(value),
            "must be codes of gRPC: their names or their numbers",
        )
    })
}

fn throttle(throttling: &Map<String, Value>) -> Result<(u32, f64), ConfigError> {
    let tokens = required(throttling, "maxTokens")?;
    let max_tokens = whole(tokens).and_then(|tokens| u32::try_from(tokens).ok());
    let Some(max_tokens) = max_tokens.filter(|tokens| (1..=1000).contains(tokens)) else {
        return Err(ConfigError::new("maxTokens", shown(tokens), "must be between 1 and 1000 (gRPC A6)"));
    };
    let ratio = required(throttling, "tokenRatio")?;
    match ratio.as_f64() {
        Some(number) if (0.001..=1000.0).contains(&number) => Ok((max_tokens, number)),
        _ => {
            let rule = "must be a number of at least 0.001 and at most 1000 (gRPC A6: three decimals)";
            Err(ConfigError::new("tokenRatio", shown(ratio), rule))
        }
    }
}

/// `"1.5s"`: seconds with at most nine decimals (proto3's JSON mapping of `Duration`), not negative.
fn duration(field: &'static str, value: &Value) -> Result<Duration, ConfigError> {
    let parsed = value.as_str().and_then(|text| {
        let (whole, fraction) =
            text.strip_suffix('s').map(|text| text.split_once('.').unwrap_or((text, "0")))?;
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        // 315,576,000,000 s is the most that a `Duration` of protobuf holds.
        let fits = (1..=12).contains(&whole.len()) && (1..=9).contains(&fraction.len());
        if !fits || !digits(whole) || !digits(fraction) {
            return None;
        }
        let nanos = format!("{fraction:0<9}").parse().ok()?;
        Some(Duration::new(whole.parse().ok()?, nanos))
    });
    parsed.ok_or_else(|| {
        ConfigError::new(
            field,
            shown(value),
            r#"must be a duration in seconds such as "1.5s", and not negative"#,
        )
    })
}

/// A whole number, also one that is written as `4.0`.
fn whole(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| {
        let number = value.as_f64()?;
        ((0.0..4e9).contains(&number) && number.fract() == 0.0).then_some(number as u64)
    })
}

/// As JSON, and not as Rust.
fn shown(value: &Value) -> impl std::fmt::Debug + '_ {
    struct Shown<'a>(&'a Value);
    impl std::fmt::Debug for Shown<'_> {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "{}", self.0)
        }
    }
    Shown(value)
}

fn required<'a>(map: &'a Map<String, Value>, field: &'static str) -> Result<&'a Value, ConfigError> {
    map.get(field).ok_or_else(|| ConfigError::new(field, shown(&Value::Null), "must be given (gRPC A6)"))
}

fn object<'a>(field: &'static str, value: &'a Value) -> Result<&'a Map<String, Value>, ConfigError> {
    value.as_object().ok_or_else(|| ConfigError::new(field, shown(value), "must be an object"))
}

/// Nothing is an empty list.
fn list<'a>(map: &'a Map<String, Value>, field: &'static str) -> Result<&'a [Value], ConfigError> {
    match map.get(field) {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(list)) => Ok(list),
        Some(other) => Err(ConfigError::new(field, shown(other), "must be a list")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service_config::Name;
    use proptest::prelude::*;
    use serde_json::json;

    fn policy() -> Value {
        json!({
            "maxAttempts": 3,
            "initialBackoff": "0.25s",
            "maxBackoff": "30s",
            "backoffMultiplier": 1.6,
            "retryableStatusCodes": ["UNAVAILABLE", 8],
        })
    }

    fn error(config: &Value) -> ConfigError {
        parse(&config.to_string()).unwrap_err()
    }

    #[test]
    fn a_whole_config_is_read() {
        let config = json!({
            "loadBalancingConfig": [{ "round_robin": {} }],
            "methodConfig": [
                { "name": [{ "service": "a.B", "method": "C" }, { "service": "a.D" }], "waitForReady": true,
                  "timeout": "1.500000001s", "retryPolicy": policy() },
                { "name": [{}], "timeout": "0s", "maxRequestMessageBytes": 7 },
                { "timeout": "1s" },
            ],
            "retryThrottling": { "maxTokens": 10, "tokenRatio": 0.1 },
        });
        let config = parse(&config.to_string()).unwrap();
        let method = config.method(Name::of("/a.B/C")).unwrap();
        assert_eq!(method.timeout, Some(Duration::new(1, 500_000_001)));
        let retry = method.retry.as_ref().unwrap();
        assert_eq!(
            (retry.max_retries, format!("{:?}", retry.codes).as_str()),
            (2, "{ResourceExhausted, Unavailable}")
        );
        assert_eq!(retry.backoff.to_string(), "250 ms × 1.6 up to 30 s, ± 20 %");
        assert_eq!(config.method(Name::of("/a.D/Any")), Some(method));
        assert_eq!(
            config.method(Name::of("/x/Y")).unwrap(),
            &Method { timeout: Some(Duration::ZERO), retry: None }
        );
        assert_eq!(config.throttle(), Some((10, 0.1)));
        assert!(config.has_retries() && !parse("{}").unwrap().has_retries());
    }

    #[test]
    fn what_breaks_a_rule_is_named_with_its_value_and_the_rule() {
        let with = |field: &str, value: Value| {
            let mut policy = policy();
            policy[field] = value;
            error(&json!({ "methodConfig": [{ "name": [{}], "retryPolicy": policy }] }))
        };
        for (field, values) in [
            ("maxAttempts", vec![json!(1), json!(0), json!(-1), json!(2.5), json!("3"), json!(null)]),
            (
                "initialBackoff",
                vec![json!("0s"), json!("-1s"), json!("1"), json!(1), json!("1.s"), json!(".5s")],
            ),
            ("maxBackoff", vec![json!("0.0s"), json!("1.0000000001s"), json!("9999999999999s"), json!("s")]),
            ("backoffMultiplier", vec![json!(0), json!(-2), json!("2"), json!(0.5)]),
            (
                "retryableStatusCodes",
                vec![json!([]), json!(["unavailable"]), json!([17]), json!("UNAVAILABLE"), json!([0])],
            ),
        ] {
            for value in values {
                assert_eq!(with(field, value.clone()).field(), field, "{value}");
            }
        }
        assert_eq!(
            with("maxAttempts", json!(1)).to_string(),
            "`maxAttempts` is 1, but must be at least 2 (gRPC A6)"
        );
        for (max_tokens, token_ratio, field) in [
            (json!(0), json!(0.1), "maxTokens"),
            (json!(1001), json!(0.1), "maxTokens"),
            (json!(10), json!(0), "tokenRatio"),
            (json!(10), json!(0.0001), "tokenRatio"),
            (json!(10), json!("x"), "tokenRatio"),
        ] {
            let throttling = json!({ "maxTokens": max_tokens, "tokenRatio": token_ratio });
            assert_eq!(error(&json!({ "retryThrottling": throttling })).field(), field, "{throttling}");
        }
        let twice = json!([{ "name": [{ "service": "a" }] }, { "name": [{ "service": "a" }] }]);
        assert_eq!(error(&json!({ "methodConfig": twice })).field(), "name");
        assert_eq!(error(&json!({ "methodConfig": [{ "name": [{ "method": "C" }] }] })).field(), "method");
        assert_eq!(error(&json!({ "methodConfig": [{ "hedgingPolicy": {} }] })).field(), "hedgingPolicy");
        assert_eq!(error(&json!({ "methodConfig": {} })).field(), "methodConfig");
        assert_eq!(parse("{").unwrap_err().field(), "service config");
        assert_eq!(parse("[]").unwrap_err().field(), "service config");
    }

    #[test]
    fn what_is_missing_is_named() {
        for field in
            ["maxAttempts", "initialBackoff", "maxBackoff", "backoffMultiplier", "retryableStatusCodes"]
        {
            let mut policy = policy();
            policy.as_object_mut().unwrap().remove(field);
            let config = json!({ "methodConfig": [{ "name": [{}], "retryPolicy": policy }] });
            assert_eq!(error(&config).field(), field);
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[0-9.s-]{0,8}".prop_map(Value::from),
            Just(json!("UNAVAILABLE")),
        ];
        let keys = prop::sample::select(vec![
            "methodConfig",
            "name",
            "service",
            "method",
            "timeout",
            "retryPolicy",
            "maxAttempts",
            "initialBackoff",
            "maxBackoff",
            "backoffMultiplier",
            "retryableStatusCodes",
            "retryThrottling",
            "maxTokens",
            "tokenRatio",
        ]);
        leaf.prop_recursive(5, 40, 8, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((keys.clone(), inner), 0..8).prop_map(|fields| {
                    Value::Object(fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
                }),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_config_panics_and_what_is_read_keeps_the_rules(json in any_json(), attempts in any::<u32>()) {
            let _ = parse(&json.to_string());
            let mut policy = policy();
            policy["maxAttempts"] = attempts.into();
            policy["retryPolicy"] = json;
            let config = json!({ "methodConfig": [{ "name": [{}], "retryPolicy": policy }] });
            match parse(&config.to_string()) {
                Ok(config) => {
                    let retry = config.method(Name::of("/a/b")).unwrap().retry.clone().unwrap();
                    prop_assert_eq!(retry.max_retries, attempts.min(5) - 1);
                }
                Err(error) => prop_assert!(attempts < 2, "{error}"),
            }
        }
    }
}
