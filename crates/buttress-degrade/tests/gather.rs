//! Several services at once, and the level of a system.

mod support;

use buttress_core::{BoxError, ErrorsAreFailures, Event, Kind, Level, Verdict, classify_fn, observe_fn};
use buttress_degrade::{
    ByKey, Cause, Chain, DegradationRegistry, DegradeLayer, Degraded, Gather, LastGood, Need, Partial, Rung,
};
use buttress_testkit::{Scripted, err, hang, ok};
use std::future::pending;
use std::sync::{Arc, Mutex, mpsc};
use support::{ms, secs};
use tokio::time::{Instant, advance};
use tower::{Layer, ServiceExt};

type Answer = Degraded<u32>;

async fn good(value: u32) -> Result<Answer, BoxError> {
    Ok(Degraded::full(value))
}

fn missing(partial: &Partial<Answer>) -> Vec<(&str, Level, Cause)> {
    partial.shortfalls().iter().map(|part| (part.component(), part.level(), part.cause())).collect()
}

/// HD-63.
#[tokio::test(start_paused = true)]
async fn a_slow_part_is_cut_off_at_the_soft_deadline_and_its_late_answer_is_kept_for_the_next_time() {
    let rules = ByKey::new(|request: &String| Some(request.as_str().into()));
    let store = LastGood::new(rules).ttl(secs(60));
    let layer =
        DegradeLayer::new("slow", Chain::<String, Answer>::new()).unwrap().last_good(store.clone()).unwrap();
    let inner = Scripted::new([ok(3).after(ms(500))]);
    let gather = || {
        let slow = layer.layer(inner.clone()).oneshot("a".to_owned());
        let gather =
            Gather::new().part("one", Need::Weight(1), good(1)).part("two", Need::Weight(1), good(2));
        gather.part("slow", Need::Weight(1), slow).soft_deadline(ms(200))
    };
    let start = Instant::now();
    let partial = gather().await;
    assert_eq!(start.elapsed(), ms(200));
    assert_eq!((partial.level(), partial.get("one").unwrap().get_ref()), (Level::Moderate, &1));
    assert_eq!(missing(&partial), [("slow", Level::Failed, Cause::Elapsed)]);
    tokio::time::sleep(ms(301)).await;
    assert_eq!(store.len(), 1, "it came late, and is there");
    let mut partial = gather().await;
    assert_eq!((start.elapsed(), inner.calls(), partial.level()), (ms(501), 1, Level::Full));
    assert_eq!((partial.take("slow").unwrap().into_inner(), partial.score()), (3, 100.0));
}

#[tokio::test(start_paused = true)]
async fn it_ends_when_all_have_answered_and_drops_what_has_not() {
    let hanging = Scripted::<u32>::new([hang()]);
    let layer = DegradeLayer::new("slow", Chain::<u64, Answer>::new()).unwrap();
    let start = Instant::now();
    let gather = Gather::new().part("one", Need::Required, good(1)).soft_deadline(secs(60));
    assert_eq!((gather.await.level(), start.elapsed()), (Level::Full, ms(0)));
    let gather = Gather::new().part("slow", Need::Required, layer.layer(hanging.clone()).oneshot(1));
    let partial = gather.soft_deadline(ms(10)).await;
    assert_eq!((partial.level(), hanging.counts().dropped), (Level::Failed, 1));
    assert_eq!(Gather::<Answer>::new().await.level(), Level::Full, "nothing is missing of nothing");
}

/// HD-65.
#[tokio::test(start_paused = true)]
async fn the_list_is_sorted_and_exact_and_the_age_is_that_of_the_oldest() {
    let stale = async |name: &str, age| {
        let store = LastGood::new(ByKey::new(|_: &u64| Some("a".into()))).ttl(secs(1)).negative_ttl(secs(0));
        let layer = DegradeLayer::new(name, Chain::<u64, Answer>::new()).unwrap().last_good(store).unwrap();
        let service = layer.layer(Scripted::new([ok(1), err("down")]));
        service.clone().oneshot(1).await.unwrap();
        advance(age).await;
        service
    };
    let young = stale("young", secs(20)).await.oneshot(1);
    let old = stale("old", secs(30)).await.oneshot(1);
    let partial = Gather::new()
        .part("zeta", Need::Weight(1), young)
        .part("alpha", Need::Weight(1), old)
        .part("mid", Need::Weight(1), async { Err::<Answer, _>(BoxError::from("down")) })
        .part("mid", Need::Weight(1), async { Err::<Answer, _>(BoxError::from("down")) })
        .part("fine", Need::Weight(1), good(1))
        .part("never", Need::Weight(0), pending::<Result<Answer, BoxError>>())
        .soft_deadline(ms(1))
        .await;
    let failed = Cause::Failed(Kind::Transient);
    let expected = [
        ("alpha", Level::Moderate, failed),
        ("mid", Level::Failed, failed),
        ("never", Level::Failed, Cause::Elapsed),
        ("zeta", Level::Moderate, failed),
    ];
    assert_eq!(missing(&partial), expected);
    assert_eq!((partial.age(), partial.level()), (Some(secs(50)), Level::Moderate));
    let served = partial.served().unwrap();
    assert_eq!(
        (served.level(), served.age(), served.shortfalls().len()),
        (Level::Moderate, Some(secs(50)), 4)
    );
    assert_eq!(
        partial.into_answers().map(|(name, _)| name.to_string()).collect::<Vec<_>>(),
        ["alpha", "fine", "zeta"]
    );
}

#[tokio::test(start_paused = true)]
async fn the_level_of_a_system_is_told_at_once_and_declared_step_by_step() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&heard);
    let registry = DegradationRegistry::new("checkout").observe(observe_fn(move |name, event| {
        if let Event::SystemLevel { instant, declared } = event {
            record.lock().unwrap().push((name.to_owned(), instant.as_u8(), declared.as_u8()));
        }
    }));
    let prices = registry.component("prices", Need::Required);
    let layer = DegradeLayer::new("prices", Chain::<u64, Answer>::new()).unwrap().report_to(prices);
    let service = layer.layer(Scripted::new([err("down"), ok(1)]));
    let mut watch = registry.watch();
    let running = registry.clone();
    let running = tokio::spawn(async move { running.run().await });

    service.clone().oneshot(1).await.unwrap_err();
    let levels = registry.levels();
    assert_eq!((levels.instant, levels.declared), (Level::Failed, Level::Slight));
    tokio::time::sleep(secs(31)).await;
    let levels = *watch.borrow_and_update();
    assert_eq!((levels.instant, levels.declared), (Level::Failed, Level::Failed), "by itself");
    service.clone().oneshot(1).await.unwrap();
    let levels = registry.levels();
    assert_eq!((levels.instant, levels.declared), (Level::Full, Level::Failed));
    tokio::time::sleep(secs(125)).await;
    assert_eq!(registry.levels().declared, Level::Full);
    running.abort();
    let seen: Vec<_> =
        heard.lock().unwrap().iter().map(|(_, instant, declared)| (*instant, *declared)).collect();
    assert_eq!(seen, [(4, 1), (4, 2), (4, 3), (4, 4), (0, 4), (0, 3), (0, 2), (0, 1), (0, 0)]);
}

#[tokio::test(start_paused = true)]
async fn beyond_the_maximum_the_system_says_that_it_is_degraded_and_by_what() {
    let registry = DegradationRegistry::new("checkout").max_acceptable(Level::Slight);
    let [prices, reviews] = ["prices", "reviews"].map(|name| registry.component(name, Need::Weight(1)));
    assert_eq!(registry.check(), Ok(Level::Full));
    reviews.report(Level::Failed);
    let error = registry.check().unwrap_err();
    assert_eq!(
        error.to_string(),
        "`checkout` is degraded to level 2 (moderate), and 1 (slight) is the worst that is acceptable; degraded: `reviews`"
    );
    advance(secs(3)).await;
    reviews.report(Level::Slight);
    assert!(registry.check().is_ok());
    registry.force(Some(Level::Minimal));
    assert_eq!((registry.levels().instant, registry.check().is_err()), (Level::Minimal, true));
    registry.force(None);
    assert_eq!((registry.levels().instant, prices.level()), (Level::Slight, Level::Full));
    assert_eq!(registry.component("prices", Need::Required).name(), "prices");
    assert_eq!(registry.components().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn where_some_calls_fail_and_others_do_not_the_level_is_that_of_those_that_do() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&heard);
    let registry = DegradationRegistry::new("shop").observe(observe_fn(move |_, event| {
        if let Event::SystemLevel { instant, .. } = event {
            record.lock().unwrap().push(*instant);
        }
    }));
    let search = registry.component("search", Need::Required);
    let watch = registry.watch();
    for call in 0..1000 {
        search.report(if call % 10 == 0 { Level::Failed } else { Level::Full });
        assert!(registry.check().is_err(), "call {call}");
        advance(ms(100)).await;
    }
    advance(secs(2)).await;
    search.report(Level::Full);
    assert_eq!((registry.levels().instant, watch.borrow().instant), (Level::Full, Level::Full));
    let heard = heard.lock().unwrap();
    let changes = heard.iter().zip(&heard[1..]).filter(|(before, after)| before != after).count();
    assert_eq!(changes, 1, "it does not flap: {heard:?}");
}

/// Whoever is told last is told what is true.
#[test]
fn changes_are_told_in_the_order_in_which_they_happen() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&told);
    let (slow, is_slow) = mpsc::channel();
    let (go_on, gone_on) = mpsc::channel();
    let gone_on = Mutex::new(gone_on);
    let registry = DegradationRegistry::new("shop").observe(observe_fn(move |_, event| {
        let Event::SystemLevel { instant, .. } = event else { return };
        if *instant == Level::Failed {
            slow.send(()).unwrap();
            gone_on.lock().unwrap().recv().unwrap();
        }
        record.lock().unwrap().push(*instant);
    }));
    let other = registry.clone();
    let first = std::thread::spawn(move || other.force(Some(Level::Failed)));
    is_slow.recv().unwrap();
    registry.force(Some(Level::Minimal));
    go_on.send(()).unwrap();
    first.join().unwrap();
    assert_eq!(*told.lock().unwrap(), [Level::Failed, Level::Minimal]);
}

#[tokio::test(start_paused = true)]
async fn a_drill_answers_from_the_rungs_below_and_leaves_the_service_alone() {
    let registry = DegradationRegistry::new("checkout");
    let prices = registry.component("prices", Need::Required);
    let store = LastGood::new(ByKey::new(|request: &u64| Some(request.to_string().into()))).ttl(secs(60));
    let replica = Scripted::new([ok(5)]);
    let chain = Chain::<u64, Answer>::new()
        .rung(Rung::alternate("replica", replica.clone(), ErrorsAreFailures))
        .finally(Level::Minimal, "static", |_| 0);
    let layer = DegradeLayer::new("prices", chain).unwrap().report_to(prices.clone());
    let (plain, stored) = (layer.clone().leaked(), layer.last_good(store).unwrap());
    let inner = Scripted::new([ok(1)]);
    for (level, expected) in [(Level::Slight, 5), (Level::Minimal, 0)] {
        prices.set_drill(level);
        let Ok(answer) = plain.layer(inner.clone()).oneshot(1).await;
        let Ok(same) = stored.layer(inner.clone()).oneshot(1).await;
        assert_eq!((*answer.get_ref(), answer.level(), *same.get_ref()), (expected, level, expected));
    }
    assert_eq!((inner.calls(), replica.calls(), prices.level()), (0, 2, Level::Minimal));
    prices.set_drill(Level::Full);
    advance(secs(3)).await;
    let Ok(answer) = plain.layer(inner.clone()).oneshot(1).await;
    assert_eq!((answer.into_inner(), prices.level()), (1, Level::Full));
}

/// A drill shows what an outage would, stored answers included.
#[tokio::test(start_paused = true)]
async fn a_drill_answers_from_the_store_as_an_outage_would() {
    let search = DegradationRegistry::new("shop").component("search", Need::Required);
    let store = LastGood::new(ByKey::new(|request: &u64| Some(request.to_string().into()))).ttl(secs(10));
    let layer = DegradeLayer::new("search", Chain::<u64, Answer>::new()).unwrap().report_to(search.clone());
    let layer = layer.last_good(store).unwrap();
    let inner = Scripted::new([ok(1), err("down")]);
    let service = layer.layer(inner.clone());
    service.clone().oneshot(1).await.unwrap();
    advance(secs(30)).await;
    for drill in [Level::Moderate, Level::Full] {
        search.set_drill(drill);
        let answer = service.clone().oneshot(1).await.unwrap();
        assert_eq!((answer.level(), answer.age(), *answer.get_ref()), (Level::Moderate, Some(secs(30)), 1));
        assert_eq!(inner.calls(), if drill == Level::Full { 2 } else { 1 });
    }
    // There is nothing for another key, nor anything as bad as that.
    search.set_drill(Level::Moderate);
    assert!(service.clone().oneshot(2).await.is_err());
    search.set_drill(Level::Minimal);
    assert!(service.clone().oneshot(1).await.is_err());
    assert_eq!(inner.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn parts_without_a_layer_of_their_own_are_told_to_the_registry_by_the_whole() {
    let registry = DegradationRegistry::new("shop");
    let gather =
        || Gather::new().soft_deadline(ms(200)).report_to(&registry).part("a", Need::Required, good(1));
    gather()
        .part("b", Need::Weight(2), broken())
        .part("c", Need::Weight(0), pending::<Result<Answer, BoxError>>())
        .await;
    let levels = || registry.components().iter().map(|part| part.level().as_u8()).collect::<Vec<_>>();
    assert_eq!((levels(), registry.levels().instant), (vec![0, 4, 4], Level::Minimal));
    advance(secs(3)).await;
    let at_fault = classify_fn(|outcome: Result<&Answer, _>| match outcome {
        Ok(_) => Verdict::Success,
        Err(_) => Verdict::Rejected,
    });
    gather()
        .part("b", Need::Weight(2), good(2))
        .judged_part("d", Need::Required, at_fault, async { Err::<Answer, BoxError>("bad".into()) })
        .await;
    assert_eq!(levels(), [0, 0, 4], "the caller is at fault, and the service is well");
    advance(secs(3)).await;
    gather().part("b", Need::Weight(2), good(2)).await;
    assert_eq!((levels(), registry.levels().instant), (vec![0, 0, 4], Level::Slight));
}

async fn broken() -> Result<Answer, BoxError> {
    tokio::task::yield_now().await;
    panic!("a bug of this part")
}

#[tokio::test(start_paused = true)]
async fn a_part_that_panics_is_missing_and_the_others_are_there() {
    let context = Gather::new()
        .part("a", Need::Weight(1), async { Ok::<_, BoxError>(Degraded::full(1)) })
        .part("b", Need::Weight(1), broken())
        .await;
    assert_eq!((context.get("a").map(Degraded::get_ref), context.get("b").is_none()), (Some(&1), true));
    assert_eq!(context.shortfalls()[0].cause(), Cause::Panicked);
}
