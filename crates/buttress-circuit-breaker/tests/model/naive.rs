//! The breaker as one would write it without a thought of speed.

use buttress_circuit_breaker::{Abandoned, Mode, ProbeExpiry, Reason, Window};

use super::{Plan, Rule, ms};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    Good,
    Bad,
    Abandoned,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Closed,
    Open { until: u64, reopens: u32 },
    HalfOpen { reopens: u32 },
    Isolated,
}

/// A call that was let in; without a generation it takes no part.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket {
    generation: Option<u32>,
    number: u32,
    pub(crate) since: u64,
    pub(crate) slow: bool,
    slow_counted: bool,
}

/// Forgets nothing while it is closed, and looks through all of it each time.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) plan: Plan,
    pub(crate) mode: Mode,
    pub(crate) state: State,
    generation: u32,
    calls: u32,
    pub(crate) stale: u64,
    pub(crate) marks: Vec<(u64, Mark)>,
    pub(crate) slow_marks: Vec<(u64, Mark)>,
    pub(crate) streak: u32,
    any_success: bool,
    /// Number and end of lease.
    probes: Vec<(u32, u64)>,
    /// What probes brought: whether they failed, if that is known yet; slow; number.
    results: Vec<(Option<bool>, bool, u32)>,
}

impl Model {
    pub(crate) fn new(plan: Plan) -> Self {
        let (marks, slow_marks, probes, results) = Default::default();
        let (mode, state) = (Mode::Enforce, State::Closed);
        let (generation, calls, stale, streak, any_success) = (0, 0, 0, 0, false);
        Self {
            plan,
            mode,
            state,
            generation,
            calls,
            stale,
            marks,
            slow_marks,
            streak,
            any_success,
            probes,
            results,
        }
    }

    pub(crate) fn go(&mut self, state: State) {
        self.state = state;
        self.generation += 1;
        if state == State::Closed {
            (self.streak, self.any_success) = (0, false);
            (self.marks, self.slow_marks) = Default::default();
        } else if let State::HalfOpen { .. } = state {
            (self.probes, self.results) = Default::default();
        }
    }

    pub(crate) fn reopens(&self) -> Option<u32> {
        match self.state {
            State::Open { reopens, .. } | State::HalfOpen { reopens } => Some(reopens),
            State::Closed | State::Isolated => None,
        }
    }

    fn open(&mut self, now: u64) {
        let reopens = self.reopens().map_or(0, |reopens| reopens + 1);
        self.go(State::Open { until: now + (self.plan.open << reopens.min(3)), reopens });
    }

    /// Ends the probes whose lease is over.
    pub(crate) fn expire(&mut self, now: u64) {
        let under_way = self.probes.len();
        self.probes.retain(|probe| probe.1 >= now);
        if let (State::HalfOpen { .. }, true) = (self.state, self.probes.len() < under_way) {
            match self.plan.expiry {
                ProbeExpiry::Replace => self.decide(now),
                ProbeExpiry::Reopen => self.open(now),
                ProbeExpiry::Close => self.go(State::Closed),
            }
        }
    }

    pub(crate) fn call(&mut self, now: u64) -> Result<Ticket, (Reason, Option<u64>)> {
        self.calls += 1;
        let inert =
            Ticket { generation: None, number: self.calls, since: now, slow: false, slow_counted: false };
        if self.mode == Mode::Off {
            return Ok(inert);
        }
        self.expire(now);
        match self.state {
            State::Open { until, reopens } if now >= until => self.go(State::HalfOpen { reopens }),
            _ => {}
        }
        let refusal = match self.state {
            State::Closed => return Ok(Ticket { generation: Some(self.generation), ..inert }),
            State::Open { until, .. } => (Reason::CircuitOpen, Some(until - now)),
            State::Isolated => (Reason::CircuitIsolated, None),
            State::HalfOpen { .. } => {
                let judged = self.plan.recovery.1.map_or(usize::MAX, |_| self.plan.recovery.0 as usize);
                let under_way = self.probes.len();
                let counted = self.probes.iter().filter(|probe| self.is_counted(probe.0)).count();
                if under_way < self.plan.probes as usize && under_way - counted + self.results.len() < judged
                {
                    self.probes.push((self.calls, now + self.plan.lease));
                    return Ok(Ticket { generation: Some(self.generation), ..inert });
                }
                (Reason::ProbesInFlight, None)
            }
        };
        if self.mode == Mode::Observe { Ok(inert) } else { Err(refusal) }
    }

    /// A call that still runs has become slow.
    pub(crate) fn becomes_slow(&mut self, ticket: &mut Ticket, now: u64) {
        ticket.slow = true;
        if ticket.generation != Some(self.generation) || self.mode == Mode::Off {
            return;
        }
        if let State::HalfOpen { .. } = self.state {
            self.expire(now);
            if let (true, State::HalfOpen { .. }) = (self.is_under_way(ticket.number), self.state) {
                self.results.push((None, true, ticket.number));
                self.decide(now);
            }
        } else {
            ticket.slow_counted = true;
            self.slow_marks.push((now, Mark::Bad));
            self.trip(now);
        }
    }

    /// A call ends; without a mark it was neutral.
    pub(crate) fn ends(&mut self, ticket: &Ticket, mark: Option<Mark>, now: u64) {
        let stale = match ticket.generation {
            None => false,
            Some(generation) if generation != self.generation => self.mode != Mode::Off,
            Some(_) if self.state == State::Closed => {
                self.call_ends(ticket, mark.filter(|_| self.mode != Mode::Off), now);
                false
            }
            Some(_) => {
                let mark = mark.filter(|_| self.mode != Mode::Off);
                !self.probe_ends(ticket, mark, now) && self.mode != Mode::Off
            }
        };
        self.stale += u64::from(stale);
    }

    fn call_ends(&mut self, ticket: &Ticket, mark: Option<Mark>, now: u64) {
        let Some(mark) = mark else { return };
        match mark {
            Mark::Good => (self.streak, self.any_success) = (0, true),
            Mark::Bad => self.streak += 1,
            Mark::Abandoned => self.streak += u32::from(!self.any_success),
        }
        self.marks.push((now, mark));
        if !ticket.slow_counted && mark != Mark::Abandoned {
            self.slow_marks.push((now, if ticket.slow { Mark::Bad } else { Mark::Good }));
        }
        self.trip(now);
    }

    fn trip(&mut self, now: u64) {
        let met = |rule: Rule, marks| {
            let (calls, bad) = count(marks, rule.window, now);
            calls >= rule.minimum_calls.into() && reached(bad, calls, rule.percent)
        };
        if self.streak >= self.plan.consecutive
            || self.plan.rate.is_some_and(|rule| met(rule, &self.marks))
            || self.plan.slow.is_some_and(|(_, rule)| met(rule, &self.slow_marks))
        {
            self.open(now);
        }
    }

    /// Whether it voted.
    fn probe_ends(&mut self, ticket: &Ticket, mark: Option<Mark>, now: u64) -> bool {
        self.expire(now);
        let at = self.probes.iter().position(|probe| probe.0 == ticket.number);
        let (Some(at), State::HalfOpen { .. }) = (at, self.state) else { return false };
        self.probes.remove(at);
        let any_good = self.results.iter().any(|result| result.0 == Some(false));
        let failed = match mark {
            None => None,
            Some(Mark::Abandoned) if any_good => None,
            Some(mark) => Some(mark != Mark::Good),
        };
        match self.results.iter_mut().find(|result| result.2 == ticket.number) {
            // What is slow stays so, and not to have failed is as good as it gets.
            Some(result) => result.0 = failed.or(Some(false)),
            None if failed.is_some() => self.results.push((failed, ticket.slow, ticket.number)),
            None => {}
        }
        self.decide(now);
        true
    }

    fn is_under_way(&self, number: u32) -> bool {
        self.probes.iter().any(|probe| probe.0 == number)
    }

    /// As a slow one.
    fn is_counted(&self, number: u32) -> bool {
        self.results.iter().any(|result| result.2 == number)
    }

    fn decide(&mut self, now: u64) {
        let calls = self.results.len() as u64;
        let failed = self.results.iter().filter(|result| result.0 == Some(true)).count() as u64;
        let slow = self.results.iter().filter(|result| result.1).count() as u64;
        let (wanted, share) = self.plan.recovery;
        let ill = share.map_or(failed + slow > 0, |percent| {
            let too_slow = self.plan.slow.is_some_and(|(_, rule)| reached(slow, calls, rule.percent));
            calls >= wanted.into() && (reached(failed, calls, percent) || too_slow)
        });
        if ill {
            self.open(now);
        } else if calls >= wanted.into() && !self.probes.iter().any(|probe| self.is_counted(probe.0)) {
            self.go(State::Closed);
        }
    }

    /// What it means that the caller goes away.
    pub(crate) fn abandoned(&self, ticket: &Ticket, now: u64) -> Option<Mark> {
        match self.plan.abandoned {
            Abandoned::CountAsFailure => Some(Mark::Bad),
            Abandoned::CountAfter(limit) if ms(now - ticket.since) >= limit => Some(Mark::Bad),
            Abandoned::CountUnlessAnySuccess => Some(Mark::Abandoned),
            _ => None,
        }
    }
}

fn reached(part: u64, whole: u64, percent: u8) -> bool {
    whole > 0 && part * 100 >= whole * u64::from(percent)
}

/// Calls, and bad ones, in the window. Abandoned ones are bad if there is nothing good, and otherwise no calls at all.
pub(crate) fn count(marks: &[(u64, Mark)], window: Window, now: u64) -> (u64, u64) {
    let live: Vec<Mark> = match window {
        Window::Calls(n) => marks.iter().rev().take(n as usize).map(|mark| mark.1).collect(),
        Window::Time(time) => {
            let bucket = |at: u64| at / (time.as_millis() as u64 / 10);
            marks.iter().filter(|mark| bucket(now) - bucket(mark.0) < 10).map(|mark| mark.1).collect()
        }
    };
    let of = |mark| live.iter().filter(|&&other| other == mark).count() as u64;
    let (good, bad, abandoned) = (of(Mark::Good), of(Mark::Bad), of(Mark::Abandoned));
    if good > 0 { (good + bad, bad) } else { (bad + abandoned, bad + abandoned) }
}
