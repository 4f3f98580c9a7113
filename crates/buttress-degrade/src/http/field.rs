use std::fmt::Write as _;
use std::sync::Arc;

use buttress_core::Level;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::served::{Cause, Served, Shortfall, Source};

/// The field that tells the next hop how good an answer is and what fell short: `2; components="prices, search"`.
///
/// An item of RFC 8941: the level, and the names of the components, at most 16 of 64 characters each.
pub const DEGRADATION: HeaderName = HeaderName::from_static("buttress-degradation");

const COMPONENTS: usize = 16;
const CHARACTERS: usize = 64;

/// The field's value; names that cannot be in one are left out.
pub(super) fn write(served: &Served) -> HeaderValue {
    let mut value = served.level().as_u8().to_string();
    let names = served.shortfalls().iter().map(Shortfall::component);
    let names: Vec<&str> = names.filter(|name| is_name(name)).take(COMPONENTS).collect();
    if !names.is_empty() {
        let _ = write!(value, "; components=\"{}\"", names.join(", "));
    }
    HeaderValue::try_from(value).unwrap_or_else(|_| HeaderValue::from_static("4"))
}

fn is_name(name: &str) -> bool {
    let plain = |byte: u8| (b' '..=b'~').contains(&byte) && !matches!(byte, b'"' | b'\\' | b',');
    !name.is_empty() && name.len() <= CHARACTERS && name.bytes().all(plain)
}

/// What the next hop says of its answer; nothing of one that is complete. A field that is none says nothing, and of several the
/// worst counts.
pub(super) fn read(headers: &HeaderMap) -> Option<Served> {
    let fields = headers.get_all(&DEGRADATION).iter().filter_map(|value| parse(value.to_str().ok()?));
    let (level, names) = fields.max_by_key(|(level, _)| *level)?;
    let names = names.split(',').map(str::trim).filter(|name| is_name(name));
    let shortfall = |name: &str| Shortfall::new(Arc::from(name), level, Cause::Upstream);
    let mut served = Served::new(level, Source::Primary);
    served.fall_short(&names.take(COMPONENTS).map(shortfall).collect::<Vec<_>>());
    Some(served)
}

fn parse(value: &str) -> Option<(Level, &str)> {
    let (level, rest) = value.split_once(';').unwrap_or((value, ""));
    let level = Level::from_u8(level.trim().parse().ok()?).filter(|level| level.is_degraded())?;
    let quoted = rest.trim().strip_prefix("components=\"").and_then(|rest| rest.split('"').next());
    Some((level, quoted.unwrap_or_default()))
}

/// The level alone.
pub(super) fn level(headers: &HeaderMap) -> Level {
    if headers.contains_key(&DEGRADATION) {
        read(headers).map_or(Level::Full, |served| served.level())
    } else {
        Level::Full
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn said(value: &str) -> Option<(u8, Vec<String>)> {
        let headers = HeaderMap::from_iter([(DEGRADATION, value.parse().ok()?)]);
        let served = read(&headers)?;
        let names = served.shortfalls().iter().map(|part| part.component().to_owned()).collect();
        Some((served.level().as_u8(), names))
    }

    #[test]
    fn what_is_written_is_read() {
        let shortfall = |name: &str| Shortfall::new(name.into(), Level::Moderate, Cause::Elapsed);
        let served = Served::new(Level::Moderate, Source::Nothing);
        let served =
            served.because(shortfall("prices")).because(shortfall("a\"b")).because(shortfall("search v2"));
        let value = write(&served);
        assert_eq!(value, "2; components=\"prices, search v2\"");
        assert_eq!(said(value.to_str().unwrap()), Some((2, vec!["prices".into(), "search v2".into()])));
    }

    #[test]
    fn what_another_says_is_bounded_and_nonsense_says_nothing() {
        assert_eq!((said("0"), said("5"), said(""), said("-1"), said("two")), (None, None, None, None, None));
        assert_eq!(said(" 3 ; x=1"), Some((3, vec![])));
        let many = format!("1; components=\"{}\"", vec!["a"; 1000].join(","));
        assert_eq!(said(&many).unwrap().1.len(), COMPONENTS);
    }

    #[test]
    fn of_several_fields_the_worst_counts() {
        let fields = ["1; components=\"a\"", "3; components=\"b\"", "none", "2"];
        let headers: HeaderMap =
            fields.map(|value| (DEGRADATION, value.parse().unwrap())).into_iter().collect();
        assert_eq!(headers.get_all(DEGRADATION).iter().count(), 4);
        let served = read(&headers).unwrap();
        assert_eq!((served.level(), served.shortfalls()[0].component()), (Level::Minimal, "b"));
    }

    proptest! {
        #[test]
        fn no_value_panics(value in "[ -~]{0,60}") {
            said(&value);
            said(&format!("2; components=\"{value}"));
        }
    }
}
