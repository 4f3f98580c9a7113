use std::future::poll_fn;
use std::task::Poll;
use std::time::{Duration, Instant};

use buttress_core::{Kind, Reason, Refused, Verdict, find, own_verdict};
use buttress_testkit::clock::{advance, settle};
use buttress_testkit::{err, ok};
use tower::{Service, ServiceExt};

use super::support::{BREAK_FIRST, MAKE_FIRST, MS, Make, Warm, Works, at_once, call, calls, unavailable};
use crate::{SwapSettings, Unavailable, Why};

/// HD-34.
#[tokio::test(start_paused = true)]
async fn while_a_critical_service_is_rebuilt_so_many_calls_wait_and_the_others_fail_at_once() {
    let works = Works::new([at_once([ok(1)]), Make::After(MS(200), vec![ok(2)])]);
    let (mut generations, service) = works.generations(SwapSettings::default());
    generations.first().await.unwrap();
    let swap =
        tokio::spawn(async move { generations.swap(BREAK_FIRST, 0, &Warm).await.map(|_| generations) });
    settle().await;
    let start = tokio::time::Instant::now();
    let tasks = (0..200).map(|request| {
        let service = service.clone();
        tokio::spawn(async move { (call(&service, request).await, start.elapsed()) })
    });
    let (mut waited, mut refused) = (0, 0);
    for task in tasks.collect::<Vec<_>>() {
        match task.await.unwrap() {
            (Ok(answer), after) => {
                assert_eq!((answer, after), (2, MS(200)));
                waited += 1;
            }
            (error, after) => {
                let unavailable = unavailable(error);
                assert!(after < MS(5), "{after:?}");
                assert_eq!(unavailable.why(), Why::Replacing);
                // It was made 200 ms ago.
                assert_eq!(unavailable.refused().retry_at(), Some(start + MS(250)));
                refused += 1;
            }
        }
    }
    assert_eq!((waited, refused), (64, 136));
    swap.await.unwrap().unwrap();
}

/// HD-34, where the rebuild outlasts the wait.
#[tokio::test(start_paused = true)]
async fn no_call_waits_longer_than_it_may_and_its_place_goes_to_the_next() {
    let works = Works::new([at_once([ok(1)]), Make::After(MS(600), vec![ok(2)])]);
    let (mut generations, service) = works.generations(SwapSettings::default().wait_for_swap(1, MS(250)));
    generations.first().await.unwrap();
    let swap =
        tokio::spawn(async move { generations.swap(BREAK_FIRST, 0, &Warm).await.map(|_| generations) });
    settle().await;
    for _ in 0..2 {
        let start = tokio::time::Instant::now();
        assert_eq!(unavailable(call(&service, 0).await).why(), Why::Replacing);
        assert_eq!(start.elapsed(), MS(250));
    }
    assert_eq!(call(&service, 0).await.unwrap(), 2);
    swap.await.unwrap().unwrap();
}

fn runtimes() -> [tokio::runtime::Runtime; 2] {
    let current = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let several =
        tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_time().build().unwrap();
    [current, several]
}

/// HD-36. In real time: a lost wake-up would take five seconds, or for ever.
#[test]
fn all_who_wait_for_the_first_connection_are_woken_by_it_within_a_tenth_of_a_second() {
    const ROUNDS: usize = 20;
    for runtime in runtimes() {
        for callers in [10, 1000] {
            // On a machine that has other things to do, tasks that only sleep take their time as well.
            let mut rounds = (0..ROUNDS).map(|_| runtime.block_on(first_connection(callers)));
            let in_time = rounds.any(|(took, sleepers)| took < MS(100).max(sleepers * 5));
            assert!(in_time, "{callers} callers take longer each time");
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "in real time")]
async fn timed<T>(work: impl Future<Output = T>) -> (Duration, T) {
    let start = Instant::now();
    let output = work.await;
    (start.elapsed(), output)
}

/// How long it takes until so many callers have their answers, where the first connection takes 20 ms, and how long until as many
/// tasks have slept as long.
async fn first_connection(callers: u64) -> (Duration, Duration) {
    let sleepers = async {
        let tasks: Vec<_> = (0..callers).map(|_| tokio::spawn(tokio::time::sleep(MS(20)))).collect();
        for task in tasks {
            task.await.unwrap();
        }
    };
    let (slept, ()) = timed(sleepers).await;
    let works = Works::new([Make::After(MS(20), vec![ok(1)])]);
    let (mut generations, service) = works.generations(SwapSettings::default());
    let first = tokio::spawn(async move { generations.first().await.map(|_| generations) });
    let (took, outcomes) = timed(calls(&service, callers)).await;
    assert_eq!(outcomes.into_iter().filter(|outcome| matches!(outcome, Ok(1))).count() as u64, callers);
    assert_eq!(works.builds.lock().unwrap().len(), 1);
    drop(first.await.unwrap().unwrap());
    (took, slept)
}

/// HD-36, on a clock on which nothing but the connection takes time.
#[tokio::test(start_paused = true)]
async fn all_who_wait_for_the_first_connection_are_woken_when_it_stands() {
    for callers in [10, 1000] {
        let works = Works::new([Make::After(MS(20), vec![ok(1)])]);
        let (mut generations, service) = works.generations(SwapSettings::default());
        let start = tokio::time::Instant::now();
        let first = tokio::spawn(async move { generations.first().await.map(|_| generations) });
        assert_eq!(calls(&service, callers).await.into_iter().filter(Result::is_ok).count() as u64, callers);
        assert_eq!(start.elapsed(), MS(20));
        first.await.unwrap().unwrap();
    }
}

/// HD-36: each is an instance that waits in `poll_ready`, of which some are dropped while they wait.
#[tokio::test(start_paused = true)]
async fn whoever_goes_away_while_waiting_takes_no_wake_up_along() {
    let works = Works::new([Make::After(MS(20), vec![ok(1)])]);
    let (mut generations, service) = works.generations(SwapSettings::default().wait_at_start(100, MS(1000)));
    let waiting: Vec<_> = (0..100)
        .map(|_| {
            let mut service = service.clone();
            tokio::spawn(async move { service.ready().await.unwrap().call(0).await })
        })
        .collect();
    settle().await;
    assert_eq!(unavailable(call(&service, 0).await).why(), Why::Starting, "all places are taken");
    waiting.iter().step_by(2).for_each(tokio::task::JoinHandle::abort);
    settle().await;
    let late = calls(&service, 50);
    let first = async { generations.first().await };
    let (late, first) = tokio::join!(late, first);
    first.unwrap();
    assert!(late.iter().all(Result::is_ok));
    for (n, task) in waiting.into_iter().enumerate() {
        match task.await {
            Ok(answer) => assert_eq!((answer.unwrap(), n % 2), (1, 1)),
            Err(aborted) => assert!(aborted.is_cancelled() && n % 2 == 0),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn callers_wait_while_it_is_tried_again_and_not_between() {
    let works = Works::new([Make::Fail("refused"), Make::After(MS(50), vec![ok(1)])]);
    let (mut generations, service) = works.generations(SwapSettings::default());
    generations.first().await.unwrap_err();
    let refused = unavailable(call(&service, 0).await);
    assert_eq!(
        refused.to_string(),
        "`db` is unavailable: its connection could not be made: refused; try again in 1 s"
    );
    let (answer, first) = tokio::join!(biased(call(&service, 0)), generations.first());
    assert_eq!((answer.unwrap(), first.unwrap()), (1, 1));
}

/// Asked a moment later than what is joined with it.
async fn biased<F: Future>(future: F) -> F::Output {
    tokio::task::yield_now().await;
    future.await
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_one_to_every_layer_and_names_the_incident() {
    let works = Works::new([Make::Fail("no route to host")]);
    let (mut generations, service) = works.generations(SwapSettings::default());
    generations.first().await.unwrap_err();
    generations.view().escalate(Some("db-7".into()));
    let error = call(&service, 0).await.unwrap_err();
    assert_eq!(find::<Refused>(&*error).unwrap().reason(), Reason::Unavailable);
    let verdict = own_verdict(&*error).unwrap();
    assert!(matches!(verdict, Verdict::Failure { kind: Kind::Refused, .. }));
    assert_eq!(verdict, verdict.not_sent());
    let unavailable = find::<Unavailable>(&*error).unwrap();
    assert_eq!((unavailable.incident(), unavailable.refused().name()), (Some("db-7"), "db"));
    assert!(unavailable.to_string().contains("no route to host (incident db-7)"), "{unavailable}");
    generations.view().escalate(None);
    assert_eq!(find::<Unavailable>(&*call(&service, 0).await.unwrap_err()).unwrap().incident(), None);
}

#[tokio::test(start_paused = true)]
async fn after_shutdown_calls_are_refused_and_those_under_way_have_their_time() {
    let works = Works::new([at_once([ok(1).after(MS(300)), ok(1).after(MS(5000))])]);
    let (mut generations, service) = works.generations(SwapSettings::default());
    generations.first().await.unwrap();
    let both = service.clone();
    let both = tokio::spawn(async move { calls(&both, 2).await });
    settle().await;
    let start = tokio::time::Instant::now();
    let view = generations.view();
    let shutdown = tokio::spawn(async move { generations.shutdown(MS(1000)).await });
    settle().await;
    assert_eq!(unavailable(call(&service, 0).await).why(), Why::ShutDown);
    shutdown.await.unwrap();
    assert_eq!(start.elapsed(), MS(1000));
    let outcomes = both.await.unwrap();
    assert_eq!(*outcomes[0].as_ref().unwrap(), 1);
    assert!(outcomes[1].as_ref().unwrap_err().to_string().contains("cut off"));
    settle().await;
    assert_eq!((works.alive().0, view.current().is_none()), (0, true));
}

#[tokio::test(start_paused = true)]
async fn without_its_supervisor_a_service_goes_on_with_what_it_has_and_nobody_waits_for_nothing() {
    let works = Works::new([at_once([ok(1).after(MS(100)), ok(2)])]);
    let (mut generations, service) = works.generations(SwapSettings::default());
    generations.first().await.unwrap();
    let under_way = service.clone();
    let under_way = tokio::spawn(async move { call(&under_way, 0).await });
    settle().await;
    drop(generations);
    assert_eq!((call(&service, 0).await.unwrap(), under_way.await.unwrap().unwrap()), (2, 1));

    let (generations, service) = Works::default().generations(SwapSettings::default());
    let waits = service.clone();
    let waits = tokio::spawn(async move { call(&waits, 0).await });
    settle().await;
    let start = tokio::time::Instant::now();
    drop(generations);
    unavailable(waits.await.unwrap());
    assert_eq!(unavailable(call(&service, 0).await).why(), Why::ShutDown);
    assert_eq!(start.elapsed(), MS(0));
}

#[tokio::test(start_paused = true)]
async fn a_supervisor_learns_when_nobody_has_its_service_any_more() {
    let works = Works::new([at_once([ok(1).after(MS(100)), err("down")]), at_once([ok(2)])]);
    let (mut generations, service) = works.generations(SwapSettings::default());
    generations.first().await.unwrap();
    let view = generations.view();
    let unused = tokio::spawn(poll_fn(move |cx| match view.is_unused(cx) {
        true => Poll::Ready(()),
        false => Poll::Pending,
    }));
    let clone = service.clone();
    drop(service);
    generations.swap(MAKE_FIRST, 0, &Warm).await.unwrap();
    settle().await;
    assert!(!unused.is_finished());
    let call = clone.oneshot(0);
    advance(MS(1)).await;
    drop(call);
    unused.await.unwrap();
}
