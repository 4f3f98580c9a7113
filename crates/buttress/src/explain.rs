use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use buttress_circuit_breaker::{Trip, Window};
use buttress_core::clock::Seconds;

/// What a stack does, layer by layer from the outside in, and what looks wrong about it.
///
/// Its `Display` is for people: one line a layer, then one line a warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    name: Arc<str>,
    layers: Vec<(&'static str, String)>,
    attempts: u32,
    warnings: Vec<Warning>,
}

/// Something about a configuration that is allowed and probably not meant.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Warning {
    /// Stays the same over versions: `B001` and so on.
    pub code: &'static str,
    /// What is wrong, with the figures, and what to do.
    pub message: String,
}

impl Explanation {
    /// The layers: their names and what they do.
    pub fn layers(&self) -> &[(&'static str, String)] {
        &self.layers
    }

    /// What looks wrong.
    ///
    /// | code | what |
    /// |---|---|
    /// | `B001` | the attempt's time is not shorter than the total |
    /// | `B002` | after an attempt that takes its whole time, no other fits into the total |
    /// | `B003` | a time window is shorter than two attempts |
    /// | `B004` | a probe's lease ends before an attempt's time |
    /// | `B005` | no rule opens the circuit |
    /// | `B006` | a call is never slow before it times out |
    /// | `B007` | the attempts of a single call can open the circuit, which ends that call |
    /// | `B008` | what stands above retries too, so that the attempts multiply; see [`beneath`](Explanation::beneath) |
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// The same stack beneath something that makes up to so many attempts by itself, such as an SDK: a warning (`B008`) if
    /// both retry.
    ///
    /// ```
    /// # fn main() -> Result<(), buttress::ConfigError> {
    /// let stack = buttress::http("sqs").aws().build()?;
    /// let explanation = stack.explain().beneath("AWS's SDK", 3);
    /// assert_eq!(explanation.warnings()[0].code, "B008");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn beneath(mut self, retrier: &str, attempts: u32) -> Self {
        if attempts > 1 && self.attempts > 1 {
            let all = attempts.saturating_mul(self.attempts);
            let message = format!(
                "{retrier} makes up to {attempts} attempts, and this retry up to {} of each: {all} in all; let only one of them retry",
                self.attempts
            );
            self.warnings.push(Warning { code: "B008", message });
        }
        self
    }

    /// With the caller's own layers, by their names, around each call and each attempt.
    pub(crate) fn with_slots(mut self, calls: &[&str], attempts: &[&str]) -> Self {
        let at = |layers: &[(&str, String)], name| layers.iter().position(|layer| layer.0 == name);
        for (slot, names, before) in
            [("per call", calls, "deadline (total)"), ("per attempt", attempts, "circuit breaker")]
        {
            if let (false, Some(at)) = (names.is_empty(), at(&self.layers, before)) {
                self.layers.insert(at, (slot, names.join(", then ")));
            }
        }
        self
    }

    /// With layers above those that every stack has, and below them.
    #[cfg(any(feature = "degrade", feature = "grpc"))]
    pub(crate) fn within(
        mut self,
        above: Option<(&'static str, String)>,
        below: Option<(&'static str, String)>,
    ) -> Self {
        self.layers.splice(..0, above);
        self.layers.extend(below);
        self
    }

    /// The time of an attempt is what is in force, and what was asked for.
    pub(crate) fn of(
        name: &Arc<str>,
        (total, travels): (Duration, bool),
        (attempt, asked): (Duration, Duration),
        retry: &buttress_retry::Config,
        breaker: &buttress_circuit_breaker::Config,
    ) -> Self {
        let travels = if travels { "; travels with the request" } else { "" };
        let layers = vec![
            ("deadline (total)", format!("{} until the response's head{travels}", Seconds(total))),
            ("retry", retry.to_string()),
            ("circuit breaker", breaker.to_string()),
            ("deadline (attempt)", format!("{} for each attempt", Seconds(attempt))),
        ];
        let warnings = warnings(total, (attempt, asked), retry, breaker);
        Self { name: Arc::clone(name), layers, attempts: retry.attempts(), warnings }
    }
}

fn warnings(
    total: Duration,
    (attempt, asked): (Duration, Duration),
    retry: &buttress_retry::Config,
    breaker: &buttress_circuit_breaker::Config,
) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut warn = |code, message| warnings.push(Warning { code, message });
    let (total_text, attempt_text) = (Seconds(total), Seconds(attempt));
    if attempt >= total && retry.attempts() > 1 {
        let message = format!(
            "an attempt may take {} and the whole call {total_text}: a slow one is never retried",
            Seconds(asked)
        );
        warn("B001", message);
    } else if attempt.saturating_mul(2).saturating_add(retry.first_wait()) > total && retry.attempts() > 1 {
        let message =
            format!("after an attempt of {attempt_text} and a wait, no other fits into {total_text}");
        warn("B002", message);
    }
    let trips = breaker.trips();
    if trips.is_empty() {
        warn("B005", "no rule opens the circuit; it can only be opened by hand".to_owned());
    }
    for trip in trips {
        if let Trip::FailureRate { window: Window::Time(window), .. }
        | Trip::SlowCalls { window: Window::Time(window), .. } = trip
        {
            if window < attempt.saturating_mul(2) {
                let window = Seconds(window);
                let message = format!(
                    "the window of {window} is shorter than two attempts of {attempt_text}: time-outs leave it too soon"
                );
                warn("B003", message);
            }
        }
        if let Trip::ConsecutiveFailures(failures) = trip {
            if failures <= retry.attempts() && !retry.waits_for_refusals() {
                let attempts = retry.attempts();
                warn(
                    "B007",
                    format!(
                        "{failures} failures open the circuit, and one call makes up to {attempts} attempts"
                    ),
                );
            }
        }
        if let Trip::SlowCalls { slower_than, .. } = trip {
            if slower_than >= attempt {
                let slower_than = Seconds(slower_than);
                warn(
                    "B006",
                    format!(
                        "calls are slow from {slower_than} on, but end after {attempt_text}: none is ever slow"
                    ),
                );
            }
        }
    }
    if breaker.lease() < attempt {
        let lease = Seconds(breaker.lease());
        warn(
            "B004",
            format!("a probe's lease of {lease} ends before its attempt's {attempt_text}: set `probe_lease`"),
        );
    }
    warnings
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.name)?;
        for (layer, does) in &self.layers {
            writeln!(f, "  {layer:<18}  {does}")?;
        }
        write!(f, "  {:<18}  yours", "client")?;
        self.warnings.iter().try_for_each(|warning| write!(f, "\nwarning {warning}"))
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use buttress_circuit_breaker::{Config, Ratio};

    fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    fn codes(
        total: u64,
        attempt: u64,
        retry: &buttress_retry::Config,
        breaker: &Config,
    ) -> Vec<&'static str> {
        let attempt = (secs(attempt), secs(attempt));
        let explanation = Explanation::of(&"x".into(), (secs(total), false), attempt, retry, breaker);
        explanation.warnings().iter().map(|warning| warning.code).collect()
    }

    #[test]
    fn two_retries_on_one_path_multiply() {
        let codes = |retries, above| {
            let retry = buttress_retry::Config::user_facing().max_retries(retries);
            let explanation = Explanation::of(
                &"x".into(),
                (secs(20), false),
                (secs(4), secs(4)),
                &retry,
                &Config::standard(),
            )
            .beneath("the SDK", above);
            explanation.warnings().iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            codes(2, 3),
            [
                "B008: the SDK makes up to 3 attempts, and this retry up to 3 of each: 9 in all; let only one of them retry"
            ]
        );
        assert_eq!((codes(0, 3), codes(2, 1)), (vec![], vec![]));
    }

    #[test]
    fn each_questionable_configuration_has_its_code() {
        let (retry, breaker) = (buttress_retry::Config::user_facing(), Config::standard());
        let (window, at_least, minimum_calls) = (Window::Time(secs(5)), Ratio::percent(50), 10);
        assert_eq!(codes(20, 4, &retry, &breaker), Vec::<&str>::new());
        assert_eq!(codes(10, 10, &retry, &breaker), ["B001"]);
        assert_eq!(codes(10, 5, &retry, &breaker), ["B002"]);
        assert_eq!(codes(10, 4, &retry, &breaker), Vec::<&str>::new());
        assert_eq!(codes(60, 4, &retry.clone().max_retries(4), &breaker), ["B007"]);
        assert_eq!(codes(10, 10, &retry.clone().max_retries(0), &breaker), Vec::<&str>::new());
        let rate = breaker.clone().trip(Trip::FailureRate { window, at_least, minimum_calls });
        assert_eq!(codes(20, 4, &retry, &rate), ["B003"]);
        assert_eq!(codes(u64::MAX, u64::MAX, &retry, &rate)[..2], ["B001", "B003"], "however long");
        assert_eq!(codes(20, 4, &retry, &breaker.clone().probe_lease(secs(3))), ["B004"]);
        let slow = Config::only(Trip::SlowCalls {
            slower_than: secs(4),
            window: Window::Calls(50),
            at_least,
            minimum_calls,
        });
        assert_eq!(codes(20, 4, &retry, &slow), ["B006"]);
    }
}
