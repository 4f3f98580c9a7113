use std::time::Duration;

use http::HeaderMap;
use http::header::{CACHE_CONTROL, PRAGMA};

/// What `Cache-Control` says, as far as a store needs to know (RFC 9111 § 5.2, RFC 5861).
///
/// Unknown directives are ignored. Of a number that is given several times the smallest counts, and one that is no number
/// counts as zero: in doubt, the origin is asked. The forms with field names (`no-cache="set-cookie"`) count as those without.
/// A field that cannot be parsed, because of bytes outside of ASCII or a quote that does not end, forbids to keep anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Directives {
    pub(crate) no_store: bool,
    pub(crate) no_cache: bool,
    pub(crate) private: bool,
    pub(crate) public: bool,
    pub(crate) must_revalidate: bool,
    pub(crate) proxy_revalidate: bool,
    pub(crate) max_age: Option<Duration>,
    pub(crate) s_maxage: Option<Duration>,
    pub(crate) stale_while_revalidate: Option<Duration>,
    pub(crate) stale_if_error: Option<Duration>,
}

impl Directives {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut directives = Self::default();
        let values = headers.get_all(CACHE_CONTROL);
        for value in values {
            match value.to_str().ok().and_then(parts) {
                Some(parts) => parts.into_iter().for_each(|part| directives.add(part)),
                None => directives.no_store = true,
            }
        }
        // RFC 9111 § 5.4: only where there is no `Cache-Control`.
        let pragma = || headers.get_all(PRAGMA).iter().filter_map(|value| value.to_str().ok());
        if !headers.contains_key(CACHE_CONTROL)
            && pragma().any(|value| value.eq_ignore_ascii_case("no-cache"))
        {
            directives.no_cache = true;
        }
        directives
    }

    fn add(&mut self, part: &str) {
        let (name, argument) = part.split_once('=').unwrap_or((part, ""));
        let (name, argument) = (name.trim(), argument.trim().trim_matches('"'));
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        let smaller = |before: Option<Duration>| {
            let seconds = seconds(argument);
            Some(before.map_or(seconds, |before| before.min(seconds)))
        };
        match () {
            () if is("no-store") => self.no_store = true,
            () if is("no-cache") => self.no_cache = true,
            () if is("private") => self.private = true,
            () if is("public") => self.public = true,
            () if is("must-revalidate") => self.must_revalidate = true,
            () if is("proxy-revalidate") => self.proxy_revalidate = true,
            () if is("max-age") => self.max_age = smaller(self.max_age),
            () if is("s-maxage") => self.s_maxage = smaller(self.s_maxage),
            () if is("stale-while-revalidate") => {
                self.stale_while_revalidate = smaller(self.stale_while_revalidate);
            }
            () if is("stale-if-error") => self.stale_if_error = smaller(self.stale_if_error),
            () => {}
        }
    }
}

/// What stands between commas that are not in quotes (RFC 9110 § 5.6.4); `None` if a quote does not end.
fn parts(value: &str) -> Option<Vec<&str>> {
    let (mut quoted, mut escaped) = (false, false);
    let parts = value.split(|c| {
        let quote = c == '"' && !escaped;
        escaped = quoted && c == '\\' && !escaped;
        quoted ^= quote;
        c == ',' && !quoted
    });
    let parts = parts.collect();
    (!quoted).then_some(parts)
}

/// Delta-seconds (RFC 9111 § 1.2.2): what is too large counts as 2³¹, what is none as zero.
pub(crate) fn seconds(text: &str) -> Duration {
    const MOST: u64 = 1 << 31;
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let seconds = if digits { text.parse::<u64>().unwrap_or(MOST).min(MOST) } else { 0 };
    Duration::from_secs(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(values: &[&str]) -> Directives {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(CACHE_CONTROL, value.parse().unwrap());
        }
        Directives::of(&headers)
    }

    fn secs(seconds: u64) -> Option<Duration> {
        Some(Duration::from_secs(seconds))
    }

    #[test]
    fn directives_are_read_in_any_case_from_any_field_and_the_smallest_number_counts() {
        let directives = of(&["Max-Age=60, PUBLIC", "s-maxage=\"30\" ,max-age=20, stale-if-error=86400"]);
        let expected = Directives {
            public: true,
            max_age: secs(20),
            s_maxage: secs(30),
            stale_if_error: secs(86_400),
            ..Directives::default()
        };
        assert_eq!(directives, expected);
        assert_eq!(
            of(&["private=\"a, no-store\", x=\"no-cache\""]),
            Directives { private: true, ..Default::default() }
        );
    }

    #[test]
    fn what_is_no_number_is_zero_and_what_is_too_large_is_bounded() {
        let max_age = |text: &str| of(&[&format!("max-age={text}")]).max_age;
        assert_eq!(
            (max_age("-1"), max_age(""), max_age("1.5"), max_age("soon")),
            (secs(0), secs(0), secs(0), secs(0))
        );
        assert_eq!(max_age("99999999999999999999999"), secs(1 << 31));
    }

    #[test]
    fn pragma_counts_where_nothing_else_is_said() {
        let mut headers = HeaderMap::new();
        headers.insert(PRAGMA, "No-Cache".parse().unwrap());
        assert!(Directives::of(&headers).no_cache);
        headers.insert(CACHE_CONTROL, "max-age=5".parse().unwrap());
        assert!(!Directives::of(&headers).no_cache);
    }

    proptest! {
        #[test]
        fn no_value_panics(value in "[ -~]{0,60}") {
            of(&[&value]);
        }
    }
}
