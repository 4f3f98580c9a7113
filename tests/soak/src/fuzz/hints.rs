use std::time::{Duration, UNIX_EPOCH};

use buttress::core::{Classify, Hint};
use buttress::http::{Http, Vendor, grpc_pushback, hint};
use buttress::{ResponseExt, Verdict};
use http::{HeaderMap, HeaderName, HeaderValue, Response};

use super::dates;
use crate::draw::Draw;

const VENDORS: [Vendor; 5] =
    [Vendor::Generic, Vendor::Datadog, Vendor::GitHub, Vendor::PagerDuty, Vendor::Aws];

const NAMES: [HeaderName; 7] = [
    http::header::RETRY_AFTER,
    HeaderName::from_static("x-amz-retry-after"),
    HeaderName::from_static("ratelimit"),
    HeaderName::from_static("ratelimit-reset"),
    HeaderName::from_static("x-ratelimit-reset"),
    HeaderName::from_static("x-ratelimit-remaining"),
    HeaderName::from_static("x-amzn-errortype"),
];

const DAY: Duration = Duration::from_secs(86_400);

/// Any headers, for any vendor, at any time.
pub(super) fn headers(draw: &mut Draw) {
    let mut headers = HeaderMap::new();
    for _ in 0..draw.between(1, 4) {
        let name = NAMES[draw.below(NAMES.len())].clone();
        if let Ok(value) = HeaderValue::from_bytes(&any_value(draw)) {
            headers.append(name, value);
        }
    }
    let (vendor, throttled, now) = (draw.pick(&VENDORS), draw.one_in(2), dates::any_now(draw));
    let cap = draw.pick(&[Duration::ZERO, Duration::from_secs(300), DAY, Duration::MAX]);
    let hint = |cap| hint(vendor, throttled, &headers, now, cap);
    let (capped, whole) = (hint(cap), hint(Duration::MAX));
    match (capped, whole) {
        (Hint::None, Hint::None) => {}
        (Hint::RetryAfter(capped), Hint::RetryAfter(whole)) => {
            assert_eq!(capped, whole.min(cap), "{vendor:?} {headers:?}");
            dates::check(Some(whole), now, format!("{headers:?}").as_bytes());
        }
        other => panic!("{other:?} from {headers:?}"),
    }

    let status = draw.pick(&[200, 302, 400, 403, 404, 408, 429, 500, 501, 503, 599, 999]);
    let mut response = Response::new(());
    *response.status_mut() = http::StatusCode::from_u16(status).expect("of three digits");
    *response.headers_mut() = headers;
    let verdict = Http::new().vendor(vendor).classify(Ok(&response));
    if let Verdict::Failure { hint, .. } = verdict {
        assert!(
            matches!(hint, Hint::None) || matches!(hint, Hint::RetryAfter(wait) if wait <= DAY),
            "{hint:?}"
        );
    }
    assert!(response.retry_after().is_none_or(|wait| wait <= DAY));
}

/// Well-formed values, and what they mean.
pub(super) fn known(draw: &mut Draw) {
    use Vendor::{Aws, Datadog, Generic, GitHub, PagerDuty};
    let now_secs = draw.between(1_500_000_000, 2_200_000_000);
    let now = UNIX_EPOCH + Duration::from_secs(now_secs);
    let secs = draw.between(0, 999_999);
    let (span, moment) = (Duration::from_secs(secs), now_secs + secs);
    let date = |form: usize| dates::forms(moment)[form].clone();
    let two = |reset: u64| (reset, reset / 2);
    let (vendor, name, value, expected) = match draw.below(13) {
        0 => (draw.pick(&VENDORS), "retry-after", secs.to_string(), span),
        1 => {
            let form = draw.below(3);
            (draw.pick(&VENDORS), "retry-after", date(form), span)
        }
        2 => {
            let millis = draw.below(1000) as u64;
            let wait = span + Duration::from_millis(millis);
            (draw.pick(&VENDORS), "retry-after", format!("{secs}.{millis:03}"), wait)
        }
        3 => (draw.pick(&VENDORS), "retry-after", "9".repeat(20 + draw.below(200)), Duration::MAX),
        4 => (Aws, "x-amz-retry-after", secs.to_string(), Duration::from_millis(secs)),
        5 => (draw.pick(&VENDORS), "ratelimit", format!("\"default\";r=0;t={secs}"), span),
        6 => {
            let (long, short) = two(secs);
            let value = format!("\"a\";r=0;t={short}, \"b\";t={long};r=0, \"c\";r=7;t={}", long + 1);
            (draw.pick(&VENDORS), "ratelimit", value, span)
        }
        7 => (draw.pick(&VENDORS), "ratelimit", format!("limit=100, remaining=0, reset={secs}"), span),
        8 => (draw.pick(&[PagerDuty, Generic, Datadog, Aws]), "ratelimit-reset", secs.to_string(), span),
        9 => (draw.pick(&[Datadog, Generic, PagerDuty, Aws]), "x-ratelimit-reset", secs.to_string(), span),
        10 => (draw.pick(&VENDORS), "x-ratelimit-reset", moment.to_string(), span),
        11 => (draw.pick(&VENDORS), "x-ratelimit-reset", format!("{moment}000"), span),
        // What a span is elsewhere was long ago here.
        _ => (GitHub, "x-ratelimit-reset", secs.to_string(), Duration::ZERO),
    };
    let value = format!("{}{value}{}", dates::pad(draw), dates::pad(draw));
    let header = HeaderValue::from_str(&value).expect("a header's value");
    let headers = HeaderMap::from_iter([(HeaderName::from_static(name), header)]);
    let cap = draw.pick(&[Duration::from_secs(300), DAY, Duration::MAX]);
    let Hint::RetryAfter(wait) = hint(vendor, true, &headers, now, cap) else {
        panic!("nothing from {name}: {value:?} of {vendor:?}")
    };
    // Twenty and more nines are as much as there can be, give or take what a fraction adds.
    let expected = expected.min(cap);
    assert!(
        wait == expected || wait >= Duration::from_secs(u64::MAX),
        "{name}: {value:?} of {vendor:?}: {wait:?}"
    );
}

/// gRPC A6: a signed number of 32 bits, or a stop.
pub(super) fn pushback(draw: &mut Draw) {
    let cap = draw.pick(&[Duration::ZERO, Duration::from_secs(300), Duration::MAX]);
    let read = |bytes: &[u8]| HeaderValue::from_bytes(bytes).ok().map(|value| grpc_pushback(&value, cap));
    let number = draw.number() as i64;
    let millis = u64::try_from(number).ok().filter(|millis| *millis <= i32::MAX as u64);
    let expected = match millis {
        Some(millis) => Hint::RetryAfter(Duration::from_millis(millis).min(cap)),
        None => Hint::DoNotRetry,
    };
    let text = format!("{}{number}{}", dates::pad(draw), dates::pad(draw));
    assert_eq!(read(text.as_bytes()), Some(expected), "{text:?}");

    let odd = if draw.one_in(2) { draw.bytes(20) } else { draw.mutated(&text, "-1") };
    match read(&odd) {
        Some(Hint::RetryAfter(wait)) => {
            assert!(wait <= cap.min(Duration::from_millis(i32::MAX as u64)), "{odd:?}");
            assert_eq!(read(wait.as_millis().to_string().as_bytes()), Some(Hint::RetryAfter(wait)));
        }
        Some(Hint::DoNotRetry) | None => {}
        Some(other) => panic!("{other:?} from {odd:?}"),
    }
}

/// Something a server sends, or something like it.
fn any_value(draw: &mut Draw) -> Vec<u8> {
    let (first, second) = (valid(draw), valid(draw));
    match draw.below(4) {
        0 => first.into_bytes(),
        1 => draw.bytes(40),
        _ => draw.mutated(&first, &second),
    }
}

fn valid(draw: &mut Draw) -> String {
    let (number, small) = (draw.number(), draw.below(100));
    match draw.below(14) {
        0 => small.to_string(),
        1 => number.to_string(),
        2 => format!("{number}.{small}"),
        3 => format!("-{number}"),
        4 => f64::from_bits(number).to_string(),
        5 => format!("{:e}", f64::from_bits(number)),
        6 => format!("\"default\";r={};t={number}", draw.below(3)),
        7 => format!("\"a\";q=9;w=60;r=0;t={small}, \"b\";r=1;t={number}"),
        8 => format!("limit=100, remaining={}, reset={number}", draw.below(3)),
        9 => draw
            .pick(&["0", "1", "NaN", "inf", "-0", "1e400", "0x10", "١٢", "18446744073709551616"])
            .to_owned(),
        10 => {
            let names = [
                "ThrottlingException",
                "RequestTimeout",
                "SlowDown",
                "aws.protocoltests#Throttling:http://x/",
            ];
            draw.pick(&names).to_owned()
        }
        _ => {
            let (moment, form) = (draw.between(0, 253_402_300_799), draw.below(3));
            dates::forms(moment)[form].clone()
        }
    }
}
