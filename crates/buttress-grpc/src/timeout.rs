//! `grpc-timeout`: how much time is left for a call.

use std::time::Duration;

use http::{HeaderName, HeaderValue};

pub(crate) static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The units, longest first, with their nanoseconds.
const UNITS: [(u8, u64); 6] = [
    (b'H', 3_600_000_000_000),
    (b'M', 60_000_000_000),
    (b'S', 1_000_000_000),
    (b'm', 1_000_000),
    (b'u', 1_000),
    (b'n', 1),
];

/// Eight digits (gRPC over HTTP/2, `Timeout`).
const MOST: u128 = 99_999_999;

/// Reads a `grpc-timeout`: one to eight digits and one of the units `H`, `M`, `S`, `m`, `u`, `n`. `None` for anything
/// else.
///
/// ```
/// use std::time::Duration;
/// use buttress_grpc::parse_timeout;
/// use http::HeaderValue;
///
/// assert_eq!(parse_timeout(&HeaderValue::from_static("1500m")), Some(Duration::from_millis(1500)));
/// assert_eq!(parse_timeout(&HeaderValue::from_static("1.5S")), None);
/// ```
pub fn parse_timeout(value: &HeaderValue) -> Option<Duration> {
    let (unit, digits) = value.as_bytes().split_last()?;
    if !(1..=8).contains(&digits.len()) {
        return None;
    }
    let number = digits.iter().try_fold(0, |number: u64, digit| {
        digit.is_ascii_digit().then(|| number * 10 + u64::from(digit - b'0'))
    })?;
    let (_, nanos) = UNITS.iter().find(|(of, _)| of == unit)?;
    // At most eight digits of hours.
    let all = u128::from(number) * u128::from(*nanos);
    Some(Duration::new((all / 1_000_000_000) as u64, (all % 1_000_000_000) as u32))
}

/// Writes a `grpc-timeout`: in the longest unit that says it exactly, else in the finest one in which it has no more than
/// eight digits. Never longer than the time that is left, and never zero, which the protocol does not know.
///
/// ```
/// use std::time::Duration;
/// use buttress_grpc::format_timeout;
///
/// assert_eq!(format_timeout(Duration::from_secs(90)), "90S");
/// assert_eq!(format_timeout(Duration::from_micros(1_234_567_891)), "1234567m");
/// ```
pub fn format_timeout(left: Duration) -> HeaderValue {
    let nanos = left.as_nanos().max(1);
    let number = |unit: &(u8, u64)| nanos / u128::from(unit.1);
    let exact = UNITS.iter().find(|unit| number(unit) <= MOST && nanos % u128::from(unit.1) == 0);
    let unit = exact.or_else(|| UNITS.iter().rev().find(|unit| number(unit) <= MOST));
    // What does not even fit in hours is more than eleven thousand years.
    let (number, unit) = unit.map_or((MOST, b'H'), |unit| (number(unit), unit.0));
    HeaderValue::try_from(format!("{number}{}", unit as char)).expect("digits and a letter")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Option<Duration> {
        parse_timeout(&HeaderValue::from_str(text).unwrap())
    }

    #[test]
    fn every_unit_is_read_and_nothing_else() {
        for (text, nanos) in [
            ("1H", 3_600_000_000_000),
            ("2M", 120_000_000_000),
            ("3S", 3_000_000_000),
            ("4m", 4_000_000),
            ("5u", 5_000),
            ("6n", 6),
            ("00000000S", 0),
        ] {
            assert_eq!(parse(text), Some(Duration::from_nanos(nanos)), "{text}");
        }
        assert_eq!(parse("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for odd in ["", "S", "1", "1s", "123456789n", "-1S", "+1S", "1.5S", " 1S", "1S ", "1SS", "1h"] {
            assert_eq!(parse(odd), None, "{odd:?}");
        }
    }

    #[test]
    fn the_longest_exact_unit_is_written() {
        for (left, text) in [
            (Duration::from_secs(7200), "2H"),
            (Duration::from_secs(60), "1M"),
            (Duration::from_secs(61), "61S"),
            (Duration::from_millis(1500), "1500m"),
            (Duration::from_nanos(1_234_567_891), "1234567u"),
            (Duration::from_nanos(12_345_678), "12345678n"),
            (Duration::ZERO, "1n"),
            (Duration::from_secs(100_000_000), "1666666M"),
            (Duration::MAX, "99999999H"),
        ] {
            assert_eq!(format_timeout(left), text, "{left:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_written_is_read_again_and_never_longer(nanos in any::<u64>(), shift in 0..64_u32) {
            let left = Duration::from_nanos(nanos >> shift);
            let header = format_timeout(left);
            let read = parse_timeout(&header).unwrap();
            prop_assert!(read <= left.max(Duration::from_nanos(1)), "{left:?} became {header:?}");
            // Between two units lies a factor of a thousand at most: five digits are left.
            prop_assert!(left.saturating_sub(read) <= left / 90_000, "{left:?} became {header:?}");
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..12)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let _ = parse_timeout(&value);
            }
        }
    }
}
