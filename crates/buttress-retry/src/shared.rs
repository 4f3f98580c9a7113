//! What the layer and the function form have in common.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use buttress_core::clock::after;
use buttress_core::observe::Severity;
use buttress_core::{
    Backoff, BoxError, Event, Exhausted, Hint, Kind, Mode, ModeCell, Observer, Reason, Refused, Stop, Verdict,
};
use tokio::time::Instant;

use crate::budget::{Budget, Prepaid};
use crate::config::{Config, HintRule};
use crate::gate::{Gate, Held};
use crate::session::{Facts, Next, Session};

/// What all services of one layer share.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) name: Arc<str>,
    config: RwLock<Arc<Config>>,
    /// What every call has to know of the configuration, beside it: the budget is always the same one.
    pub(crate) budget: Budget,
    max_retries: AtomicU32,
    gated: AtomicBool,
    gate: OnceLock<Gate>,
    pub(crate) mode: ModeCell,
    pub(crate) observer: Observer,
    pub(crate) above: OnceLock<Above>,
}

/// Says how much time a deadline above gives a call now, if it bounds any.
pub(crate) struct Above(pub(crate) Box<dyn Fn() -> Option<Duration> + Send + Sync>);

impl fmt::Debug for Above {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Above({:?})", (self.0)())
    }
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
    /// The request's own delays.
    pub(crate) backoff: Option<Arc<Backoff>>,
    /// From the first failure on.
    pub(crate) session: Option<Box<Session>>,
}

impl Log {
    #[inline]
    pub(crate) fn attempts(&self) -> u32 {
        self.session.as_ref().map_or(1, |session| session.retries + 1)
    }
}

/// What becomes of an attempt's outcome.
#[derive(Debug)]
pub(crate) enum Judgement<C> {
    /// It is the call's.
    Final,
    /// It is the call's, and something kept the retry from going on.
    GaveUp(Stop),
    /// It is thrown away, and another attempt with this copy of the request follows after this time.
    Retry(C, Duration),
}

impl Settings {
    pub(crate) fn new(name: Arc<str>, config: Config) -> Self {
        Self {
            name,
            budget: config.budget.clone(),
            max_retries: config.max_retries.into(),
            gated: config.rate_gate.into(),
            gate: OnceLock::new(),
            mode: ModeCell::new(config.mode),
            observer: Observer::default(),
            above: OnceLock::new(),
            config: RwLock::new(Arc::new(config)),
        }
    }

    /// What is in force now: for what happens seldom.
    pub(crate) fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts this one in force.
    pub(crate) fn set_config(&self, config: Config) {
        let mut current = self.config.write().unwrap_or_else(PoisonError::into_inner);
        self.budget.become_like(&config.budget);
        self.max_retries.store(config.max_retries, Relaxed);
        self.gated.store(config.rate_gate, Relaxed);
        let on_retry = config.on_retry.clone().or_else(|| current.on_retry.clone());
        *current = Arc::new(Config { budget: self.budget.clone(), on_retry, ..config });
    }

    /// How often a call that begins now may be retried.
    #[inline]
    pub(crate) fn max_retries(&self) -> u32 {
        self.max_retries.load(Relaxed)
    }

    /// The rate gate, if there is to be one.
    #[inline]
    pub(crate) fn gate(&self) -> Option<&Gate> {
        if self.gated.load(Relaxed) { Some(self.some_gate()) } else { None }
    }

    #[cold]
    fn some_gate(&self) -> &Gate {
        self.gate.get_or_init(Gate::new)
    }

    /// When an attempt that begins now begins, if anybody is to be told how long it takes.
    #[inline]
    pub(crate) fn attempt_start(&self) -> Option<Instant> {
        self.observer.is_set().then(Instant::now)
    }

    /// Takes note of an attempt that did not fail.
    #[inline]
    pub(crate) fn good(&self, log: &Log, verdict: Verdict) {
        if self.mode.get() == Mode::Off {
            return;
        }
        let paid = || log.session.as_ref().and_then(|session| session.paid);
        match verdict {
            Verdict::Ignored => {}
            Verdict::Rejected => self.budget.rejected(paid()),
            _ => self.budget.success(paid()),
        }
        self.report_attempt(log, log.attempts(), verdict, Severity::Information);
    }

    /// Judges the outcome of an attempt; `copy` is asked for another copy of the request if there is to be a retry.
    pub(crate) fn judge<C>(
        &self,
        log: &mut Log,
        verdict: Verdict,
        facts: Facts,
        copy: impl FnOnce() -> Option<C>,
    ) -> Judgement<C> {
        if !verdict.is_failure() {
            self.good(log, verdict);
            return Judgement::Final;
        }
        match self.mode.get() {
            Mode::Off => Judgement::Final,
            mode => self.judge_failure(log, verdict, facts, mode == Mode::Observe, copy),
        }
    }

    #[cold]
    fn judge_failure<C>(
        &self,
        log: &mut Log,
        verdict: Verdict,
        facts: Facts,
        observe: bool,
        copy: impl FnOnce() -> Option<C>,
    ) -> Judgement<C> {
        let attempts = log.attempts();
        let session = self.session(log);
        let config = Arc::clone(&session.config);
        let next = session.next(&config, verdict, facts, observe, copy);
        let severity = match next {
            Next::Retry { .. } => Severity::Warning,
            // Not a failure that a retry handles.
            Next::Stop(Stop::NotRetryable | Stop::Refused) => Severity::Information,
            Next::Stop(_) => Severity::Error,
        };
        self.report_attempt(log, attempts, verdict, severity);
        // An error that was never going to be retried goes out as it came in.
        if matches!(next, Next::Stop(Stop::NotRetryable | Stop::Refused) if attempts == 1) {
            return Judgement::Final;
        }
        self.observer.emit(&self.name, || match (&next, verdict) {
            (Next::Retry { delay, .. }, _) if observe => Event::WouldRetry { delay: *delay },
            (Next::Retry { delay, hint, .. }, Verdict::Failure { kind, .. }) => {
                Event::Backoff { retry: attempts, delay: *delay, kind, hint: *hint }
            }
            (Next::Stop(stop), _) => Event::GaveUp { attempts, stop: *stop },
            (Next::Retry { .. }, _) => unreachable!("only failures are retried"),
        });
        self.observer.emit(&self.name, || Event::Budget { tokens: self.budget.tokens() });
        match next {
            _ if observe => Judgement::Final,
            Next::Retry { copy, delay, .. } => {
                if let Some(hook) = &config.on_retry {
                    hook.tell(attempts, verdict, delay);
                }
                Judgement::Retry(copy, delay)
            }
            Next::Stop(stop) => Judgement::GaveUp(stop),
        }
    }

    fn session<'a>(&self, log: &'a mut Log) -> &'a mut Session {
        let Log { started, backoff, session } = log;
        session.get_or_insert_with(|| {
            let started = started.unwrap_or_else(Instant::now);
            let mut session = Session::new(self.config(), backoff.as_deref(), started);
            let limit = self.above.get().and_then(|above| (above.0)());
            session.deadline = limit.map(|limit| after(started, limit));
            Box::new(session)
        })
    }

    #[inline]
    fn report_attempt(&self, log: &Log, number: u32, verdict: Verdict, severity: Severity) {
        self.observer.emit(&self.name, || {
            let elapsed = log.started.map(|started| started.elapsed()).unwrap_or_default();
            Event::Attempt { number, verdict, severity, elapsed }
        });
    }

    /// Holds back everybody who asks the same server, if this answer says so.
    #[inline]
    pub(crate) fn hold(&self, key: u64, verdict: Verdict) {
        if let (Some(gate), Verdict::Failure { kind: Kind::Throttled, hint: Hint::RetryAfter(time), .. }) =
            (self.gate(), verdict)
        {
            let held = match self.config().hints {
                HintRule::Ignore => return,
                HintRule::Clamp { extra } => Held::Waits(time.min(extra)),
                HintRule::Floor { cap } | HintRule::Exact { cap } if time > cap => Held::Refused(cap),
                HintRule::Floor { .. } | HintRule::Exact { .. } => Held::Waits(time),
            };
            if self.mode.get() != Mode::Off {
                gate.hold(key, held);
            }
        }
    }

    /// How long a request of this key has to wait for the rate gate: a little longer than the server asked, so that not all
    /// held calls come at the same moment. A call that may not wait so long is refused.
    #[inline]
    pub(crate) fn held(&self, log: &mut Log, key: u64, facts: Facts) -> Result<Option<Duration>, BoxError> {
        match self.gate() {
            None => Ok(None),
            Some(gate) => self.held_by(gate, log, key, facts),
        }
    }

    #[cold]
    fn held_by(
        &self,
        gate: &Gate,
        log: &mut Log,
        key: u64,
        facts: Facts,
    ) -> Result<Option<Duration>, BoxError> {
        let Some(held) = gate.held(key) else { return Ok(None) };
        let time = held.time();
        if self.mode.get() != Mode::Enforce {
            if self.mode.get() == Mode::Observe {
                self.observer.emit(&self.name, || Event::Held { delay: time, enforced: false });
            }
            return Ok(None);
        }
        let delay = match held {
            Held::Waits(time) => {
                let session = self.session(log);
                let config = Arc::clone(&session.config);
                session.wait(&config, facts, time).ok()
            }
            Held::Refused(_) => None,
        };
        match delay {
            Some(delay) => {
                self.observer.emit(&self.name, || Event::Held { delay, enforced: true });
                Ok(Some(delay))
            }
            None => {
                self.observer.emit(&self.name, || Event::Refused(Reason::RateLimited));
                let refused = Refused::new("retry", Arc::clone(&self.name), Reason::RateLimited);
                Err(Box::new(refused.until(after(Instant::now(), time))))
            }
        }
    }

    /// What was paid for the attempt that the call waits for.
    pub(crate) fn prepaid(&self, log: &Log) -> Prepaid {
        self.budget.prepaid(log.session.as_ref().and_then(|session| session.paid))
    }

    /// The error of a call whose next attempt the rate gate refuses.
    #[cold]
    pub(crate) fn refused(&self, mut log: Log, facts: Facts, refused: BoxError) -> BoxError {
        match &mut log.session {
            Some(session) if session.retries > 0 => {
                // The attempt that was announced is not made.
                session.retries -= 1;
                let verdict = Verdict::failure(Kind::Refused);
                self.exhausted(log, verdict, facts, Stop::Refused, refused)
            }
            _ => refused,
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
        let attempts = log.attempts();
        let Some(session) = log.session else { return source };
        Box::new(Exhausted {
            name: Arc::clone(&self.name),
            stop,
            attempts,
            elapsed: session.started.elapsed(),
            verdict: session.verdict(verdict),
            safe_to_retry: session.safe_to_retry(facts),
            retry_at: session.retry_at,
            source,
        })
    }
}
