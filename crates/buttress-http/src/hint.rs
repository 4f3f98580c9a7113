//! What servers ask of those who would try again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use buttress_core::Hint;
use http::{HeaderMap, HeaderValue};

use crate::Vendor;

/// The hint in a response's headers.
///
/// Looked for in this order, and only on a response that may be tried again: `x-amz-retry-after` (AWS), `Retry-After`,
/// and if the response is throttling (HTTP 429, or as the vendor has it) the rate-limit headers: `RateLimit` and
/// `RateLimit-Reset` (IETF drafts), `X-RateLimit-Reset` (Datadog, GitHub), `ratelimit-reset` (PagerDuty). A hint longer
/// than `cap` counts as `cap`.
pub fn hint(vendor: Vendor, throttled: bool, headers: &HeaderMap, now: SystemTime, cap: Duration) -> Hint {
    let own = if vendor == Vendor::Aws { first(headers, "x-amz-retry-after").and_then(millis) } else { None };
    let wait =
        own.or_else(|| headers.get(http::header::RETRY_AFTER).and_then(|value| retry_after(value, now)));
    let wait = wait.or_else(|| if throttled { rate_limit_reset(vendor, headers, now) } else { None });
    wait.map_or(Hint::None, |wait| Hint::RetryAfter(wait.min(cap)))
}

/// `Retry-After` (RFC 9110 § 10.2.3): seconds, or a date in any of the three HTTP formats; a date in the past is zero.
/// `None` for anything else.
///
/// Fractions of a second, which some servers send, are rounded up: never early.
pub fn retry_after(value: &HeaderValue, now: SystemTime) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    seconds(text).or_else(|| {
        let date = httpdate::parse_http_date(text).ok()?;
        Some(date.duration_since(now).unwrap_or_default())
    })
}

/// `grpc-retry-pushback-ms` (gRPC A6): so many milliseconds; negative or unparsable means not to retry. More than `cap`
/// counts as `cap`.
pub fn grpc_pushback(value: &HeaderValue, cap: Duration) -> Hint {
    let parsed = value.to_str().ok().and_then(|text| text.trim().parse::<i32>().ok());
    match parsed.and_then(|millis| u64::try_from(millis).ok()) {
        Some(millis) => Hint::RetryAfter(Duration::from_millis(millis).min(cap)),
        None => Hint::DoNotRetry,
    }
}

/// Numbers from here on are points in time (2001-09-09 as seconds since 1970), smaller ones are spans.
const EPOCH_SECONDS: f64 = 1e9;
/// ... and from here on in milliseconds.
const EPOCH_MILLIS: f64 = 1e12;

fn rate_limit_reset(vendor: Vendor, headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let fields = headers.get_all("ratelimit").iter().filter_map(|value| value.to_str().ok());
    if let Some(reset) = fields.filter_map(ratelimit_field).max() {
        return Some(reset);
    }
    // With requests left in the window, it is not this limit that was hit, and its reset says nothing.
    if first(headers, "x-ratelimit-remaining").is_some_and(|remaining| remaining.trim() != "0") {
        return (vendor == Vendor::GitHub).then_some(GITHUB_SECONDARY);
    }
    let text = ["ratelimit-reset", "x-ratelimit-reset"].iter().find_map(|name| first(headers, name))?;
    let number: f64 = text.trim().parse().ok()?;
    if !number.is_finite() || number < 0.0 {
        return None;
    }
    let since_epoch = if number >= EPOCH_MILLIS {
        number / 1000.0
    } else if number >= EPOCH_SECONDS || vendor == Vendor::GitHub {
        number
    } else {
        return seconds(text.trim());
    };
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    // `max` turns a moment in the past into no wait at all.
    Some(Duration::try_from_secs_f64((since_epoch - now).max(0.0).ceil()).unwrap_or(Duration::MAX))
}

/// What GitHub asks for when it throttles without saying for how long: at least a minute.
const GITHUB_SECONDARY: Duration = Duration::from_secs(60);

/// `RateLimit: "policy";r=0;t=30` (draft-ietf-httpapi-ratelimit-headers 08 on) or `limit=100, remaining=0, reset=30`
/// (earlier ones): the longest reset of the limits that are used up.
fn ratelimit_field(text: &str) -> Option<Duration> {
    let items = text.split(',').map(|item| {
        let parameters = item.split(';').filter_map(|parameter| parameter.trim().split_once('='));
        let mut found = (None, None);
        for (name, value) in parameters {
            match name.trim() {
                "r" | "remaining" => found.0 = value.trim().parse::<u64>().ok(),
                "t" | "reset" => found.1 = seconds(value.trim()),
                _ => {}
            }
        }
        found
    });
    let used_up = items.filter(|(remaining, _)| remaining.is_none_or(|remaining| remaining == 0));
    used_up.filter_map(|(_, reset)| reset).max()
}

fn first<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn millis(text: &str) -> Option<Duration> {
    let text = text.trim();
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| Duration::from_millis(text.parse().unwrap_or(u64::MAX)))
}

/// Seconds, a fraction rounded up to the millisecond; too many for a number are as many as there can be.
fn seconds(text: &str) -> Option<Duration> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return None;
    }
    let whole = Duration::from_secs(whole.parse().unwrap_or(u64::MAX));
    let fraction: f64 = format!("0.{fraction}").parse().unwrap_or(0.0);
    Some(whole.saturating_add(Duration::from_millis((fraction * 1000.0).ceil() as u64)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CAP: Duration = Duration::from_secs(300);

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    const fn after(seconds: u64) -> Hint {
        Hint::RetryAfter(Duration::from_secs(seconds))
    }

    fn of(vendor: Vendor, throttled: bool, headers: &[(&'static str, &str)], now: u64) -> Hint {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        hint(vendor, throttled, &map, at(now), CAP)
    }

    fn retry_after_of(value: &str) -> Hint {
        of(Vendor::Generic, false, &[("retry-after", value)], 784_111_777)
    }

    /// R-11
    #[test]
    fn retry_after_is_seconds_or_a_date_and_never_more_than_the_cap() {
        for (value, hint) in [
            ("10", after(10)),
            ("120", after(120)),
            (" 7 ", after(7)),
            ("0", after(0)),
            ("3600", after(300)),
            ("99999999999999999999999", after(300)),
            ("1.5", Hint::RetryAfter(Duration::from_millis(1500))),
            ("not-a-number", Hint::None),
            ("-1", Hint::None),
            ("", Hint::None),
            ("1e3", Hint::None),
            // 784111777 is this moment, in all three forms.
            ("Sun, 06 Nov 1994 08:49:37 GMT", after(0)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", after(10)),
            ("Sunday, 06-Nov-94 08:49:47 GMT", after(10)),
            ("Sun Nov  6 08:49:47 1994", after(10)),
            ("Sun, 06 Nov 1994 08:59:37 GMT", after(300)),
            ("Sat, 05 Nov 1994 08:49:37 GMT", after(0)),
        ] {
            assert_eq!(retry_after_of(value), hint, "{value:?}");
        }
    }

    /// R-11, read later
    #[test]
    fn the_same_date_read_two_days_later_is_zero() {
        let date = HeaderValue::from_str(&httpdate::fmt_http_date(at(86_400))).unwrap();
        assert_eq!(retry_after(&date, at(0)), Some(Duration::from_secs(86_400)));
        assert_eq!(retry_after(&date, at(2 * 86_400)), Some(Duration::ZERO));
    }

    /// R-12, parsing
    #[test]
    fn a_pushback_is_milliseconds_and_anything_odd_means_stop() {
        for (value, hint) in [
            ("5000", after(5)),
            ("0", after(0)),
            ("999999", after(300)),
            ("-1", Hint::DoNotRetry),
            ("garbage", Hint::DoNotRetry),
            ("99999999999", Hint::DoNotRetry),
        ] {
            assert_eq!(grpc_pushback(&HeaderValue::from_static(value), CAP), hint, "{value}");
        }
    }

    #[test]
    fn aws_sends_milliseconds_of_its_own() {
        let headers = [("x-amz-retry-after", "1500"), ("retry-after", "60")];
        assert_eq!(of(Vendor::Aws, true, &headers, 0), Hint::RetryAfter(Duration::from_millis(1500)));
        assert_eq!(of(Vendor::Generic, true, &headers, 0), after(60));
        assert_eq!(of(Vendor::Aws, true, &[("x-amz-retry-after", "-5")], 0), Hint::None, "invalid: ignored");
        assert_eq!(of(Vendor::Aws, true, &[("x-amz-retry-after", "x"), ("retry-after", "2")], 0), after(2));
    }

    #[test]
    fn datadog_sends_a_span_or_a_moment_under_one_name() {
        let now = 1_700_000_000;
        for (value, hint) in
            [("30", after(30)), ("1700000045", after(45)), ("1699999999", after(0)), ("x", Hint::None)]
        {
            assert_eq!(of(Vendor::Datadog, true, &[("x-ratelimit-reset", value)], now), hint, "{value}");
        }
        assert_eq!(of(Vendor::Datadog, true, &[("x-ratelimit-reset", "1700000045000")], now), after(45));
    }

    #[test]
    fn github_always_sends_a_moment() {
        assert_eq!(
            of(Vendor::GitHub, true, &[("x-ratelimit-reset", "1700000045")], 1_700_000_000),
            after(45)
        );
        assert_eq!(
            of(Vendor::GitHub, true, &[("x-ratelimit-reset", "30")], 1_700_000_000),
            after(0),
            "long ago"
        );
    }

    #[test]
    fn pagerduty_sends_a_span_under_the_drafts_name() {
        assert_eq!(of(Vendor::PagerDuty, true, &[("ratelimit-reset", "12")], 0), after(12));
    }

    #[test]
    fn the_drafts_are_read_in_both_of_their_forms() {
        for (value, hint) in [
            (r#""default";r=0;t=30"#, after(30)),
            (r#""burst";r=5;t=2, "daily";r=0;t=200"#, after(200)),
            ("limit=100, remaining=0, reset=50", after(50)),
            (r#""default";r=50;t=30"#, Hint::None),
            ("nonsense", Hint::None),
        ] {
            assert_eq!(of(Vendor::Generic, true, &[("ratelimit", value)], 0), hint, "{value}");
        }
    }

    #[test]
    fn rate_limit_headers_count_only_when_throttled_and_after_retry_after() {
        let headers = [("x-ratelimit-reset", "30")];
        assert_eq!(of(Vendor::Datadog, false, &headers, 0), Hint::None);
        let both = [("retry-after", "5"), ("x-ratelimit-reset", "30")];
        assert_eq!(of(Vendor::Datadog, true, &both, 0), after(5));
    }

    #[test]
    fn the_reset_of_a_limit_that_was_not_hit_says_nothing() {
        let left = [("x-ratelimit-remaining", "17"), ("x-ratelimit-reset", "1700002400")];
        assert_eq!(of(Vendor::GitHub, true, &left, 1_700_000_000), after(60), "a secondary limit: a minute");
        assert_eq!(of(Vendor::Datadog, true, &left, 1_700_000_000), Hint::None);
    }

    #[test]
    fn limits_may_be_spread_over_several_fields() {
        let fields = [("ratelimit", r#""burst";r=0;t=2"#), ("ratelimit", r#""daily";r=0;t=200"#)];
        assert_eq!(of(Vendor::Generic, true, &fields, 0), after(200));
    }

    proptest! {
        #[test]
        fn no_header_panics_or_exceeds_the_cap(
            bytes in prop::collection::vec(any::<u8>(), 0..40),
            number in any::<f64>(),
            name in 0..5_usize,
            now in any::<u32>(),
        ) {
            let names = ["retry-after", "x-amz-retry-after", "ratelimit", "ratelimit-reset", "x-ratelimit-reset"];
            for value in [bytes, number.to_string().into_bytes()] {
                let Ok(value) = HeaderValue::from_bytes(&value) else { continue };
                let headers = HeaderMap::from_iter([(http::HeaderName::from_static(names[name]), value.clone())]);
                for vendor in [Vendor::Generic, Vendor::Datadog, Vendor::GitHub, Vendor::PagerDuty, Vendor::Aws] {
                    let found = hint(vendor, true, &headers, at(now.into()), CAP);
                    prop_assert!(matches!(found, Hint::None) || matches!(found, Hint::RetryAfter(wait) if wait <= CAP));
                }
                let _ = grpc_pushback(&value, CAP);
            }
        }
    }
}
