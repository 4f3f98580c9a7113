//! Rules in words.

use std::fmt;

use buttress_core::Verdict;
use buttress_core::clock::Seconds;

use crate::fault::{Code, Fault, Latency};
use crate::rule::{Condition, Field, Numbering, Rule, Test};

/// What the dependency does, to which calls, and when: "answers 503 for the first 3 calls until 5 s".
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.fault {
            Fault::Pass => f.write_str("is well")?,
            Fault::Latency(latency) => write!(f, "takes {latency} more")?,
            Fault::ResponseLatency(latency) => write!(f, "holds its answer back for {latency}")?,
            Fault::Error(Verdict::Failure { kind, .. }) => write!(f, "fails ({})", kind.as_str())?,
            Fault::Error(_) => f.write_str("fails")?,
            Fault::Io(kind) => write!(f, "fails ({kind})")?,
            Fault::Respond(answer) => match &answer.code {
                Code::Status(status) => write!(f, "answers {status}")?,
                Code::Grpc(code, _) => write!(f, "answers gRPC code {code}")?,
            },
            Fault::Hang => f.write_str("hangs")?,
            Fault::Panic => f.write_str("panics")?,
            Fault::LoseAnswer => f.write_str("loses its answer")?,
            Fault::WithholdAnswer => f.write_str("withholds its answer")?,
            Fault::Truncate { after, .. } => write!(f, "breaks off after {after} bytes")?,
            Fault::SlowBody { bytes, pause } => write!(f, "sends {bytes} bytes each {}", Seconds(*pause))?,
        }
        if let Some(delay) = self.delay {
            write!(f, " after {delay}")?;
        }
        self.describe_selection(f)?;
        self.describe_window(f)
    }
}

impl Rule {
    fn describe_selection(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.first, self.skip) {
            (None, 0) => {}
            (None, skip) => write!(f, " after {}", Calls(skip))?,
            (Some(first), 0) => write!(f, " for {}", Calls(first))?,
            (Some(first), skip) => write!(f, " for {} after {skip}", Calls(first))?,
        }
        if let Some(nth) = self.every_nth {
            write!(f, ", one in {nth}")?;
        }
        if self.rate < 1.0 {
            write!(f, ", with probability {}", self.rate)?;
        }
        if self.numbering != Numbering::Calls {
            f.write_str(", by key")?;
        }
        for condition in &self.conditions {
            write!(f, ", if {condition}")?;
        }
        Ok(())
    }

    fn describe_window(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.window.from.is_zero() {
            write!(f, " from {}", Seconds(self.window.from))?;
        }
        if let Some(until) = self.window.until {
            write!(f, " until {}", Seconds(until))?;
        }
        match self.window.every {
            Some(period) if !self.window.is_always() => write!(f, " of every {}", Seconds(period)),
            _ => Ok(()),
        }
    }
}

struct Calls(u64);

impl fmt::Display for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} call{}", self.0, if self.0 == 1 { "" } else { "s" })
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Seconds(self.time))?;
        if self.jitter.is_zero() { Ok(()) } else { write!(f, " ± {}", Seconds(self.jitter)) }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let field = match &self.field {
            Field::Key => "the key",
            Field::Method => "the method",
            Field::Path => "the path",
            Field::Authority => "the authority",
            Field::Header(name) => name,
        };
        match &self.test {
            Test::Is(value) => write!(f, "{field} is {value:?}"),
            Test::BeginsWith(value) => write!(f, "{field} begins with {value:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::window::Window;
    use std::time::Duration;

    #[test]
    fn a_rule_says_what_it_does_to_which_calls_and_when() {
        let (seconds, window) = (Duration::from_secs, Window::always());
        let jittered = Latency::fixed(Duration::from_millis(500)).jitter(Duration::from_millis(50));
        for (rule, words) in [
            (Rule::hang(), "hangs"),
            (Rule::status(503).first(3), "answers 503 for 3 calls"),
            (Rule::status(503).within(window.until(seconds(5))), "answers 503 until 5 s"),
            (Rule::latency(jittered).rate(0.1), "takes 500 ms ± 50 ms more, with probability 0.1"),
            (
                Rule::lose_answer()
                    .skip(1)
                    .first(1)
                    .numbered(Numbering::PerKey)
                    .when_begins(Field::Path, "/v2")
                    .within(window.from(seconds(5)).until(seconds(6)).every(seconds(10))),
                "loses its answer for 1 call after 1, by key, if the path begins with \"/v2\" from 5 s until 6 s of every 10 s",
            ),
        ] {
            assert_eq!(rule.to_string(), words);
        }
    }
}
