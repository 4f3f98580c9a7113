//! The rate gate: one throttled answer holds back everybody who asks the same server.

mod common;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress_core::{
    BoxError, Carried, Carry, Classify, Discard, ErrorRef, Event, Exhausted, Hint, KeyOf, Kind, Mode, Reason,
    Refused, Verdict, error_verdict, find, observe_fn,
};
use buttress_retry::{Budget, Config, HintRule, Retry, RetryLayer};
use buttress_testkit::clock::settle;
use common::ms;
use tokio::time::Instant;
use tower::limit::ConcurrencyLimitLayer;
use tower::util::BoxCloneService;
use tower::{Layer, Service, ServiceExt};

/// A request for a host, with the codes that its attempts are answered with; 200 once they are used up.
#[derive(Clone, Debug, Default)]
struct Order {
    host: &'static str,
    codes: Arc<Mutex<Vec<u32>>>,
    carried: Option<Carried>,
}

fn order(codes: &[u32]) -> Order {
    Order { codes: Arc::new(Mutex::new(codes.iter().rev().copied().collect())), ..Order::default() }
}

impl Order {
    fn carrying(mut self, change: impl FnOnce(&mut Carried)) -> Self {
        change(self.carried.get_or_insert_default());
        self
    }

    fn until(self, deadline: Duration) -> Self {
        self.carrying(|carried| carried.deadline = Some(Instant::now() + deadline))
    }
}

/// 429 and 409 come with this hint.
#[derive(Clone)]
struct Orders(Duration);

impl Classify<u32> for Orders {
    fn classify(&self, outcome: Result<&u32, ErrorRef<'_>>) -> Verdict {
        match outcome {
            Ok(429) => Verdict::failure(Kind::Throttled).with_hint(Hint::RetryAfter(self.0)),
            Ok(409) => Verdict::failure(Kind::Conflict).with_hint(Hint::RetryAfter(self.0)),
            Ok(500) => Verdict::failure(Kind::Transient),
            Ok(_) => Verdict::Success,
            Err(error) => error_verdict(error),
        }
    }
}

impl Carry<Order> for Orders {
    const ACTIVE: bool = true;
    fn carried<'a>(&self, order: &'a Order) -> Option<&'a Carried> {
        order.carried.as_ref()
    }
    fn carry(&self, order: &mut Order, change: impl FnOnce(&mut Carried)) {
        change(order.carried.get_or_insert_default());
    }
}

impl Carry<u32> for Orders {
    const ACTIVE: bool = false;
    fn carried<'a>(&self, _: &'a u32) -> Option<&'a Carried> {
        None
    }
    fn carry(&self, _: &mut u32, _: impl FnOnce(&mut Carried)) {}
}

impl Discard<u32> for Orders {
    type Future = std::future::Ready<()>;
    fn discard(&self, _: u32) -> Self::Future {
        std::future::ready(())
    }
}

impl KeyOf<Order> for Orders {
    fn key<'a>(&self, order: &'a Order) -> Option<std::borrow::Cow<'a, str>> {
        Some(order.host.into())
    }
}

/// As elsewhere, with the gate.
fn every(retries: u32, delay: Duration) -> Config {
    common::every(retries, delay).rate_gate(true)
}

struct Rig {
    layer: RetryLayer<Orders>,
    service: BoxCloneService<Order, u32, BoxError>,
    /// When each attempt was sent.
    sent: Arc<Mutex<Vec<Duration>>>,
}

impl Rig {
    fn new(hint: Duration, config: Config) -> Self {
        let sent = Arc::new(Mutex::new(Vec::new()));
        let (record, start) = (Arc::clone(&sent), Instant::now());
        let inner = tower::service_fn(move |order: Order| {
            record.lock().unwrap().push(start.elapsed());
            let code = order.codes.lock().unwrap().pop().unwrap_or(200);
            std::future::ready(Ok::<_, BoxError>(code))
        });
        let layer = RetryLayer::new("orders", config).unwrap().policy(Orders(hint));
        Self { service: BoxCloneService::new(layer.layer(inner)), layer, sent }
    }

    async fn call(&self, order: Order) -> Result<u32, BoxError> {
        self.service.clone().oneshot(order).await
    }

    /// One call that is throttled and not retried.
    async fn throttle(&self) {
        let order = order(&[429]).carrying(|carried| carried.max_retries = Some(0));
        assert_eq!(self.call(order).await.unwrap(), 429);
    }

    fn sent(&self) -> Vec<Duration> {
        self.sent.lock().unwrap().clone()
    }
}

#[tokio::test(start_paused = true)]
async fn one_throttled_answer_holds_back_all_clones_and_lets_them_go_one_by_one() {
    let rig = Rig::new(ms(10_000), every(0, ms(100)));
    rig.throttle().await;
    let held: Vec<_> = (0..50).map(|_| tokio::spawn(rig.service.clone().oneshot(order(&[])))).collect();
    settle().await;
    assert_eq!(rig.sent().len(), 1, "nothing was sent");
    for held in held {
        assert_eq!(held.await.unwrap().unwrap(), 200);
    }
    let sent = rig.sent();
    assert!(sent[1] >= ms(10_000) && sent[50] <= ms(15_001), "{sent:?}");
    assert!(sent[50] - sent[1] > ms(2000), "spread: {sent:?}");
    let before = Instant::now();
    rig.call(order(&[])).await.unwrap();
    assert_eq!(before.elapsed(), ms(0), "and then the gate is open");
}

#[tokio::test(start_paused = true)]
async fn it_holds_one_key_and_no_other() {
    let rig = Rig::new(ms(10_000), every(0, ms(100)));
    rig.throttle().await;
    rig.call(Order { host: "other", ..order(&[]) }).await.unwrap();
    assert_eq!(rig.sent(), [ms(0), ms(0)]);
}

#[tokio::test(start_paused = true)]
async fn a_conflict_is_waited_for_by_its_own_call_alone() {
    let rig = Rig::new(ms(10_000), every(1, ms(100)));
    let conflict = tokio::spawn(rig.service.clone().oneshot(order(&[409])));
    settle().await;
    rig.call(order(&[])).await.unwrap();
    assert_eq!(rig.sent(), [ms(0), ms(0)]);
    assert_eq!(conflict.await.unwrap().unwrap(), 200);
    assert!(rig.sent()[2] >= ms(10_000), "{:?}", rig.sent());
}

#[tokio::test(start_paused = true)]
async fn it_can_be_opened_by_hand() {
    let rig = Rig::new(ms(10_000), every(0, ms(100)));
    rig.throttle().await;
    rig.layer.open_rate_gate();
    rig.call(order(&[])).await.unwrap();
    assert_eq!(rig.sent(), [ms(0), ms(0)]);
}

#[tokio::test(start_paused = true)]
async fn the_retries_of_other_calls_are_held_too() {
    let rig = Rig::new(ms(10_000), every(1, ms(100)));
    let other = tokio::spawn(rig.service.clone().oneshot(order(&[500])));
    settle().await;
    rig.throttle().await;
    assert_eq!(other.await.unwrap().unwrap(), 200);
    assert!(rig.sent()[2] >= ms(10_000), "{:?}", rig.sent());
}

#[tokio::test(start_paused = true)]
async fn held_calls_ask_again_before_they_go() {
    let rig = Rig::new(ms(10_000), every(0, ms(100)));
    rig.throttle().await;
    let held: Vec<_> = (0..50).map(|_| tokio::spawn(rig.service.clone().oneshot(order(&[429])))).collect();
    settle().await;
    tokio::time::sleep(ms(16_000)).await;
    let sent = rig.sent();
    let soon = sent[1..].iter().filter(|at| **at < sent[1] + ms(10_000)).count();
    assert_eq!(soon, 1, "the first was told to wait again, and so were all");
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn a_held_call_starts_in_time_or_is_refused_at_once() {
    for _ in 0..50 {
        let rig = Rig::new(ms(9000), every(0, ms(100)));
        rig.throttle().await;
        rig.call(order(&[]).until(ms(10_000))).await.unwrap();
        assert!(rig.sent()[1] >= ms(9000) && rig.sent()[1] < ms(10_000), "{:?}", rig.sent());
    }
    let rig = Rig::new(ms(9000), every(0, ms(100)).max_total_wait(ms(8000)));
    rig.throttle().await;
    let before = Instant::now();
    for order in [order(&[]).until(ms(9000)), order(&[])] {
        let error = rig.call(order).await.unwrap_err();
        let refused = find::<Refused>(&*error).unwrap();
        assert_eq!((refused.reason(), refused.retry_after()), (Reason::RateLimited, Some(ms(9000))));
    }
    assert_eq!((before.elapsed(), rig.sent().len()), (ms(0), 1));
}

#[tokio::test(start_paused = true)]
async fn time_in_the_gate_counts_for_the_whole_call() {
    let rig = Rig::new(ms(5000), every(9, ms(3000)).max_total_wait(ms(10_000)));
    rig.throttle().await;
    assert_eq!(rig.call(order(&[500; 20])).await.unwrap(), 500);
    assert!(*rig.sent().last().unwrap() <= ms(10_000), "{:?}", rig.sent());
}

#[tokio::test(start_paused = true)]
async fn a_pause_longer_than_the_cap_refuses_at_once_and_for_no_longer_than_the_cap() {
    let cap = ms(300_000);
    for hints in [HintRule::Floor { cap }, HintRule::Exact { cap }] {
        let rig = Rig::new(ms(86_400_000), every(5, ms(100)).hints(hints));
        rig.throttle().await;
        for left in [cap, ms(1)] {
            let before = Instant::now();
            let error = rig.call(order(&[])).await.unwrap_err();
            let refused = find::<Refused>(&*error).unwrap();
            assert_eq!((refused.reason(), refused.retry_after()), (Reason::RateLimited, Some(left)));
            assert_eq!(before.elapsed(), ms(0), "it is not waited for, {hints:?}");
            tokio::time::advance(cap - ms(1)).await;
        }
        rig.call(order(&[])).await.unwrap();
        // What is within the cap is waited for.
        let rig = Rig::new(cap, every(5, ms(100)).hints(hints));
        rig.throttle().await;
        rig.call(order(&[])).await.unwrap();
        assert!(rig.sent()[1] >= cap, "{:?}", rig.sent());
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_ignores_or_clamps_what_servers_ask_for_is_held_no_longer_than_that() {
    for (hints, longest) in [(HintRule::Ignore, ms(0)), (HintRule::Clamp { extra: ms(5000) }, ms(7500))] {
        let rig = Rig::new(ms(86_400_000), every(5, ms(100)).hints(hints));
        rig.throttle().await;
        let before = Instant::now();
        rig.call(order(&[])).await.unwrap();
        assert!(before.elapsed() <= longest + ms(1), "{hints:?}: {:?}", before.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_the_gate_refuses_says_how_often_it_was_tried_and_is_not_paid_for() {
    let budget = Budget::ratio(0.0, 3).unwrap();
    let rig = Rig::new(ms(3_600_000), every(3, ms(100)).budget(budget.clone()));
    let other = tokio::spawn(rig.service.clone().oneshot(order(&[500])));
    settle().await;
    rig.throttle().await;
    let error = other.await.unwrap().unwrap_err();
    let exhausted = find::<Exhausted>(&*error).unwrap();
    assert_eq!((exhausted.attempts, rig.sent().len()), (1, 2));
    assert!(find::<Refused>(&*error).is_some());
    assert_eq!(budget.tokens(), 3.0);
}

#[tokio::test(start_paused = true)]
async fn observed_it_says_what_it_would_hold_and_holds_nothing() {
    for (mode, would_hold) in [(Mode::Observe, 1), (Mode::Off, 0)] {
        let held = Arc::new(Mutex::new(0));
        let count = Arc::clone(&held);
        let mut rig = Rig::new(ms(10_000), every(0, ms(100)));
        rig.layer = rig.layer.observe(observe_fn(move |_, event| {
            if let Event::Held { enforced: false, .. } = event {
                *count.lock().unwrap() += 1;
            }
        }));
        rig.layer.set_mode(mode);
        rig.throttle().await;
        rig.call(order(&[])).await.unwrap();
        assert_eq!((rig.sent(), *held.lock().unwrap()), (vec![ms(0), ms(0)], would_hold));
    }
}

#[tokio::test(start_paused = true)]
async fn the_function_form_obeys_it() {
    let retry = RetryLayer::new("orders", every(0, ms(1))).unwrap().policy(Orders(ms(10_000)));
    let start = Instant::now();
    retry.run(|| async { Ok::<_, BoxError>(429) }).await.unwrap();
    retry.run(|| async { Ok::<_, BoxError>(200) }).await.unwrap();
    assert!(start.elapsed() >= ms(10_000), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_retry_of_the_function_form_that_the_gate_refuses_says_the_same() {
    let config = every(3, ms(100)).budget(Budget::ratio(0.0, 3).unwrap());
    let retry = RetryLayer::new("orders", config).unwrap().policy(Orders(ms(3_600_000)));
    let other = retry.clone();
    let other = tokio::spawn(async move { other.run(|| async { Ok::<_, BoxError>(500) }).await });
    settle().await;
    retry.run(|| async { Ok::<_, BoxError>(429) }).await.unwrap();
    let error = other.await.unwrap().unwrap_err();
    assert_eq!(find::<Exhausted>(&*error).unwrap().attempts, 1);
    assert!(find::<Refused>(&*error).is_some());
    assert_eq!(retry.budget().tokens(), 3.0);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_held_or_refused_gives_back_what_readiness_had_reserved() {
    for deadline in [ms(1000), ms(60_000)] {
        let codes = |order: Order| {
            std::future::ready(Ok::<_, BoxError>(order.codes.lock().unwrap().pop().unwrap_or(200)))
        };
        let inner = ConcurrencyLimitLayer::new(1).layer(tower::service_fn(codes));
        let mut service: Retry<_, Orders> =
            RetryLayer::new("orders", every(0, ms(1))).unwrap().policy(Orders(ms(10_000))).layer(inner);
        service.ready().await.unwrap().call(order(&[429])).await.unwrap();
        let call = service.ready().await.unwrap().call(order(&[]).until(deadline));
        // Both live on, idle: the service and the call. Somebody else wants the slot.
        let mut other = service.clone();
        let ready = tokio::time::timeout(ms(100), other.ready()).await;
        assert!(ready.is_ok(), "still reserved");
        drop(call);
    }
}
