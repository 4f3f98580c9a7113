//! A store behind the memory: what it spares, and what it never costs.

#[path = "support/origin.rs"]
mod origin;
#[path = "support/process.rs"]
mod process;
mod support;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use buttress_core::{Level, observe_fn};
use buttress_degrade::{Backing, ByKey, Chain, DegradeLayer, Freshness, HttpRules, LastGood, Source};
use buttress_store::{AnswerStore, Fault};
use buttress_testkit::clock::settle;
use buttress_testkit::{Scripted, err, hang, ok};
use origin::Origin;
use process::{Answer, Mode, Process, Store, down};
use support::{ms, secs};
use tokio::task::JoinSet;
use tokio::time::{Instant, advance};
use tower::{Layer, ServiceExt};

/// The rules are those of memory, from the call on.
#[tokio::test(start_paused = true)]
async fn after_a_restart_answers_are_as_old_as_they_are_and_served_by_the_same_rules() {
    let store = Store::new();
    assert_eq!(Process::new(&store, Scripted::new([ok(1).after(secs(1))])).seen("a").await, (0, None, 1));
    advance(secs(100)).await;
    let next = Process::new(&store, down());
    assert_eq!((next.seen("a").await, next.service.calls()), ((0, Some(101), 1), 0));
    assert_eq!((next.seen("b").await, next.service.calls()), ((3, None, 0), 1), "of that nothing is kept");
    advance(secs(509)).await;
    // Too old to be fresh, by the way there: it is refreshed.
    let next = Process::new(&store, down());
    assert_eq!((next.seen("a").await, next.service.calls()), ((1, Some(610), 1), 1));
    advance(secs(90)).await;
    let next = Process::new(&store, down());
    assert_eq!((next.seen("a").await, next.service.calls()), ((2, Some(700), 1), 1));
    advance(secs(1100)).await;
    let next = Process::new(&store, down());
    assert_eq!((next.seen("a").await, next.service.calls()), ((3, None, 0), 1));
}

#[tokio::test(start_paused = true)]
async fn a_hit_of_memory_looks_at_nothing_and_writes_nothing() {
    let (store, start) = (Store::new(), Instant::now());
    let process = Process::new(&store, Scripted::new([ok(1)]));
    for _ in 0..10 {
        process.ask("a").await;
    }
    assert_eq!((store.reads(), store.puts(), process.service.calls()), (1, 1, 1));
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn what_another_process_has_refreshed_is_not_asked_for_again() {
    let store = Store::new();
    let one = Process::new(&store, Scripted::new([ok(1)]));
    let other = Process::new(&store, Scripted::new([ok(2)]));
    one.ask("a").await;
    assert_eq!((other.seen("a").await, other.service.calls()), ((0, Some(0), 1), 0));
    advance(secs(700)).await;
    assert_eq!((other.seen("a").await, other.service.calls()), ((0, None, 2), 1));
    advance(secs(1)).await;
    assert_eq!((one.seen("a").await, one.service.calls()), ((0, Some(1), 2), 1));
    // Nor in the background.
    advance(secs(599)).await;
    other.ask("a").await;
    settle().await;
    assert_eq!((one.seen("a").await, one.service.calls()), ((1, Some(600), 2), 1));
    settle().await;
    assert_eq!((one.seen("a").await, one.service.calls()), ((0, Some(0), 2), 1));
}

#[tokio::test(start_paused = true)]
async fn a_hundred_who_ask_at_once_after_a_restart_in_an_outage_share_one_look_and_one_call() {
    let store = Store::new();
    Process::new(&store, Scripted::new([ok(1)])).ask("a").await;
    advance(secs(700)).await;
    let next = Arc::new(Process::new(&store, Scripted::new([err("down").after(ms(50))])));
    let mut asking = JoinSet::new();
    for _ in 0..100 {
        let next = Arc::clone(&next);
        asking.spawn(async move { next.seen("a").await });
    }
    let seen = asking.join_all().await;
    assert!(seen.iter().all(|seen| *seen == (2, Some(700), 1)), "{seen:?}");
    assert_eq!((store.reads(), next.service.calls()), (2, 1));
}

/// A caller's own time ends while the service hangs: what was found meanwhile is served.
#[tokio::test(start_paused = true)]
async fn what_was_found_is_served_when_the_service_hangs() {
    let store = Store::new();
    Process::new(&store, Scripted::new([ok(1)])).ask("a").await;
    advance(secs(700)).await;
    let next = Process::new(&store, Scripted::new([hang()]));
    assert_eq!(next.seen("a").await, (2, Some(710), 1));
}

#[tokio::test(start_paused = true)]
async fn no_answer_waits_for_a_write_and_a_look_is_waited_for_a_tenth_of_a_second_now_and_then() {
    let store = Store::new();
    store.set(Mode::Hangs);
    let process = Process::new(&store, Scripted::new([ok(1), ok(2), ok(3), ok(4)]));
    let start = Instant::now();
    assert_eq!(process.seen("a").await.2, 1);
    assert_eq!(start.elapsed(), ms(100));
    let told = process.told();
    assert!(told.len() == 1 && told[0].contains("did not answer within 100ms"), "{told:?}");
    for (key, value) in [("b", 2), ("c", 3)] {
        assert_eq!(process.seen(key).await.2, value);
    }
    assert_eq!((start.elapsed(), store.reads()), (ms(100), 1), "it is left alone");
    store.set(Mode::Works);
    tokio::time::sleep(secs(60)).await;
    settle().await;
    let next = Process::new(&store, down());
    assert_eq!([next.seen("a").await.2, next.seen("b").await.2, next.seen("c").await.2], [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_is_told_of_costs_no_call_and_gets_everything_later() {
    for (fault, lasts) in [(Fault::Unavailable, false), (Fault::Full, true), (Fault::Version, true)] {
        let store = Store::new();
        store.set(Mode::Fails(fault));
        let process = Process::new(&store, Scripted::new([ok(1), ok(2)]));
        assert_eq!([process.seen("a").await, process.seen("b").await], [(0, None, 1), (0, None, 2)]);
        let told = process.told();
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains(fault.as_str()) && told[0].contains(&format!("lasts: {lasts}")), "{told:?}");
        // It is asked again after one second, two, four, …
        tokio::time::sleep(secs(100)).await;
        assert!((4..9).contains(&process.told().len()));
        assert_eq!(process.seen("a").await, (0, Some(100), 1), "memory does");
        store.set(Mode::Works);
        tokio::time::sleep(secs(30)).await;
        let next = Process::new(&store, down());
        assert_eq!((next.seen("a").await, next.seen("b").await), ((0, Some(130), 1), (0, Some(130), 2)));
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_told_of_and_replaced() {
    let newer = [&[2][..], &[0; 48], b"1"].concat().leak();
    let other = [&[1][..], &[0; 48], b"\"text\""].concat().leak();
    for (body, why) in [(&*newer, "newer release"), (&b""[..], "cannot be read"), (&*other, "cannot be read")]
    {
        let store = Store::new();
        Process::new(&store, Scripted::new([ok(1)])).ask("a").await;
        store.set(Mode::Gives(body));
        let next = Process::new(&store, Scripted::new([ok(2)]));
        assert_eq!((next.seen("a").await, next.service.calls()), ((0, None, 2), 1));
        let told = next.told();
        assert!(told.len() == 1 && told[0].contains(why), "{told:?}");
        store.set(Mode::Works);
        assert_eq!(Process::new(&store, down()).seen("a").await, (0, Some(0), 2));
    }
}

/// Here the store itself says that it is damaged: others are read all the same.
#[tokio::test(start_paused = true)]
async fn a_damaged_row_is_not_a_store_that_fails() {
    let store = Store::new();
    let process = Process::new(&store, Scripted::new([ok(1)]));
    store.set(Mode::Fails(Fault::Corrupt));
    process.ask("a").await;
    store.set(Mode::Works);
    process.ask("b").await;
    assert_eq!(store.reads(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_invalidated_is_gone_from_the_store_and_for_the_next_process() {
    let store = Store::new();
    let one = Process::new(&store, Scripted::new([ok(1)]));
    for key in ["a", "b", "c"] {
        one.ask(key).await;
    }
    one.memory.invalidate("a");
    settle().await;
    let next = Process::new(&store, down());
    assert_eq!((next.seen("a").await.0, next.seen("b").await.0), (3, 0));
    one.memory.clear();
    settle().await;
    let next = Process::new(&store, down());
    assert_eq!((next.seen("b").await.0, next.seen("c").await.0), (3, 3));
}

#[tokio::test(start_paused = true)]
async fn what_is_invalidated_while_the_store_is_down_is_not_read_here_and_gone_once_it_works() {
    let store = Store::new();
    let one = Process::new(&store, Scripted::new([ok(1), ok(1), err("down")]));
    one.ask("a").await;
    one.ask("b").await;
    store.set(Mode::Fails(Fault::Unavailable));
    one.memory.invalidate("a");
    settle().await;
    store.set(Mode::Works);
    assert_eq!(one.seen("a").await.0, 3, "it waits to be forgotten");
    tokio::time::sleep(secs(2)).await;
    let next = Process::new(&store, down());
    assert_eq!((next.seen("a").await.0, next.seen("b").await.0), (3, 0));
}

/// The call began before, and ended after.
#[tokio::test(start_paused = true)]
async fn an_answer_of_before_the_invalidation_is_brought_back_by_no_process() {
    let store = Store::new();
    let one = Process::new(&store, Scripted::new([ok(1)]));
    one.ask("a").await;
    advance(secs(700)).await;
    let slow = Arc::new(Process::new(&store, Scripted::new([ok(2).after(secs(5))])));
    let asking = tokio::spawn({
        let slow = Arc::clone(&slow);
        async move { slow.seen("a").await }
    });
    advance(secs(1)).await;
    one.memory.invalidate("a");
    settle().await;
    assert_eq!(asking.await.unwrap().2, 2);
    assert_eq!(Process::new(&store, down()).seen("a").await.0, 3);
}

/// The answer was on its way to the store meanwhile.
#[tokio::test(start_paused = true)]
async fn an_answer_that_arrives_after_the_invalidation_is_not_kept() {
    let store = Store::new();
    store.set(Mode::Slow);
    let (one, other) = (Process::new(&store, Scripted::new([ok(1)])), Process::new(&store, down()));
    one.ask("a").await;
    advance(secs(1)).await;
    assert_eq!((one.memory.unwritten(), store.puts()), (1, 0));
    other.memory.invalidate("a");
    settle().await;
    tokio::time::sleep(secs(5)).await;
    assert_eq!((one.memory.unwritten(), store.puts()), (0, 1));
    assert_eq!(Process::new(&store, down()).seen("a").await.0, 3);
}

#[tokio::test(start_paused = true)]
async fn what_waits_to_be_written_is_bounded_and_memory_keeps_all() {
    let store = Store::new();
    store.set(Mode::Fails(Fault::Unavailable));
    let process = Process::new(&store, Scripted::new([ok(1)]));
    // Whoever hears of it may look.
    let memory = process.memory.clone();
    let looks = observe_fn(move |_, _| {
        assert!(memory.unwritten() + memory.in_flight() <= 1026);
    });
    let layer = process.layer.clone().observe(looks);
    for key in 0..1100 {
        layer.layer(process.service.clone()).oneshot(key.to_string()).await.unwrap();
    }
    assert_eq!(process.memory.len(), 1100);
    let overflowed = |told: &String| told.contains("too many answers wait");
    assert_eq!(process.told().into_iter().filter(overflowed).count(), 1, "told once");
    store.set(Mode::Works);
    tokio::time::sleep(secs(60)).await;
    settle().await;
    assert_eq!(store.puts(), 1024);
    assert_eq!(process.memory.shutdown(secs(1)).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_waits_for_what_is_to_be_written_as_long_as_it_may() {
    let store = Store::new();
    store.set(Mode::Fails(Fault::Unavailable));
    let process = Process::new(&store, Scripted::new([ok(1)]));
    process.ask("a").await;
    let start = Instant::now();
    assert_eq!((process.memory.shutdown(ms(100)).await, start.elapsed()), (1, ms(100)));
    store.set(Mode::Works);
    assert_eq!(process.memory.shutdown(secs(10)).await, 0);
    assert_eq!(Process::new(&store, down()).seen("a").await.2, 1);
}

#[tokio::test(start_paused = true)]
async fn the_store_is_trimmed_to_its_bound() {
    let store = Store::new();
    let backing = Backing::new(store.clone(), "prices").unwrap().max_bytes(10_000);
    let key: fn(&String) -> Option<Cow<'_, str>> = |request| Some(request.as_str().into());
    let memory = LastGood::new(ByKey::new(key)).backed_by(backing);
    let chain = Chain::<String, Answer>::new();
    let layer = DegradeLayer::new("prices", chain).unwrap().last_good(memory.clone()).unwrap();
    for index in 0..500 {
        layer.layer(Scripted::new([ok(1)])).oneshot(index.to_string()).await.unwrap();
        settle().await;
        advance(ms(1)).await;
    }
    let left = store.inner.trim("prices", 0, u32::MAX).await.unwrap();
    assert!((30..60).contains(&left), "{left}");
}

#[tokio::test(start_paused = true)]
async fn where_an_answer_comes_from_is_said_as_of_memory() {
    let store = Store::new();
    Process::new(&store, Scripted::new([ok(1)])).ask("a").await;
    let answer = Process::new(&store, down()).ask("a").await;
    assert_eq!(answer.level(), Level::Full);
    let source = answer.into_parts().1.map(|served| served.source());
    assert_eq!(source, Some(Source::LastGood { freshness: Freshness::Fresh }));
}

/// Vary, validators, lifetimes and ages of HTTP survive, and so does what is nobody else's business.
#[tokio::test(start_paused = true)]
async fn http_is_served_after_a_restart_as_before_it() {
    use origin::{body, get, layer, response, seen};
    let store = Store::new();
    let process = || {
        let memory = origin::store(HttpRules::private());
        layer(&memory.backed_by(Backing::new(store.clone(), "search").unwrap()))
    };
    let headers = [("cache-control", "max-age=60"), ("age", "10"), ("etag", "\"1\""), ("vary", "accept")];
    let origin = Origin::new(move |_| Ok(response(200, &headers, "one")));
    assert_eq!(body(&process(), &origin, &[("accept", "text/html")]).await, "one");
    advance(secs(20)).await;
    let hit = seen(&process(), &origin, get(&[("accept", "text/html")])).await.unwrap();
    assert_eq!((hit.body.as_str(), hit.age.as_deref(), origin.calls()), ("one", Some("30"), 1));
    assert_eq!(hit.cache.as_deref(), Some("buttress; hit; ttl=30"));
    assert_eq!(body(&process(), &origin, &[("accept", "text/plain")]).await, "one");
    assert_eq!(origin.calls(), 2, "another variant");
    advance(secs(60)).await;
    origin.then(|request| {
        assert_eq!(request.headers()["if-none-match"], "\"1\"");
        Ok(response(304, &[("cache-control", "max-age=60")], ""))
    });
    let confirmed = seen(&process(), &origin, get(&[("accept", "text/plain")])).await.unwrap();
    assert_eq!((confirmed.body.as_str(), origin.calls()), ("one", 3));
    assert_eq!(confirmed.cache.as_deref(), Some("buttress; fwd=stale; fwd-status=304; ttl=60"));
    origin.down();
    assert_eq!(body(&process(), &origin, &[("accept", "text/plain")]).await, "one");
}

#[tokio::test(start_paused = true)]
async fn what_must_not_be_kept_or_names_a_credential_does_not_leave_the_process() {
    use origin::{body, layer, response};
    type Fields = &'static [(&'static str, &'static str)];
    let asked: [(Fields, Fields); 3] = [
        (&[("authorization", "Bearer a")], &[("cache-control", "max-age=60")]),
        (&[], &[("cache-control", "no-store")]),
        (&[], &[("cache-control", "max-age=60"), ("vary", "x-api-key")]),
    ];
    for (request, headers) in asked {
        let store = Store::new();
        let memory = origin::store(HttpRules::private());
        let layer = layer(&memory.backed_by(Backing::new(store.clone(), "search").unwrap()));
        let origin = Origin::new(move |_| Ok(response(200, headers, "one")));
        assert_eq!(body(&layer, &origin, request).await, "one");
        assert_eq!(store.puts(), 0, "{request:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_wants_it_confirmed_gets_nothing_that_only_the_store_has_confirmed_to_others() {
    use origin::{body, get, layer, response, seen};
    const KEEPS: &[(&str, &str)] = &[("cache-control", "max-age=60")];
    let store = Store::new();
    let process = || {
        layer(&origin::store(HttpRules::private()).backed_by(Backing::new(store.clone(), "search").unwrap()))
    };
    assert_eq!(body(&process(), &Origin::new(|_| Ok(response(200, KEEPS, "one"))), &[]).await, "one");
    settle().await;
    let (process, origin) = (process(), Origin::new(|_| Ok(response(200, KEEPS, "two"))));
    // Both wait for one look.
    let (plain, strict) = tokio::join!(
        seen(&process, &origin, get(&[])),
        seen(&process, &origin, get(&[("cache-control", "no-cache")]))
    );
    assert_eq!((plain.unwrap().body.as_str(), strict.unwrap().body.as_str()), ("one", "two"));
    assert_eq!(origin.calls(), 1);
}
