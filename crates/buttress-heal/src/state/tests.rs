use super::*;
use crate::action::{Action, Attempt, Fixes, Then};
use crate::intensity::Intensity;
use crate::ladder::Rung;
use crate::{BoxFuture, Fit};
use buttress_core::BoxError;
use proptest::prelude::*;

const SECOND: u64 = 1_000_000_000;
const DAY: u64 = 86_400 * SECOND;
/// How often the state is looked at: more often than anything changes.
const TICK: u64 = SECOND;

/// Never run: what the state decides is carried out by the test.
struct Named(&'static str, Fixes);

impl Action for Named {
    fn name(&self) -> &str {
        self.0
    }

    fn fixes(&self) -> Fixes {
        self.1.clone()
    }

    fn heal<'a>(&'a self, _: &'a Attempt) -> BoxFuture<'a, Result<Then, BoxError>> {
        Box::pin(std::future::ready(Ok(Then::Nothing)))
    }
}

fn rung(name: &'static str) -> Rung {
    Rung::new(Named(name, Fixes::Any))
}

fn against(name: &'static str, symptom: Symptom) -> Rung {
    Rung::new(Named(name, Fixes::Only(vec![symptom].into())))
}

const INTENSITY: Intensity = Intensity::new(3, Duration::from_secs(300));
const PAGE_AFTER: Duration = Duration::from_secs(120);
const STABLE_FOR: Duration = Duration::from_secs(60);

fn state(rungs: Vec<Rung>) -> State {
    let ladder = Ladder::new(rungs.into(), INTENSITY, Duration::from_secs(60), 1);
    State::new(ladder, STABLE_FOR, PAGE_AFTER, None)
}

/// What was decided, and when.
#[derive(Default)]
struct Course {
    acts: Vec<(u64, usize)>,
    pages: Vec<u64>,
    worse: usize,
    opened: Vec<u64>,
    closed: Vec<u64>,
}

/// A patient: what ails it, and how long each action takes and whether it ends well.
trait Patient {
    fn ails(&mut self, now: u64) -> (Health, Vec<Symptom>);
    fn act(&mut self, now: u64, rung: usize) -> (u64, bool);
    fn paused(&mut self, _: u64) -> bool {
        false
    }
}

fn treat(state: &mut State, patient: &mut impl Patient, until: u64) -> Course {
    let mut course = Course::default();
    let (mut running, mut clear_since) = (None::<(u64, bool)>, None);
    for now in (0..until).step_by(TICK as usize) {
        let (health, failing) = patient.ails(now);
        if failing.is_empty() {
            clear_since.get_or_insert(now);
        } else {
            clear_since = None;
        }
        let seen = Seen {
            health,
            failing: &failing,
            held: false,
            paused: patient.paused(now),
            failures: 0,
            unproven: false,
        };
        if running.is_some_and(|(end, _)| end <= now) {
            let (_, well) = running.take().unwrap();
            state.acted(now, well);
        }
        // One news after the other, and never without end.
        for step in 0.. {
            assert!(step < 20, "it never comes to rest");
            match state.step(now, seen) {
                Step::Wait(until) => {
                    assert!(until.is_none_or(|until| until > now), "it waits for what is over");
                    break;
                }
                Step::Act(rung) => {
                    assert!(running.is_none() && !seen.paused, "one at a time");
                    course.acts.push((now, rung));
                    state.begin(rung, now, seen);
                    let (takes, well) = patient.act(now, rung);
                    running = Some((now + takes, well));
                }
                Step::Open => course.opened.push(now),
                Step::Escalate(_) => course.pages.push(now),
                Step::Worse => course.worse += 1,
                Step::Close { .. } => {
                    assert!(now - clear_since.unwrap() >= nanos(STABLE_FOR), "it was not stable");
                    course.closed.push(now);
                }
                Step::Hold => unreachable!("it has no siblings"),
                Step::Relapse | Step::Decide { .. } | Step::Recover(_) => {}
            }
        }
    }
    course
}

/// Always ill, whatever is done, in a way that the time decides.
struct Incurable<F>(F);

impl<F: FnMut(u64) -> (Health, Vec<Symptom>)> Patient for Incurable<F> {
    fn ails(&mut self, now: u64) -> (Health, Vec<Symptom>) {
        (self.0)(now)
    }

    fn act(&mut self, _: u64, _: usize) -> (u64, bool) {
        (SECOND, true)
    }
}

fn ill(health: Health) -> (Health, Vec<Symptom>) {
    (health, vec![Symptom::Connectivity])
}

/// The table of broken rules: whatever is held for a day, somebody is told, once, within two minutes, and little is restarted.
#[test]
fn whatever_is_held_for_a_day_is_paged_once_and_hardly_restarted() {
    for health in [Health::Degraded, Health::Unhealthy, Health::Critical] {
        let mut state = state(vec![rung("reset"), rung("restart").as_restart()]);
        let course = treat(&mut state, &mut Incurable(|_| ill(health)), DAY);
        assert_eq!((course.pages.len(), course.worse), (1, 0), "{health:?}");
        assert!(
            course.pages[0] <= nanos(PAGE_AFTER) + 20 * SECOND,
            "{health:?}: {}",
            course.pages[0] / SECOND
        );
        assert!(course.acts.len() <= 6, "{health:?}: {:?}", course.acts);
    }
}

/// The fourth line of that table: what alternates faster than it is stable is one incident, and a human's.
#[test]
fn what_alternates_all_day_is_one_incident_and_one_page() {
    let mut state = state(vec![rung("reset"), rung("restart").as_restart()]);
    let alternating = |now| {
        if now / (30 * SECOND) % 2 == 0 { ill(Health::Unhealthy) } else { (Health::Healthy, Vec::new()) }
    };
    let course = treat(&mut state, &mut Incurable(alternating), DAY);
    assert_eq!((course.opened.len(), course.pages.len(), course.closed.len()), (1, 1, 0));
    assert!(course.acts.len() <= 6, "{:?}", course.acts);
}

#[test]
fn a_human_does_not_wait_for_an_action_that_takes_for_ever_or_that_is_verified_for_long() {
    struct Slow(u64);
    impl Patient for Slow {
        fn ails(&mut self, _: u64) -> (Health, Vec<Symptom>) {
            ill(Health::Critical)
        }

        fn act(&mut self, _: u64, _: usize) -> (u64, bool) {
            (self.0, true)
        }
    }
    for takes in [DAY, SECOND] {
        let mut state = state(vec![rung("slow").verify(Duration::from_secs(3600))]);
        let course = treat(&mut state, &mut Slow(takes), 1800 * SECOND);
        assert_eq!((course.acts.len(), course.pages), (1, vec![nanos(PAGE_AFTER)]));
    }
}

#[test]
fn a_rung_that_cools_down_for_long_is_overtaken_and_has_its_turn_later() {
    let slow = rung("slow").cooldown(Duration::from_secs(40)).max_attempts(2);
    let mut state = state(vec![slow, rung("fast").cooldown(Duration::from_secs(10)).max_attempts(2)]);
    let course = treat(&mut state, &mut Incurable(|_| ill(Health::Unhealthy)), 100 * SECOND);
    let acts: Vec<_> = course.acts.iter().map(|(at, rung)| (at / SECOND, *rung)).collect();
    // Each takes a second, and is verified for five.
    assert_eq!(acts, [(0, 0), (6, 1), (16, 1), (40, 0)]);
    assert_eq!(course.pages[0] / SECOND, 46);
}

#[test]
fn a_symptom_that_comes_later_has_its_own_rungs_with_all_their_attempts() {
    let rungs = vec![
        against("clear", Symptom::Memory).max_attempts(1),
        against("reset", Symptom::Connectivity).max_attempts(1),
    ];
    let mut state = state(rungs);
    let symptoms = |now| {
        let late = (now >= 60 * SECOND).then_some(Symptom::Memory);
        (Health::Critical, std::iter::once(Symptom::Connectivity).chain(late).collect())
    };
    let course = treat(&mut state, &mut Incurable(symptoms), 120 * SECOND);
    let acts: Vec<_> = course.acts.iter().map(|(at, rung)| (at / SECOND, *rung)).collect();
    assert_eq!(
        (acts, course.pages.len()),
        (vec![(0, 1), (66, 0)], 1),
        "a minute after the page, which it is new to"
    );
}

#[test]
fn each_rung_says_why_it_is_passed_over() {
    let rungs = vec![
        against("memory", Symptom::Memory),
        rung("spent").max_attempts(1),
        Rung::fail_over(),
        rung("cools"),
        rung("runs"),
    ];
    let mut state = state(rungs);
    let failing = [Symptom::Connectivity];
    let seen = Seen {
        health: Health::Critical,
        failing: &failing,
        held: true,
        paused: false,
        failures: 0,
        unproven: false,
    };
    state.begin(1, 0, seen);
    state.begin(3, 0, seen);
    let explained = |state: &State, held| {
        let rungs = state.ladder().explain(SECOND, &failing, held);
        rungs.into_iter().map(|(_, fit)| fit).collect::<Vec<_>>()
    };
    let cools = Fit::Cooling(Duration::from_secs(9));
    assert_eq!(explained(&state, false), [Fit::OtherSymptom, Fit::Spent, Fit::NoTarget, cools, Fit::Runs]);
    let mut state = self::state(vec![rung("restart").as_restart().cooldown(Duration::ZERO).max_attempts(9)]);
    assert_eq!(explained(&state, true), [Fit::Held]);
    (0..3).for_each(|_| drop(state.begin(0, 0, seen)));
    assert_eq!(explained(&state, false), [Fit::TooManyRestarts]);
    state.ladder.give_up(0);
    assert_eq!(explained(&state, false), [Fit::LeftToHumans]);
}

/// Ill and well by turns, with actions that take their time, fail, and sometimes cure.
#[derive(Debug, Clone)]
struct Random {
    /// For so many seconds each: which of three symptoms there are, and whether it is paused.
    script: Vec<(u64, u8, bool)>,
    /// For each action in turn: how many seconds it takes, whether it ends well, and for how many seconds it cures.
    acts: Vec<(u64, bool, u64)>,
    acted: usize,
    cured_until: u64,
    ill_since: Option<u64>,
}

impl Random {
    fn line(&self, now: u64) -> (u8, bool) {
        let whole: u64 = self.script.iter().map(|line| line.0 * SECOND).sum();
        let mut at = now % whole;
        for (lasts, symptoms, paused) in &self.script {
            if at < lasts * SECOND {
                return (*symptoms, *paused);
            }
            at -= lasts * SECOND;
        }
        (0, false)
    }
}

const SYMPTOMS: [Symptom; 3] = [Symptom::Queue, Symptom::Memory, Symptom::Connectivity];

impl Patient for Random {
    fn ails(&mut self, now: u64) -> (Health, Vec<Symptom>) {
        let symptoms = if now < self.cured_until { 0 } else { self.line(now).0 };
        let failing: Vec<_> =
            (0..3).filter(|bit| symptoms & (1 << bit) != 0).map(|bit: usize| SYMPTOMS[bit].clone()).collect();
        let health = failing.iter().map(Symptom::severity).max().unwrap_or_default();
        if failing.is_empty() {
            self.ill_since = None;
        } else {
            self.ill_since.get_or_insert(now);
        }
        (health, failing)
    }

    fn act(&mut self, now: u64, _: usize) -> (u64, bool) {
        let (takes, well, cures) = self.acts[self.acted % self.acts.len()];
        self.acted += 1;
        self.cured_until = now + cures * SECOND;
        (takes * SECOND, well)
    }

    fn paused(&mut self, now: u64) -> bool {
        self.line(now).1
    }
}

fn any_patient() -> impl Strategy<Value = Random> {
    let line = (1_u64..400, 0_u8..8, prop::bool::weighted(0.05));
    let act = (0_u64..6, any::<bool>(), prop_oneof![Just(0_u64), 0_u64..200]);
    (prop::collection::vec(line, 1..40), prop::collection::vec(act, 1..10))
        .prop_map(|(script, acts)| Random { script, acts, acted: 0, cured_until: 0, ill_since: None })
}

fn any_rungs() -> impl Strategy<Value = Vec<Rung>> {
    let numbers = (0_usize..4, 0_u64..100, 1_u32..5, any::<bool>(), any::<bool>());
    prop::collection::vec(numbers, 0..5).prop_map(|rungs| {
        let make = |(fixes, cooldown, attempts, restarts, keeps): (usize, u64, u32, bool, bool)| {
            let rung =
                SYMPTOMS.get(fixes).map_or_else(|| rung("any"), |symptom| against("some", symptom.clone()));
            let rung = rung.cooldown(Duration::from_secs(cooldown)).max_attempts(attempts);
            let rung = if restarts { rung.as_restart() } else { rung };
            if keeps { rung.keep_trying() } else { rung }
        };
        rungs.into_iter().map(make).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// A day of any verdicts: never two actions at once (see [`treat`]), never two pages in an incident, no rung more often than it
    /// may, restarts within the intensity, no incident closed before it was stable.
    #[test]
    fn whatever_the_checks_say_for_a_day_the_rules_hold(rungs in any_rungs(), mut patient in any_patient()) {
        let limits: Vec<_> = rungs.iter().map(|rung| (rung.limits.max_attempts, rung.kind, rung.keeps_trying)).collect();
        let mut state = state(rungs);
        let course = treat(&mut state, &mut patient, DAY);
        prop_assert!(course.opened.len() - course.closed.len() <= 1);
        let ends = course.closed.iter().copied().chain([DAY]);
        for (start, end) in course.opened.iter().zip(ends) {
            let during = |at: &u64| (*start..end).contains(at);
            prop_assert!(course.pages.iter().filter(|at| during(at)).count() <= 1);
            for (at, (max, _, keeps)) in limits.iter().enumerate() {
                let attempts = course.acts.iter().filter(|(when, rung)| *rung == at && during(when)).count();
                prop_assert!(*keeps || attempts <= *max as usize, "{attempts} of {max}");
                // Slowly, once a human was called.
                prop_assert!(attempts <= *max as usize + (end - start) as usize / (60 * SECOND) as usize + 1);
            }
        }
        let restarts: Vec<_> = course.acts.iter().filter(|(_, rung)| limits[*rung].1 == crate::ladder::Kind::Restart).collect();
        let window = nanos(INTENSITY.within);
        prop_assert!(restarts.windows(4).all(|four| four[3].0 - four[0].0 > window), "{restarts:?}");
    }

    /// Whoever is ill without end, and not paused, is a human's within the time, whatever is tried.
    #[test]
    fn nobody_is_ill_for_long_without_a_human_who_knows(rungs in any_rungs(), takes in 0_u64..5, well in any::<bool>(), symptoms in 1_u8..8) {
        let acts = vec![(takes, well, 0)];
        let mut patient = Random { script: vec![(1, symptoms, false)], acts, acted: 0, cured_until: 0, ill_since: None };
        let mut state = state(rungs);
        let course = treat(&mut state, &mut patient, 3600 * SECOND);
        prop_assert_eq!(course.pages.len(), 1);
        prop_assert!(course.pages[0] <= nanos(PAGE_AFTER) + 11 * SECOND, "{} s", course.pages[0] / SECOND);
    }
}
