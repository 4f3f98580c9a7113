//! What happens, line by line, while it happens.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use buttress::Stop;
use buttress::core::clock::Seconds;
use buttress::core::observe::{CallResult, CircuitCause, CircuitState};
use buttress::core::{Event, Kind, Observe};
use http::StatusCode;
use tokio::time::Instant;

use crate::console::{Console, Tone};
use crate::vendors::{Vendor, innermost};

/// Tells what the agent, the vendors and the Buttress layers do, with the time since the run began.
#[derive(Debug)]
pub(crate) struct Timeline {
    console: Console,
    start: Instant,
}

impl Timeline {
    /// Begins now.
    pub(crate) fn start(console: Console) -> Self {
        Self { console, start: Instant::now() }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    pub(crate) fn say(&self, who: &str, tone: Tone, what: impl fmt::Display) {
        let seconds = self.elapsed().as_secs_f64();
        let what = self.console.paint(tone, &what.to_string());
        self.console.line(&format!("{seconds:>6.1} s  {who:<9}  {what}"));
    }

    /// What came back from a vendor over the wire, whatever a layer then makes of it.
    pub(crate) fn came_back(&self, vendor: Vendor, result: Result<StatusCode, &(dyn Error + 'static)>) {
        match result {
            Ok(status) => {
                let tone = if status.is_success() { Tone::Good } else { Tone::Bad };
                self.say(vendor.as_str(), tone, format_args!("answered {status}"));
            }
            Err(error) => {
                self.say(vendor.as_str(), Tone::Bad, format_args!("no answer: {}", innermost(error)))
            }
        }
    }
}

impl Observe for Timeline {
    fn event(&self, service: &str, event: &Event) {
        if let Some((tone, what)) = words(event) {
            self.say(service, tone, what);
        }
    }
}

/// An event in a person's words. Answers are told when they arrive, so an attempt's end is not told again.
fn words(event: &Event) -> Option<(Tone, String)> {
    Some(match event {
        Event::Call(CallResult::Refused) => {
            (Tone::Breaker, "call spared: refused at once, nothing was sent".to_owned())
        }
        Event::Call(CallResult::Slow) => (Tone::Bad, "takes too long".to_owned()),
        Event::Circuit { from, to, cause, open_for, .. } => {
            let open_for = open_for.map(|time| format!(" for {}", Seconds(time))).unwrap_or_default();
            let (from, to, cause) = (from.as_str(), to.as_str(), circuit(*cause, *to));
            (Tone::Breaker, format!("circuit {from} → {to}{open_for}: {cause}"))
        }
        Event::Backoff { retry, delay, kind, hint } => {
            let hint = hint.map(|hint| format!(", the server asked for {}", Seconds(hint)));
            let (delay, hint) = (Seconds(*delay), hint.unwrap_or_default());
            (Tone::Waiting, format!("retry {retry} in {delay} ({}{hint})", failure(*kind)))
        }
        // A refusal has been told already.
        Event::GaveUp { stop: Stop::NotRetryable, .. } => return None,
        Event::GaveUp { attempts, stop } => {
            (Tone::Bad, format!("given up after {attempts} attempts: {}", stop.as_str()))
        }
        Event::Held { delay, .. } => {
            (Tone::Waiting, format!("held back for {}, as the server asked", Seconds(*delay)))
        }
        Event::Elapsed { limit, .. } => (Tone::Bad, format!("no answer within {}", Seconds(*limit))),
        Event::Refused(reason) => (Tone::Bad, format!("not sent: {}", reason.as_str())),
        _ => return None,
    })
}

/// Whole milliseconds, as reports have them.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What failed, in a few words.
pub(crate) fn failure(kind: Kind) -> &'static str {
    match kind {
        Kind::Transient => "server error or lost connection",
        Kind::Throttled => "throttled",
        Kind::Timeout => "no answer in time",
        Kind::Refused => "refused on this side",
        Kind::Permanent => "permanent",
    }
}

fn circuit(cause: CircuitCause, to: CircuitState) -> &'static str {
    match (cause, to) {
        (CircuitCause::ConsecutiveFailures, _) => "too many failures in a row",
        (CircuitCause::OpenTimeOver, _) => "the next call probes",
        (CircuitCause::ProbesSucceeded, _) => "the probes succeeded",
        (CircuitCause::ProbeFailed, _) => "the probe failed",
        (cause, _) => cause.as_str(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(event: &Event) -> String {
        words(event).unwrap().1
    }

    #[test]
    fn events_are_told_in_a_persons_words() {
        let secs = Duration::from_secs;
        assert_eq!(
            said(&Event::Backoff {
                retry: 2,
                delay: Duration::from_millis(3620),
                kind: Kind::Throttled,
                hint: Some(secs(3))
            }),
            "retry 2 in 3.62 s (throttled, the server asked for 3 s)"
        );
        assert_eq!(
            said(&Event::Circuit {
                key: None,
                from: CircuitState::Closed,
                to: CircuitState::Open,
                cause: CircuitCause::ConsecutiveFailures,
                open_for: Some(secs(3)),
            }),
            "circuit closed → open for 3 s: too many failures in a row"
        );
        assert_eq!(said(&Event::Elapsed { limit: secs(1), enforced: true }), "no answer within 1 s");
        assert_eq!(
            said(&Event::GaveUp { attempts: 3, stop: Stop::MaxRetries }),
            "given up after 3 attempts: all retries are used up"
        );
        assert_eq!(words(&Event::Call(CallResult::Success)), None);
    }
}
