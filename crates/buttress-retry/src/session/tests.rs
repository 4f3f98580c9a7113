use super::*;
use crate::budget::Budget;
use buttress_core::Jitter;

const FACTS: Facts = Facts { deadline: None, max_retries: None, repeatable: true, own_time: false };

fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn config() -> Config {
    let backoff = Backoff::exponential(secs(1), 2.0, secs(8)).unwrap().jitter(Jitter::None);
    Config::background().max_retries(100).backoff(backoff).budget(Budget::unlimited())
}

fn hinted(seconds: u64) -> Verdict {
    Verdict::failure(Kind::Throttled).with_hint(Hint::RetryAfter(secs(seconds)))
}

fn next(session: &mut Session, config: &Config, verdict: Verdict, facts: Facts) -> Next<()> {
    session.next(config, verdict, facts, false, || Some(()))
}

#[expect(clippy::needless_pass_by_value, reason = "reads better where it is called")]
fn delay(next: Next<()>) -> Duration {
    match next {
        Next::Retry { delay, .. } => delay,
        Next::Stop(stop) => panic!("stopped: {stop:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_hint_is_a_floor_with_jitter_above_it() {
    let (config, now) = (config(), Instant::now());
    let mut late = 0;
    for _ in 0..100 {
        let delay =
            delay(next(&mut Session::new(config.clone().into(), None, now), &config, hinted(10), FACTS));
        assert!(delay >= secs(10) && delay <= secs(15), "{delay:?}");
        late += u32::from(delay > secs(12));
    }
    assert!((20..=80).contains(&late), "spread over the whole width: {late}");
    let mut session = Session::new(config.clone().into(), None, now);
    let delays: Vec<_> = (0..5).map(|_| delay(next(&mut session, &config, hinted(0), FACTS))).collect();
    assert_eq!(delays[1..], [secs(2), secs(4), secs(8), secs(8)], "no earlier than computed either");
}

#[tokio::test(start_paused = true)]
async fn no_copy_is_asked_for_that_is_not_paid_for_and_none_is_paid_for_that_cannot_be_had() {
    let (budget, failed) = (Budget::ratio(0.0, 1).unwrap(), Verdict::failure(Kind::Transient));
    let (config, now) = (config().budget(budget.clone()), Instant::now());
    let mut session = Session::new(config.clone().into(), None, now);
    let next = session.next(&config, failed, FACTS, false, || None::<()>);
    assert_eq!((next, budget.tokens()), (Next::Stop(Stop::NotReplayable), 1.0));
    let next = session.next(&config, failed, FACTS, false, || Some(()));
    assert_eq!((delay(next), budget.tokens()), (secs(2), 0.0));
    let next = session.next(&config, failed, FACTS, false, || -> Option<()> { panic!("nobody pays for it") });
    assert_eq!(next, Next::Stop(Stop::Budget));
}

#[tokio::test(start_paused = true)]
async fn a_hint_beyond_the_cap_fails_now_and_says_when() {
    let (config, now) = (config(), Instant::now());
    let mut session = Session::new(config.clone().into(), None, now);
    assert_eq!(next(&mut session, &config, hinted(301), FACTS), Next::Stop(Stop::HintTooLong));
    assert_eq!(session.retry_at, Some(now + secs(301)));
}

#[tokio::test(start_paused = true)]
async fn aws_clamps_a_hint_to_five_seconds_more_than_computed() {
    let (mut config, now) = (config().hints(HintRule::Clamp { extra: secs(5) }), Instant::now());
    config.backoff = Backoff::constant(secs(2));
    for (asked, waits) in [(0, 2), (1, 2), (4, 4), (7, 7), (100, 7)] {
        assert_eq!(
            delay(next(&mut Session::new(config.clone().into(), None, now), &config, hinted(asked), FACTS)),
            secs(waits)
        );
    }
}

/// R-12, after parsing
#[tokio::test(start_paused = true)]
async fn a_pushback_is_exact_and_starts_the_backoff_again() {
    let (config, now) = (config().hints(HintRule::Exact { cap: secs(300) }), Instant::now());
    let transient = Verdict::failure(Kind::Transient);
    let mut session = Session::new(config.clone().into(), None, now);
    let delays = [transient, transient, hinted(5), transient, transient, hinted(0), transient, hinted(300)];
    let delays = delays.map(|verdict| delay(next(&mut session, &config, verdict, FACTS)).as_secs());
    assert_eq!(delays, [1, 2, 5, 1, 2, 0, 1, 300]);
    let stop = transient.with_hint(Hint::DoNotRetry);
    assert_eq!(next(&mut session, &config, stop, FACTS), Next::Stop(Stop::DoNotRetry));
}

/// exactly means not earlier, too.
#[tokio::test(start_paused = true)]
async fn a_pushback_beyond_the_cap_fails_now_and_says_when() {
    let config = config().retry_refused(true).hints(HintRule::Exact { cap: secs(300) });
    let refused = Verdict::failure(Kind::Refused).with_hint(Hint::RetryAfter(secs(301)));
    for verdict in [hinted(301), refused] {
        let mut session = Session::new(config.clone().into(), None, Instant::now());
        assert_eq!(next(&mut session, &config, verdict, FACTS), Next::Stop(Stop::HintTooLong));
        assert_eq!(session.retry_at, Some(Instant::now() + secs(301)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_pushback_starts_the_schedule_of_throttling_again_too() {
    let slow = Backoff::exponential(secs(10), 2.0, secs(1000)).unwrap().jitter(Jitter::None);
    let config = config().hints(HintRule::Exact { cap: secs(300) }).throttled_backoff(slow);
    let throttled = Verdict::failure(Kind::Throttled);
    let mut session = Session::new(config.clone().into(), None, Instant::now());
    let delays = [throttled, throttled, hinted(5), throttled];
    let delays = delays.map(|verdict| delay(next(&mut session, &config, verdict, FACTS)).as_secs());
    assert_eq!(delays, [10, 20, 5, 10]);
}

/// Ten thousand that wait for one circuit would come back in one moment, and all but a few be refused again.
#[tokio::test(start_paused = true)]
async fn what_a_layer_of_ours_asks_for_is_no_pushback() {
    let config = config().retry_refused(true).hints(HintRule::Exact { cap: secs(300) });
    let refused = Verdict::failure(Kind::Refused).with_hint(Hint::RetryAfter(secs(30)));
    let delay = || {
        delay(next(&mut Session::new(config.clone().into(), None, Instant::now()), &config, refused, FACTS))
    };
    let delays: Vec<_> = (0..100).map(|_| delay()).collect();
    assert!(delays.iter().all(|delay| (secs(30)..=secs(45)).contains(delay)), "{delays:?}");
    assert!(delays.iter().any(|delay| *delay > secs(36)), "{delays:?}");
}

#[tokio::test(start_paused = true)]
async fn throttling_has_a_schedule_of_its_own_that_counts_every_retry() {
    let now = Instant::now();
    let slow = Backoff::exponential(secs(10), 2.0, secs(1000)).unwrap().jitter(Jitter::None);
    let config = config().throttled_backoff(slow);
    let mut session = Session::new(config.clone().into(), None, now);
    let kinds = [Kind::Transient, Kind::Throttled, Kind::Transient, Kind::Throttled];
    let delays =
        kinds.map(|kind| delay(next(&mut session, &config, Verdict::failure(kind), FACTS)).as_secs());
    assert_eq!(delays, [1, 20, 4, 80]);
}

#[tokio::test(start_paused = true)]
async fn what_may_be_sent_again_depends_on_the_effect_and_on_the_request() {
    let (config, now) = (config(), Instant::now());
    let unknown = Verdict::failure(Kind::Transient);
    for (repeatable, verdict, stop) in [
        (false, unknown, Some(Stop::NotIdempotent)),
        (false, unknown.not_sent(), None),
        (true, unknown, None),
    ] {
        let facts = Facts { repeatable, ..FACTS };
        let next = next(&mut Session::new(config.clone().into(), None, now), &config, verdict, facts);
        assert_eq!(
            matches!(next, Next::Stop(_)).then_some(next),
            stop.map(Next::Stop),
            "{repeatable} {verdict:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_hint_that_fits_is_not_made_too_late_by_its_jitter() {
    let (config, now) = (config(), Instant::now());
    let facts = Facts { deadline: Some(now + secs(10)), ..FACTS };
    for _ in 0..1000 {
        let delay =
            delay(next(&mut Session::new(config.clone().into(), None, now), &config, hinted(9), facts));
        assert!(delay >= secs(9) && delay <= Duration::from_millis(9500), "{delay:?}");
    }
    let next = next(&mut Session::new(config.clone().into(), None, now), &config, hinted(10), facts);
    assert_eq!(next, Next::Stop(Stop::Deadline));
}

#[tokio::test(start_paused = true)]
async fn one_attempt_with_an_unknown_effect_makes_the_whole_call_unsafe() {
    let (config, now) = (config(), Instant::now());
    let facts = Facts { repeatable: false, ..FACTS };
    let not_sent = Verdict::failure(Kind::Transient).not_sent();
    let mut session = Session::new(config.clone().into(), None, now);
    next(&mut session, &config, not_sent, facts);
    assert!(session.safe_to_retry(facts));
    next(&mut session, &config, Verdict::failure(Kind::Transient), facts);
    next(&mut session, &config, not_sent, facts);
    assert!(!session.safe_to_retry(facts));
    assert_eq!(session.verdict(not_sent), Verdict::failure(Kind::Transient));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_paid_for_a_retry_that_is_not_made() {
    let (config, now) = (config().budget(Budget::ratio(0.0, 1).unwrap()), Instant::now());
    let transient = Verdict::failure(Kind::Transient);
    let late = Facts { deadline: Some(now + secs(1)), ..FACTS };
    let stopped = next(&mut Session::new(config.clone().into(), None, now), &config, transient, late);
    assert_eq!(stopped, Next::Stop(Stop::Deadline), "the attempt would start at the deadline");
    let spent = config.clone().max_total_wait(Duration::from_millis(999));
    let stopped = next(&mut Session::new(spent.clone().into(), None, now), &spent, transient, FACTS);
    assert_eq!(stopped, Next::Stop(Stop::TotalWait));
    let no_copy =
        Session::new(config.clone().into(), None, now).next(&config, transient, FACTS, false, || None::<()>);
    assert_eq!(no_copy, Next::Stop(Stop::NotReplayable));
    let rehearsed =
        Session::new(config.clone().into(), None, now).next(&config, transient, FACTS, true, || Some(()));
    assert!(matches!(rehearsed, Next::Retry { .. }));
    assert_eq!(config.budget.tokens(), 1.0);

    let mut session = Session::new(config.clone().into(), None, now);
    assert!(matches!(next(&mut session, &config, transient, FACTS), Next::Retry { .. }));
    assert_eq!(next(&mut session, &config, transient, FACTS), Next::Stop(Stop::Budget));
}

#[tokio::test(start_paused = true)]
async fn what_a_layer_of_ours_refused_costs_nothing() {
    let config = config().retry_refused(true).budget(Budget::ratio(0.0, 1).unwrap());
    let mut session = Session::new(config.clone().into(), None, Instant::now());
    for _ in 0..5 {
        assert!(matches!(
            next(&mut session, &config, Verdict::failure(Kind::Refused), FACTS),
            Next::Retry { .. }
        ));
    }
    assert_eq!(config.budget.tokens(), 1.0);
    // Nor does it count among the failures that gRPC's throttle hears of.
    let config = config.max_retries(5).budget(Budget::grpc_throttle(4, 0.1).unwrap());
    for _ in 0..5 {
        next(
            &mut Session::new(config.clone().into(), None, Instant::now()),
            &config,
            Verdict::failure(Kind::Refused),
            FACTS,
        );
    }
    assert_eq!(config.budget.tokens(), 4.0);
}

/// gRPC A6, transparent retries; RFC 9113 § 8.7.
#[tokio::test(start_paused = true)]
async fn what_a_protocol_gives_back_is_sent_again_once_at_once_and_for_nothing() {
    let unprocessed = Verdict::failure(Kind::Unprocessed);
    for budget in [Budget::ratio(0.0, 1).unwrap(), Budget::grpc_throttle(4, 0.1).unwrap()] {
        let config = config().max_retries(1).budget(budget);
        let tokens = config.budget.tokens();
        let mut session = Session::new(config.clone().into(), None, Instant::now());
        let facts = Facts { repeatable: false, ..FACTS };
        assert_eq!(delay(next(&mut session, &config, unprocessed, facts)), secs(0));
        assert_eq!((session.retries, session.paid, config.budget.tokens()), (0, None, tokens));
        // From then on it is a failure like others, except that it has had no effect.
        assert_eq!(delay(next(&mut session, &config, unprocessed, facts)), secs(1));
        assert_eq!((session.retries, config.budget.tokens()), (1, tokens - 1.0));
        assert_eq!(next(&mut session, &config, unprocessed, facts), Next::Stop(Stop::MaxRetries));
        assert!(session.safe_to_retry(facts));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_given_back_is_sent_again_also_when_all_retries_are_used_up_but_not_after_the_deadline() {
    let (transient, unprocessed) = (Verdict::failure(Kind::Transient), Verdict::failure(Kind::Unprocessed));
    let (config, now) = (config().max_retries(1).budget(Budget::ratio(0.0, 1).unwrap()), Instant::now());
    let mut session = Session::new(config.clone().into(), None, now);
    next(&mut session, &config, transient, FACTS);
    let paid = session.paid;
    assert_eq!(delay(next(&mut session, &config, unprocessed, FACTS)), secs(0));
    assert_eq!((session.retries, session.paid), (1, paid), "it stands for the attempt that was paid for");
    let late = Facts { deadline: Some(now), ..FACTS };
    let stopped = next(&mut Session::new(config.clone().into(), None, now), &config, unprocessed, late);
    assert_eq!(stopped, Next::Stop(Stop::Deadline));
    let none = Facts { max_retries: Some(0), ..FACTS };
    let mut session = Session::new(config.clone().into(), None, now);
    assert_eq!(
        next(&mut session, &config, unprocessed, none),
        Next::Stop(Stop::MaxRetries),
        "there is no copy"
    );
    let mut rehearsed = Session::new(config.clone().into(), None, now);
    for _ in 0..2 {
        let next = rehearsed.next(&config, unprocessed, FACTS, true, || Some(()));
        assert_eq!(delay(next), secs(0), "it is not sent, and so not sent again either");
    }
}

#[tokio::test(start_paused = true)]
async fn a_conflict_is_retried_after_its_hint_and_waits_and_pays_as_throttling_does() {
    let slow = Backoff::exponential(secs(10), 2.0, secs(1000)).unwrap().jitter(Jitter::None);
    let config = config().throttled_backoff(slow).budget(Budget::aws_2_1());
    let conflict = Verdict::failure(Kind::Conflict);
    let mut session = Session::new(config.clone().into(), None, Instant::now());
    assert_eq!(delay(next(&mut session, &config, conflict, FACTS)), secs(10));
    assert_eq!(config.budget.tokens(), 495.0);
    let hinted = conflict.with_hint(Hint::RetryAfter(secs(40)));
    let delay = delay(next(&mut session, &config, hinted, FACTS));
    assert!((secs(40)..=secs(60)).contains(&delay), "{delay:?}");
}
