use std::time::Duration;

use buttress_core::clock::nanos;

/// When to go back to the first target: not at its first sign of life.
///
/// | setting | default |
/// |---|---|
/// | [`rise`](Self::rise) | 5 probes of the first target pass in a row |
/// | [`every`](Self::every) | a probe each 5 s |
/// | [`min_dwell`](Self::min_dwell) | 60 s on the other target, unless that fails too |
/// | [`max_dwell`](Self::max_dwell) | 10 min: the stay doubles each time that the first target fails again within an hour, and halves with each hour in which it does not |
/// | [`preempt`](Self::preempt) | yes |
///
/// A probe is a new service for the first target on which all checks are run once; it is never used for calls. For a target
/// that holds state of its own (a database whose writes would be lost) set `preempt` to false, and let an operator go back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failback {
    /// So many probes have to pass in a row.
    pub rise: u32,
    /// From one probe to the next.
    pub every: Duration,
    /// The shortest stay; at most the longest.
    pub min_dwell: Duration,
    /// The longest stay.
    pub max_dwell: Duration,
    /// Whether to go back at all.
    pub preempt: bool,
}

impl Default for Failback {
    fn default() -> Self {
        let [every, min_dwell, max_dwell] = [5, 60, 600].map(Duration::from_secs);
        Self { rise: 5, every, min_dwell, max_dwell, preempt: true }
    }
}

const HOUR: u64 = 3_600_000_000_000;

/// Where calls go, and for how long they stay there.
#[derive(Clone, Debug)]
pub(crate) struct Hysteresis {
    settings: Failback,
    passes: u32,
    left_at: u64,
    back_at: Option<u64>,
    dwell: u64,
    away: bool,
}

impl Hysteresis {
    pub(crate) fn new(settings: Failback) -> Self {
        let dwell = nanos(settings.min_dwell);
        Self { settings, passes: 0, left_at: 0, back_at: None, dwell, away: false }
    }

    /// Calls use this target now.
    pub(crate) fn moved(&mut self, now: u64, target: usize) {
        let away = target != 0;
        if away == self.away {
            return;
        }
        self.away = away;
        self.passes = 0;
        if !away {
            self.back_at = Some(now);
            return;
        }
        self.left_at = now;
        let (min, max) = (nanos(self.settings.min_dwell), nanos(self.settings.max_dwell));
        let Some(back) = self.back_at else { return };
        let quiet_hours = now.saturating_sub(back) / HOUR;
        self.dwell = match quiet_hours {
            0 => self.dwell.saturating_mul(2).min(max),
            hours => (self.dwell >> hours.min(63)).max(min),
        };
    }

    /// A probe of the first target has ended.
    pub(crate) fn probed(&mut self, passed: bool) {
        self.passes = if passed { self.passes.saturating_add(1) } else { 0 };
    }

    /// Whether the first target is worth a probe.
    pub(crate) fn probes(&self) -> bool {
        self.away && self.settings.preempt
    }

    /// Whether calls go back now. `ill`: the target in use is ill itself, and there is nothing to stay for.
    pub(crate) fn is_due(&self, now: u64, ill: bool) -> bool {
        let stayed = ill || now.saturating_sub(self.left_at) >= self.dwell;
        self.probes() && self.passes >= self.settings.rise && stayed
    }
}

/// The way back to the first target: when to look at it, and when to go.
#[derive(Debug)]
pub(crate) struct WayBack {
    hysteresis: Hysteresis,
    every: u64,
    probe_at: u64,
}

/// What is to be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Errand {
    /// Nothing, until then.
    Wait(u64),
    Probe,
    GoBack,
}

impl WayBack {
    /// None where there is nowhere to go.
    pub(crate) fn new(settings: Failback, targets: usize) -> Option<Box<Self>> {
        let (hysteresis, every) = (Hysteresis::new(settings), nanos(settings.every));
        (targets > 1).then(|| Box::new(Self { hysteresis, every, probe_at: 0 }))
    }

    pub(crate) fn moved(&mut self, now: u64, target: usize) {
        self.hysteresis.moved(now, target);
        self.probe_at = now.saturating_add(self.every);
    }

    pub(crate) fn probed(&mut self, passed: bool) {
        self.hysteresis.probed(passed);
    }

    /// `ill`: the target in use is ill itself.
    pub(crate) fn errand(&mut self, now: u64, ill: bool) -> Errand {
        if !self.hysteresis.probes() {
            return Errand::Wait(u64::MAX);
        }
        if self.hysteresis.is_due(now, ill) {
            return Errand::GoBack;
        }
        if now < self.probe_at {
            return Errand::Wait(self.probe_at);
        }
        self.probe_at = now.saturating_add(self.every);
        Errand::Probe
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn probes(hysteresis: &mut Hysteresis, letters: &str) {
        letters.chars().for_each(|letter| hysteresis.probed(letter == 'P'));
    }

    /// HD-41.
    #[test]
    fn calls_go_back_after_five_good_probes_in_a_row_and_a_minute() {
        let mut hysteresis = Hysteresis::new(Failback::default());
        assert!(!hysteresis.probes(), "nothing to go back to");
        hysteresis.moved(0, 1);
        probes(&mut hysteresis, "PPPPFPPPP");
        assert!(!hysteresis.is_due(61 * SECOND, false), "four in a row");
        probes(&mut hysteresis, "P");
        assert!(!hysteresis.is_due(59 * SECOND, false), "too soon");
        assert!(hysteresis.is_due(61 * SECOND, false));
        hysteresis.moved(61 * SECOND, 0);
        assert!(!hysteresis.is_due(62 * SECOND, false));
    }

    #[test]
    fn each_flap_doubles_the_stay_and_each_quiet_hour_halves_it() {
        let mut hysteresis = Hysteresis::new(Failback::default());
        let mut now = 0;
        let mut stay = |hysteresis: &mut Hysteresis, quiet: u64| {
            now += quiet;
            hysteresis.moved(now, 1);
            probes(hysteresis, "PPPPP");
            let left = now;
            while !hysteresis.is_due(now, false) {
                now += SECOND;
            }
            hysteresis.moved(now, 0);
            (now - left) / SECOND
        };
        let stays: Vec<_> = (0..6).map(|_| stay(&mut hysteresis, SECOND)).collect();
        assert_eq!(stays, [60, 120, 240, 480, 600, 600]);
        assert_eq!(stay(&mut hysteresis, 2 * HOUR), 150);
        assert_eq!(stay(&mut hysteresis, 100 * HOUR), 60);
    }

    #[test]
    fn a_backup_that_is_ill_itself_is_left_at_once_and_nothing_is_without_preemption() {
        let mut hysteresis = Hysteresis::new(Failback::default());
        hysteresis.moved(0, 1);
        probes(&mut hysteresis, "PPPPP");
        assert!(hysteresis.is_due(SECOND, true) && !hysteresis.is_due(SECOND, false));
        let mut stays = Hysteresis::new(Failback { preempt: false, ..Failback::default() });
        stays.moved(0, 1);
        probes(&mut stays, "PPPPPPPP");
        assert!(!stays.probes() && !stays.is_due(HOUR, true));
    }
}
