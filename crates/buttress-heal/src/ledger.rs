use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use buttress_core::clock::Seconds;

use crate::check::Symptom;

/// So many times are kept of each entry, for the median.
const KEPT: usize = 32;

/// Which action cured which symptom how often: what is printed in a page, and what one looks at to order a ladder.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    entries: Vec<LedgerEntry>,
}

/// What is known of one action against one symptom.
#[derive(Clone, Debug)]
pub struct LedgerEntry {
    symptom: Symptom,
    action: Arc<str>,
    attempts: u32,
    successes: u32,
    times: Vec<Duration>,
}

impl Ledger {
    /// All that has been tried.
    pub fn entries(&self) -> &[LedgerEntry] {
        &self.entries
    }

    /// An attempt was decided: the time until the symptom was gone, if it is.
    pub(crate) fn record(&mut self, symptom: &Symptom, action: &Arc<str>, cured_after: Option<Duration>) {
        let known =
            self.entries.iter().position(|entry| entry.symptom == *symptom && entry.action == *action);
        let at = known.unwrap_or_else(|| {
            let (symptom, action) = (symptom.clone(), Arc::clone(action));
            self.entries.push(LedgerEntry { symptom, action, attempts: 0, successes: 0, times: Vec::new() });
            self.entries.len() - 1
        });
        let entry = &mut self.entries[at];
        entry.attempts = entry.attempts.saturating_add(1);
        if let Some(time) = cured_after {
            if entry.times.len() == KEPT {
                entry.times.remove(0);
            }
            entry.times.push(time);
            entry.successes = entry.successes.saturating_add(1);
        }
    }
}

impl LedgerEntry {
    /// What was wrong.
    pub fn symptom(&self) -> &Symptom {
        &self.symptom
    }

    /// What was tried.
    pub fn action(&self) -> &str {
        &self.action
    }

    /// How often it was tried.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// How often the symptom was gone when it was verified.
    pub fn successes(&self) -> u32 {
        self.successes
    }

    /// How long it took until the symptom was gone: the median of the latest 32 successes.
    pub fn median(&self) -> Option<Duration> {
        let mut times = self.times.clone();
        times.sort_unstable();
        times.get(times.len() / 2).copied()
    }
}

/// "reset pool cured connectivity 7 of 8 times, median 1.2 s".
impl fmt::Display for LedgerEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { symptom, action, attempts, successes, .. } = self;
        write!(f, "{action} cured {} {successes} of {attempts} times", symptom.as_str())?;
        match self.median() {
            Some(median) => write!(f, ", median {}", Seconds(median)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_says_how_often_an_action_cured_a_symptom_and_how_fast() {
        let mut ledger = Ledger::default();
        let (reset, restart): (Arc<str>, Arc<str>) = ("reset pool".into(), "restart".into());
        for millis in [900, 1200, 40_000] {
            ledger.record(&Symptom::Connectivity, &reset, Some(Duration::from_millis(millis)));
        }
        ledger.record(&Symptom::Connectivity, &reset, None);
        ledger.record(&Symptom::Memory, &restart, None);
        let lines: Vec<_> = ledger.entries().iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            ["reset pool cured connectivity 3 of 4 times, median 1.2 s", "restart cured memory 0 of 1 times"]
        );
    }

    #[test]
    fn it_does_not_grow_with_time() {
        let mut ledger = Ledger::default();
        (0..1000).for_each(|_| ledger.record(&Symptom::Pool, &"x".into(), Some(Duration::ZERO)));
        assert_eq!((ledger.entries.len(), ledger.entries[0].times.len()), (1, KEPT));
    }
}
