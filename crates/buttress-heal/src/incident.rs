use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use buttress_core::Rng;
use buttress_core::clock::{Seconds, wall};
use buttress_core::observe::{HealResult, Health};

use crate::check::Symptom;

/// One illness, from its first symptom until it has been gone for long enough: its key, what was seen, what was tried.
///
/// A snapshot: it does not change after it was given out. `Display` writes what a human needs to read when woken by it.
#[derive(Clone, Debug)]
pub struct Incident {
    pub(crate) key: Arc<str>,
    pub(crate) service: Arc<str>,
    pub(crate) opened: SystemTime,
    pub(crate) health: Health,
    pub(crate) worst: Health,
    pub(crate) symptoms: Vec<(Arc<str>, Symptom, Arc<str>)>,
    pub(crate) timeline: Vec<(Duration, Happened)>,
    pub(crate) omitted: u64,
    pub(crate) escalated: bool,
    pub(crate) recovered_after: Option<Duration>,
    pub(crate) over: bool,
    pub(crate) ledger: Vec<String>,
}

/// So many of the first entries of a timeline are kept, and so many of the last.
const FIRST: usize = 16;
const LAST: usize = 112;

/// PagerDuty's limit is 255 bytes; the rest of the key needs about thirty.
pub(crate) const LONGEST_NAME: usize = 200;

/// An entry of an incident's timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Happened {
    /// A check has failed often enough to be believed.
    Fell {
        /// The check.
        check: Arc<str>,
        /// What it said last.
        evidence: Arc<str>,
    },
    /// A check has passed often enough to be believed.
    Rose {
        /// The check.
        check: Arc<str>,
    },
    /// An action was started.
    Acted {
        /// The action.
        action: Arc<str>,
    },
    /// An action would have been started, if the supervisor did more than observe.
    WouldAct {
        /// The action.
        action: Arc<str>,
    },
    /// An attempt was decided.
    Tried {
        /// The action.
        action: Arc<str>,
        /// How it ended.
        tried: Tried,
    },
    /// Calls use a new generation.
    Swapped {
        /// Its number.
        generation: u64,
        /// The name of the target that it talks to.
        target: Arc<str>,
    },
    /// A human was called, for this reason.
    Escalated(Arc<str>),
    /// A human would have been called for this reason, if the supervisor did more than observe.
    WouldEscalate(Arc<str>),
    /// All symptoms are gone.
    Recovered,
    /// An operator did something.
    Operator(Arc<str>),
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Tried {
    /// The symptom was gone by the end of the time to verify.
    Cured,
    /// The action ended well, and the symptom stayed.
    NoEffect,
    /// The action, or the building of a service after it, failed.
    Failed(Arc<str>),
    /// It took too long.
    TimedOut,
    /// It panicked.
    Panicked,
    /// An operator, or the end of the supervisor, cut it off.
    Cancelled,
}

impl Incident {
    /// What identifies it, for pagers to deduplicate by: the service's name, when it began, and a number; at most 255 bytes.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The name of the supervised service.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// When the first symptom was believed, on the wall clock.
    pub fn opened(&self) -> SystemTime {
        self.opened
    }

    /// How ill it is now.
    pub fn health(&self) -> Health {
        self.health
    }

    /// How ill it was at worst.
    pub fn worst(&self) -> Health {
        self.worst
    }

    /// The checks that fail now, with what they said last.
    pub fn symptoms(&self) -> impl Iterator<Item = (&str, &Symptom, &str)> {
        self.symptoms.iter().map(|(check, symptom, evidence)| (&**check, symptom, &**evidence))
    }

    /// What happened, and how long after the beginning. The oldest 16 and the latest 112 entries are kept.
    pub fn timeline(&self) -> &[(Duration, Happened)] {
        &self.timeline
    }

    /// How many entries were left out of the timeline.
    pub fn omitted(&self) -> u64 {
        self.omitted
    }

    /// Whether a human was called.
    pub fn is_escalated(&self) -> bool {
        self.escalated
    }

    /// Whether it is over: all symptoms have been gone for `stable_for`.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// The time from the first symptom until all were gone; `None` while some are there.
    pub fn recovered_after(&self) -> Option<Duration> {
        self.recovered_after
    }
}

impl Incident {
    /// It begins. No two processes give the same key.
    pub(crate) fn open(service: &Arc<str>) -> Self {
        let (opened, salt) = (wall(), Rng::from_system().between(0, u32::MAX.into()));
        let seconds = opened.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let name = cut(service, LONGEST_NAME);
        let key = format!("{name}-{seconds}-{salt:08x}");
        Self { opened, escalated: false, ..Self::new(key, Arc::clone(service), Health::Healthy) }
    }

    pub(crate) fn note(&mut self, after: Duration, happened: Happened) {
        if self.timeline.len() == FIRST + LAST {
            self.timeline.remove(FIRST);
            self.omitted += 1;
        }
        self.timeline.push((after, happened));
    }

    pub(crate) fn is_now(&mut self, health: Health) {
        self.health = health;
        self.worst = self.worst.max(health);
    }
}

/// Incidents by hand: for tests of a [`Pager`](crate::Pager), and for pagers that have something to say themselves.
impl Incident {
    /// One that begins now. Supervisors make their own.
    pub fn new(key: impl Into<Arc<str>>, service: impl Into<Arc<str>>, health: Health) -> Self {
        Self {
            key: key.into(),
            service: service.into(),
            opened: wall(),
            health,
            worst: health,
            symptoms: Vec::new(),
            timeline: Vec::new(),
            omitted: 0,
            escalated: true,
            recovered_after: None,
            over: false,
            ledger: Vec::new(),
        }
    }

    /// The same, and this check fails.
    #[must_use]
    pub fn with_symptom(
        mut self,
        check: impl Into<Arc<str>>,
        symptom: Symptom,
        evidence: impl Into<Arc<str>>,
    ) -> Self {
        self.symptoms.push((check.into(), symptom, evidence.into()));
        self
    }

    /// The same, and it is over: all symptoms were gone after so long.
    #[must_use]
    pub fn ended(self, recovered_after: Duration) -> Self {
        let (health, symptoms) = (Health::Healthy, Vec::new());
        Self { health, symptoms, recovered_after: Some(recovered_after), over: true, ..self }
    }
}

/// As much of a text as fits into so many bytes. `str::floor_char_boundary` is younger than the oldest compiler that this has
/// to build with.
pub(crate) fn cut(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|&at| text.is_char_boundary(at));
    &text[..end.unwrap_or(0)]
}

impl Tried {
    pub(crate) const fn result(&self) -> HealResult {
        match self {
            Self::Cured => HealResult::Cured,
            Self::NoEffect => HealResult::NoEffect,
            Self::Failed(_) => HealResult::Failed,
            Self::TimedOut => HealResult::TimedOut,
            Self::Panicked => HealResult::Panicked,
            Self::Cancelled => HealResult::Cancelled,
        }
    }
}

impl fmt::Display for Happened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fell { check, evidence } => write!(f, "{check} fails: {evidence}"),
            Self::Rose { check } => write!(f, "{check} passes"),
            Self::Acted { action } => write!(f, "{action} …"),
            Self::WouldAct { action } => write!(f, "{action} would be tried"),
            Self::Tried { action, tried: Tried::Failed(why) } => write!(f, "{action} failed: {why}"),
            Self::Tried { action, tried } => write!(f, "{action}: {}", tried.result().as_str()),
            Self::Swapped { generation, target } => {
                write!(f, "calls use generation {generation} at {target}")
            }
            Self::Escalated(why) => write!(f, "a human is called: {why}"),
            Self::WouldEscalate(why) => write!(f, "a human would be called: {why}"),
            Self::Recovered => f.write_str("all symptoms are gone"),
            Self::Operator(what) => write!(f, "operator: {what}"),
        }
    }
}

impl fmt::Display for Incident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, key, .. } = self;
        write!(f, "`{service}` is {} ({key})", self.health.as_str())?;
        if let Some(after) = self.recovered_after {
            write!(f, "\nall symptoms were gone after {}", Seconds(after))?;
        }
        if !self.symptoms.is_empty() {
            f.write_str("\nwhat fails:")?;
        }
        for (check, symptom, evidence) in self.symptoms() {
            write!(f, "\n  {check} ({}): {evidence}", symptom.as_str())?;
        }
        if !self.timeline.is_empty() {
            f.write_str("\nwhat happened:")?;
        }
        for (at, (after, happened)) in self.timeline.iter().enumerate() {
            if at == FIRST && self.omitted > 0 {
                write!(f, "\n  … {} more …", self.omitted)?;
            }
            write!(f, "\n  + {}: {happened}", Seconds(*after))?;
        }
        if !self.ledger.is_empty() {
            f.write_str("\nwhat has helped before:")?;
        }
        self.ledger.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_fits_into_a_pagers_and_is_one_of_a_kind() {
        let service: Arc<str> = "ä".repeat(300).into();
        let keys: std::collections::HashSet<_> = (0..100).map(|_| Incident::open(&service).key).collect();
        assert!(keys.len() == 100 && keys.iter().all(|key| key.len() <= 255 && key.starts_with("ää")));
    }

    #[test]
    fn a_timeline_keeps_its_beginning_and_its_end() {
        let mut incident = Incident::open(&"db".into());
        (0..1000).for_each(|second| incident.note(Duration::from_secs(second), Happened::Recovered));
        let seconds: Vec<_> = incident.timeline.iter().map(|(after, _)| after.as_secs()).collect();
        assert_eq!((seconds.len(), seconds[15], seconds[16], seconds[127]), (128, 15, 888, 999));
        assert_eq!(incident.omitted(), 872);
        assert!(
            incident.to_string().contains("\n  + 15 s: all symptoms are gone\n  … 872 more …\n  + 888 s")
        );
    }

    #[test]
    fn a_page_says_what_fails_what_was_done_and_what_has_helped_before() {
        let mut incident = Incident::new("db-1-2", "db", Health::Critical).with_symptom(
            "ping",
            Symptom::Connectivity,
            "connection refused",
        );
        incident.note(Duration::ZERO, Happened::Fell { check: "ping".into(), evidence: "reset".into() });
        let action: Arc<str> = "reset pool".into();
        incident.note(Duration::from_millis(750), Happened::Acted { action: Arc::clone(&action) });
        let tried = Tried::Failed("connection refused".into());
        incident.note(Duration::from_millis(1250), Happened::Tried { action, tried });
        incident.ledger.push("reset pool cured connectivity 7 of 8 times, median 1.2 s".into());
        let page = "`db` is critical (db-1-2)\nwhat fails:\n  ping (connectivity): connection refused\nwhat happened:\n  \
                    + 0 ms: ping fails: reset\n  + 750 ms: reset pool …\n  + 1.25 s: reset pool failed: connection refused\n\
                    what has helped before:\n  reset pool cured connectivity 7 of 8 times, median 1.2 s";
        assert_eq!(incident.to_string(), page);
    }
}
