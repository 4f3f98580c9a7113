//! The keys of retries and circuit breakers.

use std::time::Duration;

use buttress_circuit_breaker::{Abandoned, Config as Breaker, ProbeExpiry, Ratio, Recovery, Trip, Window};
use buttress_core::{Backoff, Jitter, Kind, Mode, Verdict};
use buttress_retry::{Budget, Config as Retry, HintRule};

use super::error::FileError;
use super::reader::{Table, Value};

type Result<T> = std::result::Result<T, FileError>;

pub(super) fn mode(value: &Value<'_>) -> Result<Mode> {
    value.choice(&[("enforce", Mode::Enforce), ("observe", Mode::Observe), ("off", Mode::Off)])
}

/// A limit of a deadline.
pub(super) fn limit(value: &Value<'_>) -> Result<Duration> {
    let limit = value.duration()?;
    if limit.is_zero() {
        Err(value.wrong("must be longer than zero, or no call can succeed"))
    } else {
        Ok(limit)
    }
}

pub(super) fn verdict(value: &Value<'_>) -> Result<Verdict> {
    value.choice(&[
        ("success", Verdict::Success),
        ("rejected", Verdict::Rejected),
        ("ignored", Verdict::Ignored),
        ("transient", Verdict::failure(Kind::Transient)),
        ("throttled", Verdict::failure(Kind::Throttled)),
        ("conflict", Verdict::failure(Kind::Conflict)),
        ("unprocessed", Verdict::failure(Kind::Unprocessed)),
        ("timeout", Verdict::failure(Kind::Timeout)),
        ("permanent", Verdict::failure(Kind::Permanent)),
    ])
}

/// Changes a retry as its table says.
pub(super) fn retry(table: Table<'_>, mut config: Retry) -> Result<Retry> {
    if let Some(value) = table.get("preset") {
        config = value.choice::<fn() -> Retry>(&[
            ("user_facing", Retry::user_facing),
            ("background", Retry::background),
            ("aws_standard", Retry::aws_standard),
            ("grpc", Retry::grpc),
        ])?();
    }
    if let Some(retries) = table.with("max_retries", Value::number)? {
        config = config.max_retries(retries);
    }
    if let Some(schedule) = table.with("backoff", backoff)? {
        config = config.backoff(schedule);
    }
    if let Some(schedule) = table.with("throttled_backoff", backoff)? {
        config = config.throttled_backoff(schedule);
    }
    if let Some(wait) = table.with("max_total_wait", |value| value.or_none(Value::duration))? {
        config = config.max_total_wait(wait);
    }
    if let Some(rule) = table.with("hints", hints)? {
        config = config.hints(rule);
    }
    if let Some(rule) = table.with("budget", budget)? {
        config = config.budget(rule);
    }
    if let Some(retry) = table.with("retry_refused", Value::bool)? {
        config = config.retry_refused(retry);
    }
    if let Some(gate) = table.with("rate_gate", Value::bool)? {
        config = config.rate_gate(gate);
    }
    table.check(config.check())?;
    table.finish()?;
    Ok(config)
}

/// A schedule: a time that stays the same, or a table.
fn backoff(value: &Value<'_>) -> Result<Backoff> {
    if !value.is_table() {
        return value.duration().map(Backoff::constant);
    }
    let table = value.table()?;
    let base = table.need("base")?.duration()?;
    let growth = table.with("growth", |value| {
        value.choice(&[
            ("exponential", Growth::Exponential),
            ("linear", Growth::Linear),
            ("constant", Growth::Constant),
        ])
    })?;
    let growth = growth.unwrap_or(Growth::Exponential);
    let schedule = match growth {
        Growth::Constant => Backoff::constant(base),
        Growth::Linear => table.check(Backoff::linear(base, table.need("cap")?.duration()?))?,
        Growth::Exponential => {
            let factor = table.with("factor", Value::float)?.unwrap_or(2.0);
            table.check(Backoff::exponential(base, factor, table.need("cap")?.duration()?))?
        }
    };
    let schedule = match table.with("jitter", jitter)? {
        Some(jitter) => schedule.jitter(jitter),
        None => schedule,
    };
    table.finish()?;
    Ok(schedule)
}

#[derive(Clone, Copy)]
enum Growth {
    Exponential,
    Linear,
    Constant,
}

fn jitter(value: &Value<'_>) -> Result<Jitter> {
    if !value.is_table() {
        return value.choice(&[
            ("none", Jitter::None),
            ("full", Jitter::Full),
            ("equal", Jitter::Equal),
            ("decorrelated", Jitter::Decorrelated),
        ]);
    }
    let table = value.table()?;
    let spread = table.with("spread", percent)?.map(|percent| Jitter::Spread { percent });
    let above = table.with("above", percent)?.map(|percent| Jitter::Above { percent });
    let jitter = one_of(&table, [spread, above], "either `spread` or `above`")?;
    table.finish()?;
    Ok(jitter)
}

/// Whole percent.
fn percent(value: &Value<'_>) -> Result<u8> {
    let percent = value.share()? * 100.0;
    if (0.0..=100.0).contains(&percent) && (percent - percent.round()).abs() < 1e-9 {
        Ok(percent.round() as u8)
    } else {
        Err(value.wrong("must be a whole number of percent, \"0%\" to \"100%\""))
    }
}

fn one_of<T, const N: usize>(table: &Table<'_>, given: [Option<T>; N], those: &str) -> Result<T> {
    let mut given = given.into_iter().flatten();
    match (given.next(), given.next()) {
        (Some(one), None) => Ok(one),
        _ => Err(table.wrong(format!("must have {those}"))),
    }
}

fn hints(value: &Value<'_>) -> Result<HintRule> {
    if !value.is_table() {
        return value.choice(&[("ignore", HintRule::Ignore)]);
    }
    let table = value.table()?;
    let floor = table.with("floor", Value::duration)?.map(|cap| HintRule::Floor { cap });
    let clamp = table.with("clamp", Value::duration)?.map(|extra| HintRule::Clamp { extra });
    let exact = table.with("exact", Value::duration)?.map(|cap| HintRule::Exact { cap });
    let rule = one_of(&table, [floor, clamp, exact], "one of `floor`, `clamp` and `exact`")?;
    table.finish()?;
    Ok(rule)
}

fn budget(value: &Value<'_>) -> Result<Budget> {
    if !value.is_table() {
        return Ok(value.choice::<fn() -> Budget>(&[
            ("standard", Budget::standard),
            ("aws_2_0", Budget::aws_2_0),
            ("aws_2_1", Budget::aws_2_1),
            ("unlimited", Budget::unlimited),
        ])?());
    }
    let table = value.table()?;
    let budget = if let Some(tokens) = table.get("max_tokens") {
        table.check(Budget::grpc_throttle(tokens.number()?, table.need("token_ratio")?.float()?))?
    } else {
        let share = table.need("share")?.share()?;
        match table.with("capacity", Value::number)? {
            Some(capacity) => table.check(Budget::ratio(share, capacity))?,
            None => {
                let burst = table.with("burst", Value::duration)?.unwrap_or(Duration::from_millis(500));
                let at_least = table.with("at_least", Value::number)?.unwrap_or(1);
                table.check(Budget::adaptive(share, burst, at_least))?
            }
        }
    };
    table.finish()?;
    Ok(budget)
}

/// Changes a circuit breaker as its table says.
pub(super) fn breaker(table: Table<'_>, mut config: Breaker) -> Result<Breaker> {
    if let Some(value) = table.get("preset") {
        config = value.choice::<fn() -> Breaker>(&[
            ("standard", Breaker::standard),
            ("high_traffic", Breaker::high_traffic),
            ("critical", Breaker::critical),
        ])?();
    }
    if let Some(failures) = table.with("consecutive_failures", |value| value.or_none(Value::number))? {
        config = match failures {
            Some(failures) => config.trip(Trip::ConsecutiveFailures(failures)),
            None => config.without_consecutive_failures(),
        };
    }
    if let Some(trip) = table.with("failure_rate", |value| rate(value, false))? {
        config = config.trip(trip);
    }
    if let Some(trip) = table.with("slow_calls", |value| rate(value, true))? {
        config = config.trip(trip);
    }
    if let Some(open) = table.with("open_for", backoff)? {
        config = config.open_backoff(open);
    }
    if let Some(cap) = table.with("hint_cap", |value| value.or_none(Value::duration))? {
        config = config.hint_cap(cap);
    }
    config = probes(&table, config)?;
    if let Some(abandoned) = table.with("abandoned", abandoned)? {
        config = config.abandoned(abandoned);
    }
    if let Some(count) = table.with("count_throttling", Value::bool)? {
        config = config.count_throttling(count);
    }
    if let Some(eager) = table.with("eager", Value::bool)? {
        config = config.eager(eager);
    }
    table.check(config.check())?;
    table.finish()?;
    Ok(config)
}

fn probes(table: &Table<'_>, mut config: Breaker) -> Result<Breaker> {
    if let Some(probes) = table.with("probes", Value::number)? {
        config = config.probes(probes);
    }
    let successes = table.with("success_threshold", Value::number)?;
    let ratio = table.with("recovery", |value| {
        let table = value.table()?;
        let calls = table.need("calls")?.number()?;
        let at_least = table.need("at_least")?;
        let at_least = at_least.check(Ratio::try_new(at_least.share()?))?;
        let recovery = Recovery::Ratio { calls, at_least };
        table.check(Breaker::standard().recovery(recovery).check())?;
        table.finish()?;
        Ok(recovery)
    })?;
    config = match (successes, ratio) {
        (None, None) => config,
        (Some(successes), None) => config.success_threshold(successes),
        (None, Some(ratio)) => config.recovery(ratio),
        (Some(_), Some(_)) => {
            return Err(table.wrong("must have either `success_threshold` or `recovery`".to_owned()));
        }
    };
    if let Some(lease) = table.with("probe_lease", Value::duration)? {
        config = config.probe_lease(lease);
    }
    if let Some(value) = table.get("on_probe_expiry") {
        config = config.on_probe_expiry(value.choice(&[
            ("replace", ProbeExpiry::Replace),
            ("reopen", ProbeExpiry::Reopen),
            ("close", ProbeExpiry::Close),
        ])?);
    }
    Ok(config)
}

/// A rule over a share of failed, or of slow, calls.
fn rate(value: &Value<'_>, slow: bool) -> Result<Trip> {
    let table = value.table()?;
    let slower_than = if slow { Some(table.need("slower_than")?.duration()?) } else { None };
    let window = table.need("window")?;
    let window = match window.whole() {
        Some(_) => Window::Calls(window.number()?),
        None if window.text().is_some() => Window::Time(window.duration()?),
        None => {
            return Err(window.wrong("must be a number of calls, such as 100, or a time, such as \"30s\""));
        }
    };
    let at_least = table.need("at_least")?;
    let at_least = at_least.check(Ratio::try_new(at_least.share()?))?;
    let minimum_calls = table.need("minimum_calls")?.number()?;
    let trip = match slower_than {
        Some(slower_than) => Trip::SlowCalls { slower_than, window, at_least, minimum_calls },
        None => Trip::FailureRate { window, at_least, minimum_calls },
    };
    table.check(Breaker::only(trip).check())?;
    table.finish()?;
    Ok(trip)
}

fn abandoned(value: &Value<'_>) -> Result<Abandoned> {
    if !value.is_table() {
        return value.choice(&[
            ("ignore", Abandoned::Ignore),
            ("count_as_failure", Abandoned::CountAsFailure),
            ("count_unless_any_success", Abandoned::CountUnlessAnySuccess),
        ]);
    }
    let table = value.table()?;
    let after = table.need("count_after")?.duration()?;
    table.finish()?;
    Ok(Abandoned::CountAfter(after))
}
