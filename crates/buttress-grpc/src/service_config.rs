use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use buttress_core::{Backoff, ConfigError, Jitter};

use crate::code::{Code, Codes};

/// What is known of single methods: which may be repeated, which answer with a stream or with one message, and how a service config would have them
/// retried (gRPC A6).
///
/// gRPC cannot tell which of its methods may be applied twice, all of them being POSTs. *Only what is named here is sent
/// again after it may have been applied*: a method with a retry policy, whose author thereby says that it may be, and what
/// [`repeatable`](ServiceConfig::repeatable) names. Any method is sent again if it certainly was not sent.
///
/// A name is `package.Service/Method` or `package.Service`, for all methods of a service.
///
/// ```
/// use buttress_grpc::ServiceConfig;
///
/// let config = ServiceConfig::from_json(r#"{
///     "methodConfig": [{
///         "name": [{ "service": "helloworld.Greeter", "method": "SayHello" }],
///         "timeout": "5s",
///         "retryPolicy": {
///             "maxAttempts": 4,
///             "initialBackoff": "0.1s",
///             "maxBackoff": "1s",
///             "backoffMultiplier": 2,
///             "retryableStatusCodes": ["UNAVAILABLE"]
///         }
///     }],
///     "retryThrottling": { "maxTokens": 10, "tokenRatio": 0.1 }
/// }"#)?;
/// let config = config.repeatable("helloworld.Greeter/ListGreetings").stream("grpc.health.v1.Health/Watch");
/// assert_eq!(config.throttle(), Some((10, 0.1)));
/// # Ok::<(), buttress_core::ConfigError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct ServiceConfig {
    pub(crate) methods: HashMap<Box<str>, Method>,
    pub(crate) default: Option<Method>,
    pub(crate) throttle: Option<(u32, f64)>,
    repeatable: Names,
    streams: Names,
    unary: Names,
}

/// What a `methodConfig` says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Method {
    pub(crate) timeout: Option<Duration>,
    pub(crate) retry: Option<RetryPolicy>,
}

/// How the calls of a method are retried (gRPC A6, `retryPolicy`).
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    pub(crate) max_retries: u32,
    pub(crate) backoff: Arc<Backoff>,
    pub(crate) codes: Codes,
}

/// More attempts than this are never made (gRPC A6).
const MOST_ATTEMPTS: u32 = 5;

impl RetryPolicy {
    /// So many attempts, the first one included, at most five; after `initial_backoff`, `initial_backoff × multiplier` and
    /// so on, at most `max_backoff`, each ± 20 % but within the maximum; for these codes only.
    ///
    /// # Errors
    ///
    /// Unless there are at least 2 attempts, positive delays, a multiplier of at least 1, and at least one code, none of
    /// them OK. (A6 also has multipliers below 1, which would ask a failing server more and more often.)
    pub fn new(
        max_attempts: u32,
        initial_backoff: Duration,
        multiplier: f64,
        max_backoff: Duration,
        codes: impl IntoIterator<Item = Code>,
    ) -> Result<Self, ConfigError> {
        if max_attempts < 2 {
            return Err(ConfigError::new("maxAttempts", max_attempts, "must be at least 2 (gRPC A6)"));
        }
        for (field, delay) in [("initialBackoff", initial_backoff), ("maxBackoff", max_backoff)] {
            if delay.is_zero() {
                return Err(ConfigError::new(field, delay, "must be longer than zero (gRPC A6)"));
            }
        }
        if !(multiplier.is_finite() && multiplier >= 1.0) {
            return Err(ConfigError::new(
                "backoffMultiplier",
                multiplier,
                "must be a finite number of at least 1",
            ));
        }
        let codes: Codes = codes.into_iter().collect();
        if codes == Codes::default() || codes.contains(Code::Ok) {
            let rule = "must name at least one code, and not OK (gRPC A6)";
            return Err(ConfigError::new("retryableStatusCodes", codes, rule));
        }
        let backoff = Backoff::exponential(initial_backoff.min(max_backoff), multiplier, max_backoff)?;
        let backoff = Arc::new(backoff.jitter(Jitter::Spread { percent: 20 }));
        Ok(Self { max_retries: max_attempts.min(MOST_ATTEMPTS) - 1, backoff, codes })
    }
}

impl ServiceConfig {
    /// Knows no method.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a service config in its JSON form (`service_config.proto`; gRPC A6): `methodConfig` with `name`, `timeout` and
    /// `retryPolicy`, and `retryThrottling`. The most specific name counts: a method's, its service's, the default (`{}`).
    /// `waitForReady` and what this crate does not know are ignored, as gRPC has it, but for `hedgingPolicy`.
    ///
    /// # Errors
    ///
    /// If it is no JSON, or breaks a rule: the field, its value and the rule. `hedgingPolicy` is an error, since nothing here
    /// hedges.
    pub fn from_json(json: &str) -> Result<Self, ConfigError> {
        crate::json::parse(json)
    }

    /// This method, or all of this service's, may be repeated: applying it several times is the same as applying it once.
    #[must_use]
    pub fn repeatable(mut self, name: &str) -> Self {
        self.repeatable.insert(plain(name));
        self
    }

    /// This method, or all of this service's, answers with a stream that may go on for long. Its calls return with the head
    /// of the response, without a look at what follows, and a breaker takes that head for a success, instead of
    /// waiting for an end that may never come.
    #[must_use]
    pub fn stream(mut self, name: &str) -> Self {
        self.streams.insert(plain(name));
        self
    }

    /// This method, or all of this service's, answers with one message. Nothing can be done with the head of its response, and so
    /// none is given out before its status is there: every failure is seen by the retry, and the deadlines of a stack bound
    /// the response to its end (if the message comes in one piece, as those up to 16 KiB do). Servers are told of them.
    #[must_use]
    pub fn unary(mut self, name: &str) -> Self {
        self.unary.insert(plain(name));
        self
    }

    /// Retries this method, or all of this service's, in this way. As gRPC has it, only the most specific name counts: a method
    /// that is named beside its service has nothing of what is said of the service, its `timeout` included.
    #[must_use]
    pub fn retry(mut self, name: &str, policy: RetryPolicy) -> Self {
        self.methods.entry(plain(name)).or_default().retry = Some(policy);
        self
    }

    /// `maxTokens` and `tokenRatio` of `retryThrottling`: for `buttress_retry::Budget::grpc_throttle`.
    pub fn throttle(&self) -> Option<(u32, f64)> {
        self.throttle
    }

    /// Whether any method has a retry policy of its own.
    pub fn has_retries(&self) -> bool {
        self.methods.values().chain(&self.default).any(|method| method.retry.is_some())
    }

    /// What is said of this method in particular.
    pub(crate) fn method(&self, name: Name<'_>) -> Option<&Method> {
        let by_name = || self.methods.get(name.method).or_else(|| self.methods.get(name.service));
        (if self.methods.is_empty() { None } else { by_name() }).or(self.default.as_ref())
    }

    /// Whether nothing is said of any method but that it may be repeated, and of the one at this path that.
    pub(crate) fn is_only_repeatable(&self, path: &str) -> bool {
        let others = self.methods.is_empty() && self.streams.0.is_empty() && self.unary.0.is_empty();
        others && self.default.is_none() && self.repeatable.has(path.strip_prefix('/').unwrap_or(path))
    }

    pub(crate) fn is_repeatable(&self, name: Name<'_>) -> bool {
        self.repeatable.has(name.method) || self.repeatable.has(name.service)
    }

    pub(crate) fn is_stream(&self, name: Name<'_>) -> bool {
        self.streams.has(name.method) || self.streams.has(name.service) && !self.unary.has(name.method)
    }

    pub(crate) fn is_unary(&self, name: Name<'_>) -> bool {
        (self.unary.has(name.method) || self.unary.has(name.service)) && !self.is_stream(name)
    }
}

/// One sentence, without a full stop.
impl fmt::Display for ServiceConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = || self.methods.values().chain(&self.default);
        let counted = [
            ("retry policy for", named().filter(|method| method.retry.is_some()).count()),
            ("timeout for", named().filter(|method| method.timeout.is_some()).count()),
            ("may be repeated:", self.repeatable.0.len()),
            ("streams:", self.streams.0.len()),
            ("one message:", self.unary.0.len()),
        ];
        let mut parts = counted.iter().filter(|(_, count)| *count > 0).peekable();
        if parts.peek().is_none() {
            return f.write_str("of no method is anything known: only what was not sent is sent again");
        }
        for (index, (what, count)) in parts.enumerate() {
            let plural = if *count == 1 { "" } else { "s" };
            write!(f, "{}{what} {count} name{plural}", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// Names in the order of their lengths: there are few, and most are told from the one that is wanted by its length, which takes less than
/// its hash.
#[derive(Clone, Debug, Default)]
struct Names(Vec<Box<str>>);

impl Names {
    fn place(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|known| known.len().cmp(&name.len()).then_with(|| (**known).cmp(name)))
    }

    fn insert(&mut self, name: Box<str>) {
        if let Err(place) = self.place(&name) {
            self.0.insert(place, name);
        }
    }

    #[inline]
    fn has(&self, name: &str) -> bool {
        !self.0.is_empty() && self.place(name).is_ok()
    }
}

/// A method's name and its service's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Name<'a> {
    method: &'a str,
    service: &'a str,
}

impl<'a> Name<'a> {
    /// The last two parts of the path, since there may be a prefix before them.
    pub(crate) fn of(path: &'a str) -> Self {
        let path = path.strip_prefix('/').unwrap_or(path);
        // Names are short: byte by byte is faster than what is made for long texts.
        let slash_in = |part: &str| {
            let mut rest = part.as_bytes();
            while let [before @ .., last] = rest {
                rest = before;
                if *last == b'/' {
                    return Some(rest.len());
                }
            }
            None
        };
        let Some(slash) = slash_in(path) else { return Self { method: path, service: path } };
        let start = slash_in(&path[..slash]).map_or(0, |before| before + 1);
        Self { method: &path[start..], service: &path[start..slash] }
    }
}

/// A name as it is looked for: people also write paths.
fn plain(name: &str) -> Box<str> {
    name.trim_matches('/').into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(max_attempts: u32) -> RetryPolicy {
        let (initial, max) = (Duration::from_millis(100), Duration::from_secs(1));
        RetryPolicy::new(max_attempts, initial, 2.0, max, [Code::Unavailable]).unwrap()
    }

    #[test]
    fn the_most_specific_name_counts() {
        let config = ServiceConfig::new().retry("a.B/C", policy(2)).retry("a.B", policy(3));
        let retries = |config: &ServiceConfig, path: &str| {
            config.method(Name::of(path)).and_then(|method| Some(method.retry.as_ref()?.max_retries))
        };
        assert_eq!((retries(&config, "/a.B/C"), retries(&config, "/a.B/D")), (Some(1), Some(2)));
        assert_eq!((retries(&config, "/a.Other/C"), retries(&config, "/")), (None, None));
        let default = Some(Method { timeout: None, retry: Some(policy(4)) });
        let config = ServiceConfig { default, ..config };
        assert_eq!((retries(&config, "/a.B/C"), retries(&config, "/a.Other/C")), (Some(1), Some(3)));
    }

    #[test]
    fn methods_and_whole_services_are_named() {
        let config = ServiceConfig::new().repeatable("/a.B/Get").repeatable("a.Reads").stream("a.B/Watch");
        let config = config.unary("a.B");
        assert!(
            config.is_unary(Name::of("/a.B/Get"))
                && !config.is_unary(Name::of("/a.B/Watch"))
                && !config.is_unary(Name::of("/a.C/Get"))
        );
        let config = config.stream("a.Feeds").unary("a.Feeds/One");
        assert!(config.is_stream(Name::of("/a.Feeds/All")) && !config.is_unary(Name::of("/a.Feeds/All")));
        assert!(
            config.is_unary(Name::of("/a.Feeds/One")) && !config.is_stream(Name::of("/a.Feeds/One")),
            "a method's own name counts"
        );
        assert!(config.is_repeatable(Name::of("/a.B/Get")) && config.is_repeatable(Name::of("/a.Reads/Any")));
        assert!(!config.is_repeatable(Name::of("/a.B/Put")) && !config.is_repeatable(Name::of("/a.B")));
        assert!(config.is_stream(Name::of("/a.B/Watch")) && !config.is_stream(Name::of("/a.B/Get")));
        assert!(
            config.is_repeatable(Name::of("/behind/a/gateway/a.B/Get"))
                && !config.is_repeatable(Name::of("/a.B/Get/more"))
        );
    }

    #[test]
    fn a_config_says_in_words_what_it_holds() {
        let config = ServiceConfig::new().retry("a.B", policy(2)).repeatable("a.C").repeatable("a.D");
        assert_eq!(config.to_string(), "retry policy for 1 name, may be repeated: 2 names");
        assert!(ServiceConfig::new().to_string().starts_with("of no method is anything known"));
    }

    #[test]
    fn a_policy_that_breaks_a_rule_is_an_error_that_names_it() {
        let (ms, none) = (Duration::from_millis(1), Duration::ZERO);
        let error = |attempts, initial, factor, max, codes: &[Code]| {
            RetryPolicy::new(attempts, initial, factor, max, codes.iter().copied()).unwrap_err().field()
        };
        let gone = &[Code::Unavailable];
        assert_eq!(error(1, ms, 1.0, ms, gone), "maxAttempts");
        assert_eq!(error(2, none, 1.0, ms, gone), "initialBackoff");
        assert_eq!(error(2, ms, 1.0, none, gone), "maxBackoff");
        assert_eq!(error(2, ms, 0.5, ms, gone), "backoffMultiplier");
        assert_eq!(error(2, ms, f64::NAN, ms, gone), "backoffMultiplier");
        assert_eq!(error(2, ms, 1.0, ms, &[]), "retryableStatusCodes");
        assert_eq!(error(2, ms, 1.0, ms, &[Code::Ok]), "retryableStatusCodes");
        assert_eq!(policy(100).max_retries, 4, "five attempts at most");
    }
}
