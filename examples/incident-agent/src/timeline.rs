//! What happens, line by line, while it happens, and remembered for those who draw it.

use std::error::Error;
use std::fmt;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use buttress::Stop;
use buttress::core::clock::Seconds;
use buttress::core::observe::{CallResult, CircuitCause, CircuitState, RunChange, StepResult};
use buttress::core::{Event, Kind, Observe};
use http::StatusCode;
use tokio::time::Instant;

use crate::board::Board;
use crate::console::{Console, Tone};
use crate::steps::{Name, Status};
use crate::vendors::{Vendor, innermost};

/// Tells what the agent, the vendors and the Buttress layers do, with the time since the run began.
#[derive(Debug)]
pub(crate) struct Timeline {
    console: Console,
    start: Instant,
    moments: Mutex<Vec<Moment>>,
    board: OnceLock<Board>,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Moment {
    pub(crate) at: Duration,
    pub(crate) what: What,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum What {
    /// A vendor answered, well or not, or did not.
    Answer(Vendor, bool),
    /// A call was spared.
    Spared(Vendor),
    Circuit(Vendor, CircuitState),
    /// Calls use this generation of the client.
    Generation(Vendor, u64),
    /// The instant level of the system.
    Level(u8),
    Began(Name),
    Ended(Name, Status),
    /// Its result was recorded by an earlier process.
    Skipped(Name),
}

impl Timeline {
    /// Begins now.
    pub(crate) fn start(console: Console) -> Self {
        Self { console, start: Instant::now(), moments: Mutex::default(), board: OnceLock::new() }
    }

    pub(crate) fn console(&self) -> &Console {
        &self.console
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    pub(crate) fn say(&self, who: &str, tone: Tone, what: impl fmt::Display) {
        let seconds = self.elapsed().as_secs_f64();
        let what = self.console.paint(tone, &what.to_string());
        self.console.line(&format!("{seconds:>6.1} s  {who:<9}  {what}"));
    }

    /// Shows on this board, too, what happens from now on.
    pub(crate) fn show_on(&self, board: Option<Board>) {
        if let Some(board) = board {
            let _ = self.board.set(board);
        }
    }

    /// The process is gone, and another one begins.
    pub(crate) fn died(&self) {
        self.say("agent", Tone::Bad, "killed; begins anew, and knows nothing");
    }

    /// Nothing more happens.
    pub(crate) fn end(&self) {
        if let Some(board) = self.board.get() {
            board.clear();
        }
    }

    pub(crate) fn remember(&self, what: What) {
        if let Some(board) = self.board.get() {
            board.show(&what);
        }
        let moment = Moment { at: self.elapsed(), what };
        self.moments.lock().unwrap_or_else(PoisonError::into_inner).push(moment);
    }

    /// All that happened, in order.
    pub(crate) fn moments(&self) -> Vec<Moment> {
        self.moments.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What came back from a vendor over the wire, whatever a layer then makes of it.
    pub(crate) fn came_back(&self, vendor: Vendor, result: Result<StatusCode, &(dyn Error + 'static)>) {
        self.remember(What::Answer(vendor, result.is_ok_and(|status| status.is_success())));
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
        if let Some(what) = worth_drawing(service, event) {
            self.remember(what);
        }
        if let Some((tone, what)) = words(event) {
            // The run has its own name.
            let who = Vendor::named(service).map_or("agent", Vendor::as_str);
            self.say(who, tone, what);
        }
        if let Some(board) = self.board.get() {
            board.event(service, event);
        }
    }
}

fn worth_drawing(service: &str, event: &Event) -> Option<What> {
    Some(match event {
        Event::Call(CallResult::Refused) => What::Spared(Vendor::named(service)?),
        Event::Elapsed { .. } => What::Answer(Vendor::named(service)?, false),
        Event::Circuit { to, .. } => What::Circuit(Vendor::named(service)?, *to),
        Event::Swapped { generation, .. } => What::Generation(Vendor::named(service)?, *generation),
        Event::SystemLevel { instant, .. } => What::Level(instant.as_u8()),
        Event::Step { step, result: StepResult::Skipped, .. } => What::Skipped(Name::named(step)?),
        _ => return None,
    })
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
        Event::GaveUp { attempts: 1, .. } => (Tone::Bad, "given up: not to be sent again".to_owned()),
        Event::GaveUp { attempts, stop } => {
            (Tone::Bad, format!("given up after {attempts} attempts: {}", stop.as_str()))
        }
        Event::Held { delay, .. } => {
            (Tone::Waiting, format!("held back for {}, as the server asked", Seconds(*delay)))
        }
        Event::Elapsed { limit, .. } => (Tone::Bad, format!("no answer within {}", Seconds(*limit))),
        Event::Refused(reason) => (Tone::Bad, format!("not sent: {}", reason.as_str())),
        Event::Degraded { level, source } => {
            (Tone::Waiting, format!("level {}: answered by {source}", level.as_u8()))
        }
        Event::Step { step, result: StepResult::Skipped, .. } => {
            (Tone::Plain, format!("{step}: recorded before, not done again"))
        }
        Event::Run { change: RunChange::Recovered, .. } => {
            (Tone::Heading, "taken over from a process that is gone: resumes".to_owned())
        }
        // What passes is no news, and nor is what has nothing to look at.
        Event::Checked { answer: "passed" | "skipped", .. } => return None,
        Event::Heal { from, to, .. } if from == to => return None,
        Event::Checked { check, answer } => (Tone::Bad, format!("check of its {check} {answer}")),
        Event::Heal { from, to, cause, .. } => {
            (Tone::Breaker, format!("client {} → {}: {cause}", from.as_str(), to.as_str()))
        }
        Event::HealAttempt { action, result, elapsed, .. } => {
            (Tone::Breaker, format!("{action}: {} after {}", result.as_str(), Seconds(*elapsed)))
        }
        Event::Swapped { generation, .. } if *generation > 1 => {
            (Tone::Good, format!("a new client: generation {generation}"))
        }
        Event::Healed { mttr, .. } => {
            (Tone::Good, format!("healed, {} after the first symptom", Seconds(*mttr)))
        }
        Event::StoreFailed { error, .. } => (Tone::Bad, format!("the store failed: {error}")),
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
        Kind::Conflict => "busy with the same",
        Kind::Unprocessed => "given back unprocessed",
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
