use buttress_core::{ConfigError, Mode};
use tokio::time::Instant;

use crate::rule::Rule;

/// The rules of a layer, and the seed from which everything is drawn.
///
/// Setters take any value; [`ChaosLayer::new`](crate::ChaosLayer::new) checks the whole.
///
/// ```
/// use std::time::Duration;
/// use buttress_chaos::{Config, Rule};
///
/// let config = Config::seeded(7)
///     .rule(Rule::lose_answer().rate(0.05))
///     .rule(Rule::latency(Duration::from_millis(200)).rate(0.2));
/// # let _ = config;
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) seed: u64,
    pub(crate) rules: Vec<Rule>,
    pub(crate) start: Option<Instant>,
    pub(crate) mode: Mode,
    pub(crate) allowed_in_release: bool,
}

impl Config {
    /// No rule yet. The same seed gives the same faults.
    pub fn seeded(seed: u64) -> Self {
        Self { seed, rules: Vec::new(), start: None, mode: Mode::Enforce, allowed_in_release: false }
    }

    /// Adds a rule after those that are there.
    #[must_use]
    pub fn rule(mut self, rule: Rule) -> Self {
        self.rules.push(rule);
        self
    }

    /// Adds these rules after those that are there.
    #[must_use]
    pub fn rules(mut self, rules: impl IntoIterator<Item = Rule>) -> Self {
        self.rules.extend(rules);
        self
    }

    /// The moment from which windows are counted. Default: the first call that looks at one.
    #[must_use]
    pub fn start_at(self, start: Instant) -> Self {
        Self { start: Some(start), ..self }
    }

    /// Default: [`Mode::Enforce`].
    #[must_use]
    pub fn mode(self, mode: Mode) -> Self {
        Self { mode, ..self }
    }

    /// Lets the layer be built in a release build, where it is refused otherwise: who writes this means to break a real
    /// service. An environment variable would let a stray one do so.
    ///
    /// A release build is one whose profile has no `debug-assertions`.
    #[must_use]
    pub fn allow_in_release(self) -> Self {
        Self { allowed_in_release: true, ..self }
    }

    /// `debug` says whether this is a build with debug assertions.
    pub(crate) fn check(
        &self,
        debug: bool,
        protocol: fn(&Rule) -> Result<(), ConfigError>,
    ) -> Result<(), ConfigError> {
        if !debug && !self.allowed_in_release {
            let rule = "a release build injects no faults; call `Config::allow_in_release` if it is meant to";
            return Err(ConfigError::new("allow_in_release", false, rule));
        }
        check(&self.rules, protocol)
    }
}

pub(crate) fn check(
    rules: &[Rule],
    protocol: fn(&Rule) -> Result<(), ConfigError>,
) -> Result<(), ConfigError> {
    rules.iter().try_for_each(|rule| rule.check().and_then(|()| protocol(rule)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_build_refuses_chaos_that_is_not_allowed_there() {
        let any = |_: &Rule| Ok(());
        let config = Config::seeded(7).rule(Rule::hang());
        assert_eq!(config.check(true, any), Ok(()));
        let refused = config.check(false, any).unwrap_err();
        assert_eq!(refused.field(), "allow_in_release");
        assert!(refused.to_string().contains("call `Config::allow_in_release`"), "{refused}");
        assert_eq!(config.allow_in_release().check(false, any), Ok(()));
    }

    #[test]
    fn a_rule_that_makes_no_sense_is_named() {
        let field = |rule| check(&[rule], |_| Ok(())).unwrap_err().field();
        assert_eq!(field(Rule::hang().rate(1.5)), "rate");
        assert_eq!(field(Rule::hang().rate(f64::NAN)), "rate");
        assert_eq!(field(Rule::hang().first(0)), "first");
        assert_eq!(field(Rule::hang().every_nth(0)), "every_nth");
        assert_eq!(field(Rule::hang().first(1).numbered(crate::Numbering::Key)), "numbering");
        assert_eq!(field(Rule::slow_body(0, std::time::Duration::ZERO)), "bytes");
        assert_eq!(field(Rule::grpc(17, "")), "grpc");
        assert_eq!(field(Rule::new(crate::Fault::Error(buttress_core::Verdict::Success))), "error");
    }
}
