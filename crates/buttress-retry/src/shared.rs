//! What the layer and the function form have in common.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress_core::clock::after;
use buttress_core::observe::Severity;
use buttress_core::{
    BoxError, Event, Exhausted, Hint, Kind, Mode, ModeCell, Observer, Reason, Refused, Repeat, Stop, Verdict,
};
use tokio::time::Instant;

use crate::config::Config;
use crate::gate::Gate;
use crate::session::{Facts, Next, Session};

/// What all services of one layer share.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) name: Arc<str>,
    pub(crate) config: Config,
    pub(crate) mode: ModeCell,
    pub(crate) observer: Observer,
    pub(crate) gate: Option<Gate>,
}

/// What all clones of one service share.
pub(crate) struct Core<S, P, R> {
    pub(crate) settings: Arc<Settings>,
    /// The service to clone for a further attempt; behind a lock only so that it need not be `Sync`.
    pub(crate) template: Mutex<S>,
    pub(crate) policy: P,
    pub(crate) replay: R,
}

/// What one call has been through so far.
#[derive(Debug, Default)]
pub(crate) struct Log {
    /// When the present attempt began: read when the first one has to wait, and at the start of each if somebody is to
    /// be told how long it took.
    pub(crate) started: Option<Instant>,
    /// From the first failure on.
    pub(crate) session: Option<Box<Session>>,
}

impl Log {
    pub(crate) fn attempts(&self) -> u32 {
        self.session.as_ref().map_or(1, |session| session.retries + 1)
    }
}

/// What becomes of an attempt's outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// It is the call's.
    Final,
    /// It is the call's, and something kept the retry from going on.
    GaveUp(Stop),
    /// It is thrown away, and another attempt follows after this time.
    Retry(Duration),
}

impl Settings {
    pub(crate) fn new(name: Arc<str>, config: Config) -> Self {
        let (mode, gate) = (ModeCell::new(config.mode), config.rate_gate.then(Gate::new));
        Self { name, config, mode, observer: Observer::default(), gate }
    }

    /// Notes the beginning of an attempt, if anybody is to be told how long it takes.
    pub(crate) fn attempt_begins(&self, log: &mut Log) {
        log.started = self.observer.is_set().then(Instant::now);
    }

    /// Judges the outcome of an attempt.
    #[inline]
    pub(crate) fn judge(&self, log: &mut Log, verdict: Verdict, facts: impl FnOnce() -> Facts) -> Judgement {
        if self.mode.get() == Mode::Off {
            return Judgement::Final;
        }
        if !verdict.is_failure() {
            if verdict != Verdict::Ignored {
                self.config.budget.success(log.session.as_ref().and_then(|session| session.paid));
            }
            self.report_attempt(log, log.attempts(), verdict, Severity::Information);
            return Judgement::Final;
        }
        self.judge_failure(log, verdict, facts())
    }

    #[cold]
    fn judge_failure(&self, log: &mut Log, verdict: Verdict, facts: Facts) -> Judgement {
        let now = Instant::now();
        let attempts = log.attempts();
        let started = log.started.unwrap_or(now);
        let session = log.session.get_or_insert_with(|| Box::new(Session::new(&self.config, started)));
        let next = session.next(&self.config, verdict, facts, now);
        let (severity, judgement) = match next {
            Next::Retry { delay, .. } => (Severity::Warning, Judgement::Retry(delay)),
            // Not a failure that a retry handles: the error goes out as it came in.
            Next::Stop(Stop::NotRetryable) if attempts == 1 => (Severity::Information, Judgement::Final),
            Next::Stop(Stop::NotRetryable) => (Severity::Information, Judgement::GaveUp(Stop::NotRetryable)),
            Next::Stop(stop) => (Severity::Error, Judgement::GaveUp(stop)),
        };
        self.report_attempt(log, attempts, verdict, severity);
        if judgement == Judgement::Final {
            return judgement;
        }
        let enforce = self.mode.get() == Mode::Enforce;
        self.observer.emit(&self.name, || match (next, verdict) {
            (Next::Retry { delay, .. }, _) if !enforce => Event::WouldRetry { delay },
            (Next::Retry { delay, hint }, Verdict::Failure { kind, .. }) => {
                Event::Backoff { retry: attempts, delay, kind, hint }
            }
            (Next::Stop(stop), _) => Event::GaveUp { attempts, stop },
            (Next::Retry { .. }, _) => unreachable!("only failures are retried"),
        });
        self.observer.emit(&self.name, || Event::Budget { tokens: self.config.budget.tokens() });
        if enforce { judgement } else { Judgement::Final }
    }

    fn report_attempt(&self, log: &Log, number: u32, verdict: Verdict, severity: Severity) {
        self.observer.emit(&self.name, || {
            let elapsed = log.started.map(|started| started.elapsed()).unwrap_or_default();
            Event::Attempt { number, verdict, severity, elapsed }
        });
    }

    /// Holds back everybody who asks the same server, if this answer says so.
    pub(crate) fn hold(&self, key: u64, verdict: Verdict) {
        if let (Some(gate), Verdict::Failure { kind: Kind::Throttled, hint: Hint::RetryAfter(time), .. }) =
            (&self.gate, verdict)
        {
            gate.hold(key, time);
        }
    }

    /// The error of a call that was given up.
    pub(crate) fn exhausted(
        &self,
        log: Log,
        verdict: Verdict,
        facts: Facts,
        stop: Stop,
        source: BoxError,
    ) -> BoxError {
        let Some(session) = log.session else { return source };
        Box::new(Exhausted {
            name: Arc::clone(&self.name),
            stop,
            attempts: session.retries + 1,
            elapsed: session.started.elapsed(),
            verdict: session.verdict(verdict),
            safe_to_retry: session.safe_to_retry(facts),
            retry_at: session.retry_at,
            source,
        })
    }

    /// How long a call waits that the rate gate holds back for `time`: a little longer, so that not all held calls come
    /// at the same moment. A call that may not wait so long is refused.
    pub(crate) fn held_back(&self, time: Duration, deadline: Option<Instant>) -> Result<Duration, BoxError> {
        let now = Instant::now();
        let mut session = Session::new(&self.config, now);
        let facts = Facts { deadline, max_retries: None, repeat: Repeat::Always };
        if session.in_time(&self.config, facts, now, time).is_err() {
            self.observer.emit(&self.name, || Event::Refused(Reason::RateLimited));
            let refused = Refused::new("retry", Arc::clone(&self.name), Reason::RateLimited);
            return Err(Box::new(refused.until(after(now, time))));
        }
        let delay = session.above(&self.config, time);
        self.observer.emit(&self.name, || Event::Held { delay });
        Ok(delay)
    }
}
