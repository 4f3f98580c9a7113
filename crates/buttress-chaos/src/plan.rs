//! Which rule meets a call: the decision, without a clock or a future.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::draw::{Draw, text};
use crate::error::Injected;
use crate::fault::{Fault, FaultKind, Latency};
use crate::rule::{Condition, Field, Numbering, Rule, Test};

/// Rules with their counts, from one start.
#[derive(Debug)]
pub(crate) struct Plan {
    seed: u64,
    rules: Vec<Numbered>,
    start: OnceLock<Instant>,
    /// Some rule needs the time.
    timed: bool,
}

#[derive(Debug)]
struct Numbered {
    rule: Rule,
    calls: AtomicU64,
    /// By the keys' hashes.
    keys: Mutex<HashMap<u64, u64>>,
}

/// A rule keeps count of so many keys; calls with further keys are all their key's first.
pub(crate) const KEYS: usize = 1 << 20;

/// What a call has met.
#[derive(Clone, Debug)]
pub(crate) struct Injection {
    plan: Arc<Plan>,
    index: usize,
    /// Of the layer.
    pub(crate) name: Arc<str>,
    /// Before the fault.
    pub(crate) delay: Duration,
    /// The fault's own, where it is one.
    pub(crate) latency: Duration,
}

impl Injection {
    pub(crate) fn fault(&self) -> &Fault {
        &self.rule().fault
    }

    /// The error that stands for it.
    pub(crate) fn error(&self, kind: FaultKind) -> Injected {
        Injected::new(Arc::clone(&self.name), kind)
    }

    pub(crate) fn rule(&self) -> &Rule {
        &self.plan.rules[self.index].rule
    }
}

impl Plan {
    /// Its time starts at this moment, or else with the first call.
    pub(crate) fn new(seed: u64, rules: Vec<Rule>, start: Option<Instant>) -> Self {
        let timed = rules.iter().any(|rule| !rule.window.is_always());
        let numbered = |rule| Numbered { rule, calls: AtomicU64::new(0), keys: Mutex::default() };
        let rules = rules.into_iter().map(numbered).collect();
        Self { seed, rules, start: start.map_or_else(OnceLock::new, OnceLock::from), timed }
    }

    /// The same rules, from a new start.
    pub(crate) fn again(&self, start: Option<Instant>) -> Self {
        Self::new(self.seed, self.rules.iter().map(|numbered| numbered.rule.clone()).collect(), start)
    }

    /// What a call meets; `now` is asked only if a rule has a window.
    pub(crate) fn decide<'a>(
        self: &Arc<Self>,
        name: &Arc<str>,
        field: impl Fn(&Field) -> Option<Cow<'a, str>>,
        now: impl FnOnce() -> Instant,
    ) -> Option<Injection> {
        let elapsed = if self.timed {
            let now = now();
            now.saturating_duration_since(*self.start.get_or_init(|| now))
        } else {
            Duration::ZERO
        };
        let mut rules = self.rules.iter().enumerate();
        let (index, mut draw) =
            rules.find_map(|(index, rule)| Some((index, rule.meets(self.seed, index, elapsed, &field)?)))?;
        let rule = &self.rules[index].rule;
        let mut drawn = |latency: Latency| draw.around(latency.time, latency.jitter);
        let delay = rule.delay.map_or(Duration::ZERO, &mut drawn);
        let (delay, latency) = match rule.fault {
            Fault::Latency(latency) => (delay.saturating_add(drawn(latency)), Duration::ZERO),
            Fault::ResponseLatency(latency) => (delay, drawn(latency)),
            _ => (delay, Duration::ZERO),
        };
        rule.kind()?;
        Some(Injection { plan: Arc::clone(self), index, name: Arc::clone(name), delay, latency })
    }
}

impl Numbered {
    /// Numbers a call that comes here; if it is met, what else is drawn for it.
    fn meets<'a>(
        &self,
        seed: u64,
        index: usize,
        elapsed: Duration,
        field: &impl Fn(&Field) -> Option<Cow<'a, str>>,
    ) -> Option<Draw> {
        let rule = &self.rule;
        if !rule.window.contains(elapsed) || !rule.conditions.iter().all(|condition| condition.holds(field)) {
            return None;
        }
        let key = || text(&field(&Field::Key).unwrap_or_default());
        let (key, number) = match rule.numbering {
            Numbering::Calls => (0, self.calls.fetch_add(1, Relaxed)),
            Numbering::PerKey => {
                let key = key();
                (key, self.number_of(key))
            }
            Numbering::Key => (key(), 0),
        };
        let mut draw = Draw::new(seed, &[index as u64, key, number]);
        (rule.selects(number) && draw.happens(rule.rate)).then_some(draw)
    }

    fn number_of(&self, key: u64) -> u64 {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.len() >= KEYS && !keys.contains_key(&key) {
            return 0;
        }
        let next = keys.entry(key).or_insert(0);
        *next += 1;
        *next - 1
    }
}

impl Condition {
    fn holds<'a>(&self, field: &impl Fn(&Field) -> Option<Cow<'a, str>>) -> bool {
        field(&self.field).is_some_and(|value| match &self.test {
            Test::Is(expected) => *value == **expected,
            Test::BeginsWith(expected) => value.starts_with(&**expected),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::window::Window;
    use buttress_core::Kind;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn plan(rules: &[Rule]) -> Arc<Plan> {
        Arc::new(Plan::new(7, rules.to_vec(), None))
    }

    fn met(plan: &Arc<Plan>, key: &str) -> Option<(FaultKind, Duration)> {
        let field = |field: &Field| (*field == Field::Key).then(|| Cow::Owned(key.to_owned()));
        let injection = plan.decide(&"api".into(), field, || unreachable!("no rule has a window"))?;
        Some((injection.rule().kind()?, injection.delay + injection.latency))
    }

    fn kinds(plan: &Arc<Plan>, calls: usize) -> Vec<&'static str> {
        (0..calls).map(|_| met(plan, "").map_or("-", |(kind, _)| kind.as_str())).collect()
    }

    #[test]
    fn rules_in_a_row_are_a_script() {
        let plan = plan(&[
            Rule::hang().first(2),
            Rule::pass().first(1),
            Rule::panic().skip(1).every_nth(2).first(4),
        ]);
        assert_eq!(kinds(&plan, 9), ["hang", "hang", "-", "-", "-", "panic", "-", "panic", "-"]);
        assert_eq!(kinds(&Arc::new(plan.again(None)), 2), ["hang", "hang"]);
    }

    #[test]
    fn a_rule_that_does_not_meet_a_call_leaves_it_to_the_next() {
        let plan = plan(&[Rule::panic().rate(0.0), Rule::hang().when(Field::Key, "a"), Rule::lose_answer()]);
        assert_eq!(met(&plan, "a").unwrap().0, FaultKind::Hang);
        assert_eq!(met(&plan, "b").unwrap().0, FaultKind::LoseAnswer);
    }

    #[tokio::test(start_paused = true)]
    async fn a_window_counts_from_the_first_call_or_from_a_given_start() {
        let rules = vec![Rule::hang().within(Window::always().until(Duration::from_secs(5)))];
        for given in [false, true] {
            let plan = Arc::new(Plan::new(7, rules.clone(), given.then(Instant::now)));
            tokio::time::advance(Duration::from_secs(4)).await;
            assert!(plan.decide(&"api".into(), |_| None, Instant::now).is_some());
            tokio::time::advance(Duration::from_secs(4)).await;
            assert_eq!(plan.decide(&"api".into(), |_| None, Instant::now).is_some(), !given);
        }
    }

    #[test]
    fn beyond_their_bound_keys_are_not_counted_and_the_known_ones_still_are() {
        let plan = plan(&[Rule::hang().numbered(Numbering::PerKey).first(1)]);
        assert!(met(&plan, "known").is_some() && met(&plan, "known").is_none());
        let mut keys = plan.rules[0].keys.lock().unwrap();
        keys.extend((0..KEYS as u64).map(|key| (key, 1)));
        let full = keys.len();
        drop(keys);
        assert!(met(&plan, "known").is_none() && met(&plan, "new").is_some() && met(&plan, "new").is_some());
        assert_eq!(plan.rules[0].keys.lock().unwrap().len(), full);
    }

    fn mixed(numbering: Numbering) -> Vec<Rule> {
        let jittered = Latency::fixed(Duration::from_millis(100)).jitter(Duration::from_millis(50));
        vec![
            Rule::error(Kind::Transient).rate(0.3).numbered(numbering),
            Rule::latency(jittered).delayed(jittered).rate(0.5).numbered(numbering),
            Rule::hang().first(2).numbered(numbering),
        ]
    }

    proptest! {
        /// The n-th call with a key meets the same fate in whatever order the keys' calls come.
        #[test]
        fn by_key_the_decision_is_the_same_under_any_interleaving(calls in proptest::collection::vec(0..5u8, 0..200), shuffled: prop::sample::Index) {
            let (forth, back) = (plan(&mixed(Numbering::PerKey)), plan(&mixed(Numbering::PerKey)));
            let fates = |plan: &Arc<Plan>, calls: &[u8]| {
                let mut fates: BTreeMap<u8, Vec<_>> = BTreeMap::new();
                for &key in calls {
                    fates.entry(key).or_default().push(met(plan, &format!("key-{key}")));
                }
                fates
            };
            let mut other = calls.clone();
            other.sort_unstable();
            if !other.is_empty() {
                let at = shuffled.index(other.len());
                other.rotate_left(at);
            }
            prop_assert_eq!(fates(&forth, &calls), fates(&back, &other));
        }

        /// By number, how many calls meet what is the same, whichever they are.
        #[test]
        fn by_number_as_many_calls_meet_each_fault(calls in 1..300usize, threads in 1..4usize) {
            let expected = {
                let plan = plan(&mixed(Numbering::Calls));
                let mut fates: Vec<_> = (0..calls).map(|_| met(&plan, "")).collect();
                fates.sort_by_key(|fate| format!("{fate:?}"));
                fates
            };
            let plan = plan(&mixed(Numbering::Calls));
            let mut fates = Vec::new();
            std::thread::scope(|scope| {
                let spawned: Vec<_> = (0..threads).map(|thread| {
                    let plan = &plan;
                    let share = calls / threads + usize::from(thread < calls % threads);
                    scope.spawn(move || (0..share).map(|_| met(plan, "")).collect::<Vec<_>>())
                }).collect();
                fates.extend(spawned.into_iter().flat_map(|thread| thread.join().unwrap()));
            });
            fates.sort_by_key(|fate| format!("{fate:?}"));
            prop_assert_eq!(fates, expected);
        }

        #[test]
        fn by_key_alone_all_calls_with_a_key_meet_the_same_fate(keys in proptest::collection::vec("[a-z]{1,8}", 1..50)) {
            let plan = plan(&[Rule::hang().rate(0.5).numbered(Numbering::Key)]);
            let fates: Vec<_> = keys.iter().map(|key| met(&plan, key)).collect();
            let again: Vec<_> = keys.iter().map(|key| met(&plan, key)).collect();
            prop_assert_eq!(fates, again);
        }
    }
}
