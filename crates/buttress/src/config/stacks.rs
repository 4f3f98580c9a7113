//! The keys of whole stacks.

use buttress_http::{HttpReplay, Vendor};
use http::StatusCode;

use super::error::FileError;
use super::keys::{breaker, limit, mode, retry, verdict};
use super::reader::{Table, Value};
use crate::HttpBuilder;

type Result<T> = std::result::Result<T, FileError>;

/// Reads the keys that stacks of every protocol have into a builder of either. After those that a retry's defaults depend on.
macro_rules! common {
    ($builder:ident, $table:ident) => {
        if let Some(total) = $table.with("total", limit)? {
            $builder = $builder.total(total);
        }
        if let Some(attempt) = $table.with("attempt", limit)? {
            $builder = $builder.attempt(attempt);
        }
        if let Some(mode) = $table.with("mode", mode)? {
            $builder = $builder.mode(mode);
        }
        if $table.with("silent", Value::bool)? == Some(true) {
            $builder = $builder.silent();
        }
        if let Some(value) = $table.get("retry") {
            let base = $builder.retry_config();
            $builder = $builder.retry(retry(value.table()?, base)?);
        }
        if let Some(value) = $table.get("breaker") {
            let base = $builder.breaker_config();
            $builder = $builder.circuit_breaker(breaker(value.table()?, base)?);
        }
    };
}

pub(super) fn http(name: &str, table: Table<'_>) -> Result<HttpBuilder> {
    let mut builder = crate::http(name);
    if let Some(value) = table.get("preset") {
        builder = value.choice::<fn(HttpBuilder) -> HttpBuilder>(&[
            ("user_facing", HttpBuilder::user_facing),
            ("background", HttpBuilder::background),
            ("datadog", HttpBuilder::datadog),
            ("github", HttpBuilder::github),
            ("pagerduty", HttpBuilder::pagerduty),
            ("aws", HttpBuilder::aws),
            ("aws_sdk", HttpBuilder::aws_sdk),
        ])?(builder);
    }
    if let Some(value) = table.get("vendor") {
        builder = builder.vendor(value.choice(&[
            ("generic", Vendor::Generic),
            ("datadog", Vendor::Datadog),
            ("github", Vendor::GitHub),
            ("pagerduty", Vendor::PagerDuty),
            ("aws", Vendor::Aws),
        ])?);
    }
    common!(builder, table);
    if table.with("deadline_travels", Value::bool)? == Some(true) {
        builder = builder.deadline_travels();
    }
    if let Some(replay) = table.with("replay", replay)? {
        builder = builder.replay(replay);
    }
    if let Some(statuses) = table.get("statuses") {
        for (status, value) in statuses.table()?.values() {
            let code = status.parse::<u16>().ok().and_then(|code| StatusCode::from_u16(code).ok());
            let code = code.ok_or_else(|| value.wrong("must be the verdict on a status from 100 to 999"))?;
            builder = builder.status(code, verdict(&value)?);
        }
    }
    table.finish()?;
    if name.is_empty() {
        return Err(FileError::whole(None, "http.\"\"".to_owned(), "must have a name".to_owned()));
    }
    Ok(builder)
}

/// How requests are kept, and which may be repeated.
fn replay(value: &Value<'_>) -> Result<HttpReplay> {
    let table = value.table()?;
    let mut replay = HttpReplay::new();
    if let Some(value) = table.get("methods") {
        replay = value.choice::<fn(HttpReplay) -> HttpReplay>(&[
            ("idempotent", |replay| replay),
            ("safe", HttpReplay::safe_only),
            ("every", HttpReplay::every_method),
        ])?(replay);
    }
    let per_request = table.with("bytes_per_request", Value::number)?.unwrap_or(64 * 1024);
    let total = table.with("bytes_in_all", Value::number)?.unwrap_or(16 * 1024 * 1024);
    table.finish()?;
    Ok(replay.limits(per_request, total))
}

#[cfg(feature = "grpc")]
pub(super) use over_grpc::grpc;

#[cfg(feature = "grpc")]
mod over_grpc {
    use buttress_grpc::{AttemptLayer, Code, ServiceConfig};

    use super::*;
    use crate::GrpcBuilder;

    pub(in crate::config) fn grpc(name: &str, table: Table<'_>) -> Result<GrpcBuilder> {
        let mut builder = crate::grpc(name);
        if let Some(value) = table.get("preset") {
            builder = value.choice::<fn(GrpcBuilder) -> GrpcBuilder>(&[
                ("user_facing", GrpcBuilder::user_facing),
                ("background", GrpcBuilder::background),
            ])?(builder);
        }
        if let Some(value) = table.get("service_config") {
            builder = builder.service_config(value.check(ServiceConfig::from_json(value.string()?))?);
        }
        common!(builder, table);
        for (key, name) in [
            ("repeatable", GrpcBuilder::repeatable as fn(GrpcBuilder, &str) -> GrpcBuilder),
            ("streams", GrpcBuilder::stream),
            ("unary", GrpcBuilder::unary),
        ] {
            let methods = table.with(key, Value::strings)?.unwrap_or_default();
            builder = methods.into_iter().fold(builder, name);
        }
        if let Some(codes) = table.get("codes") {
            for (code, value) in codes.table()?.values() {
                let wrong = || value.wrong("must be the verdict on a code of gRPC, such as UNAVAILABLE");
                builder = builder.code(Code::from_name(code).ok_or_else(wrong)?, verdict(&value)?);
            }
        }
        builder = builder.attempts(attempts(&table)?);
        table.finish()?;
        Ok(builder)
    }

    fn attempts(table: &Table<'_>) -> Result<AttemptLayer> {
        let mut attempts = AttemptLayer::new();
        if let Some(wait) = table.with("peek", |value| value.or_none(Value::duration))? {
            attempts = attempts.peek(wait);
        }
        if let Some(send) = table.with("send_deadline", Value::bool)? {
            attempts = attempts.send_deadline(send);
        }
        Ok(attempts)
    }
}
