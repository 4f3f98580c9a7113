//! Retry over a protocol of one's own: requests that carry things, are not all repeatable, and whose responses have to
//! be disposed of.

mod common;

use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use buttress_core::{
    Backoff, BoxError, Carried, Carry, Classify, Discard, Effect, ErrorRef, Event, Exhausted, Hint, KeyOf,
    Kind, Replay, Stop, Verdict, error_verdict, find,
};
use buttress_retry::{Budget, Config, HintRule, RetryLayer};
use buttress_testkit::{Scripted, err, recorder};
use common::{every, exhausted, layer, ms};
use tokio::time::Instant;
use tower::util::BoxCloneService;
use tower::{Layer, Service, ServiceExt};

/// A request with a deadline and a limit of its own, whose second application does its work twice.
#[derive(Clone, Debug, Default)]
struct Order {
    carried: Option<Carried>,
}

/// Responses of which each must be disposed of or delivered.
#[derive(Debug, PartialEq)]
struct Receipt {
    code: u32,
    carried: Option<Carried>,
}

/// What a protocol of one's own needs.
#[derive(Clone, Default)]
struct Orders {
    discarded: Arc<Mutex<Vec<u32>>>,
    discard_takes: Duration,
    repeatable: bool,
}

impl Classify<Receipt> for Orders {
    fn classify(&self, outcome: Result<&Receipt, ErrorRef<'_>>) -> Verdict {
        match outcome {
            Ok(receipt) if receipt.code == 429 => {
                Verdict::failure(Kind::Throttled).with_hint(Hint::RetryAfter(ms(10_000)))
            }
            Ok(receipt) if receipt.code == 425 => Verdict::failure(Kind::Unprocessed),
            Ok(receipt) if receipt.code >= 500 => Verdict::failure(Kind::Transient),
            Ok(_) => Verdict::Success,
            Err(error) => error_verdict(error),
        }
    }
}

macro_rules! carries {
    ($message:ty) => {
        impl Carry<$message> for Orders {
            const ACTIVE: bool = true;
            fn carried<'a>(&self, message: &'a $message) -> Option<&'a Carried> {
                message.carried.as_ref()
            }
            fn carry(&self, message: &mut $message, change: impl FnOnce(&mut Carried)) {
                change(message.carried.get_or_insert_default());
            }
        }
    };
}
carries!(Order);
carries!(Receipt);

impl Discard<Receipt> for Orders {
    type Future = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;
    fn discard(&self, receipt: Receipt) -> Self::Future {
        let (discarded, takes) = (Arc::clone(&self.discarded), self.discard_takes);
        Box::pin(async move {
            tokio::time::sleep(takes).await;
            discarded.lock().unwrap().push(receipt.code);
        })
    }
}

impl KeyOf<Order> for Orders {
    fn key<'a>(&self, _: &'a Order) -> Option<std::borrow::Cow<'a, str>> {
        None
    }
}

impl Replay<Order> for Orders {
    type Request = Order;
    type Saved = Order;
    fn is_repeatable(&self, _: &Order) -> bool {
        self.repeatable
    }
    fn once(&self, order: Order) -> Order {
        order
    }
    fn record(&self, order: Order) -> Order {
        order
    }
    fn keep(&self, order: &Order) -> Order {
        order.clone()
    }
    fn replay(&self, saved: &mut Order) -> Option<Order> {
        Some(saved.clone())
    }
}

type Seen = Arc<Mutex<Vec<u32>>>;

/// Answers with these codes in turn, 0 being a lost connection; records the number of each attempt.
fn orders(
    orders: &Orders,
    config: Config,
    codes: &'static [u32],
) -> (BoxCloneService<Order, Receipt, BoxError>, Seen) {
    let seen = Seen::default();
    let attempts = Arc::clone(&seen);
    let inner = tower::service_fn(move |order: Order| {
        let mut attempts = attempts.lock().unwrap();
        attempts.push(order.carried.unwrap_or_default().attempt);
        let code = codes[(attempts.len() - 1).min(codes.len() - 1)];
        let lost = || BoxError::from("lost");
        std::future::ready(if code == 0 { Err(lost()) } else { Ok(Receipt { code, carried: None }) })
    });
    let layer = RetryLayer::new("orders", config).unwrap().policy(orders.clone()).replay(orders.clone());
    (BoxCloneService::new(layer.layer(inner)), seen)
}

///
#[tokio::test(start_paused = true)]
async fn thrown_away_responses_are_disposed_of_and_the_last_is_delivered() {
    let policy = Orders { repeatable: true, ..Orders::default() };
    let (service, seen) = orders(&policy, every(2, ms(10)), &[500, 502, 503]);
    let receipt = service.oneshot(Order::default()).await.unwrap();
    assert_eq!(receipt.code, 503, "a real answer stays one");
    assert_eq!(*policy.discarded.lock().unwrap(), [500, 502]);
    assert_eq!(*seen.lock().unwrap(), [0, 2, 3], "the attempt's number travels from the second on");
    assert_eq!(receipt.carried.unwrap().attempt, 3, "and comes back with the answer");
}

///
#[tokio::test(start_paused = true)]
async fn an_answer_that_was_given_up_on_says_why_and_a_good_one_says_nothing() {
    let policy = Orders { repeatable: true, ..Orders::default() };
    let one_in_hand = || every(3, ms(10)).budget(Budget::ratio(0.1, 1).unwrap());
    let cases = [
        (every(2, ms(10)), &[503][..], 60_000, Some((3, Some(Stop::MaxRetries)))),
        (every(0, ms(10)), &[503], 60_000, Some((0, Some(Stop::MaxRetries)))),
        (every(2, ms(10)), &[503], 15, Some((2, Some(Stop::Deadline)))),
        (one_in_hand(), &[503], 60_000, Some((2, Some(Stop::Budget)))),
        (every(2, ms(10)), &[503, 200], 60_000, Some((2, None))),
        (every(2, ms(10)), &[200], 60_000, None),
    ];
    for (config, codes, deadline, told) in cases {
        let (service, _) = orders(&policy, config, codes);
        let mut order = Order::default();
        policy.carry(&mut order, |carried| carried.deadline = Some(Instant::now() + ms(deadline)));
        let receipt = service.oneshot(order).await.unwrap();
        assert_eq!(receipt.carried.map(|carried| (carried.attempt, carried.stop)), told, "{codes:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn disposal_runs_during_the_delay_and_may_outlast_it() {
    for (takes, total) in [(ms(30), ms(100)), (ms(130), ms(130))] {
        let policy = Orders { repeatable: true, discard_takes: takes, ..Orders::default() };
        let (service, _) = orders(&policy, every(1, ms(100)), &[500, 200]);
        let started = Instant::now();
        let receipt = service.oneshot(Order::default()).await.unwrap();
        assert_eq!((receipt.code, started.elapsed()), (200, total));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_repeatable_is_retried_only_if_it_was_not_sent() {
    let (service, seen) = orders(&Orders::default(), every(3, ms(1)), &[0, 200]);
    let error = service.oneshot(Order::default()).await.unwrap_err();
    let exhausted = exhausted(&error);
    assert_eq!((exhausted.stop, exhausted.safe_to_retry), (Stop::NotIdempotent, false));
    assert_eq!(seen.lock().unwrap().len(), 1);

    let refused = Arc::new(Mutex::new(0));
    let attempts = Arc::clone(&refused);
    let inner = tower::service_fn(move |_: Order| {
        *attempts.lock().unwrap() += 1;
        let error = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        async { Err::<Receipt, _>(error) }
    });
    let policy = Orders::default();
    let layer = RetryLayer::new("orders", every(3, ms(1))).unwrap().policy(policy.clone()).replay(policy);
    let error = layer.layer(inner).oneshot(Order::default()).await.unwrap_err();
    let exhausted = find::<Exhausted>(&*error).unwrap();
    assert_eq!(
        (*refused.lock().unwrap(), exhausted.stop, exhausted.safe_to_retry),
        (4, Stop::MaxRetries, true)
    );
    assert!(matches!(exhausted.verdict, Verdict::Failure { effect: Effect::NotSent, .. }));
}

#[tokio::test(start_paused = true)]
async fn no_retry_starts_that_would_begin_after_the_deadline() {
    let policy = Orders { repeatable: true, ..Orders::default() };
    let (service, seen) = orders(&policy, every(9, ms(100)), &[0]);
    let mut order = Order::default();
    policy.carry(&mut order, |carried| carried.deadline = Some(Instant::now() + ms(250)));
    let started = Instant::now();
    let error = service.oneshot(order).await.unwrap_err();
    assert_eq!((exhausted(&error).stop, seen.lock().unwrap().len()), (Stop::Deadline, 3));
    assert_eq!(started.elapsed(), ms(200), "it fails at once, not at the deadline");
}

#[tokio::test(start_paused = true)]
async fn a_request_may_bring_its_own_limit() {
    let policy = Orders { repeatable: true, ..Orders::default() };
    for (own, attempts) in [(0, 1), (1, 2), (5, 6)] {
        let (service, seen) = orders(&policy, every(3, ms(1)), &[500]);
        let mut order = Order::default();
        policy.carry(&mut order, |carried| carried.max_retries = Some(own));
        assert_eq!(service.oneshot(order).await.unwrap().code, 500);
        assert_eq!(seen.lock().unwrap().len(), attempts);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_may_bring_its_own_delays() {
    let policy = Orders { repeatable: true, ..Orders::default() };
    let config = every(2, ms(10)).throttled_backoff(Backoff::constant(ms(1000))).hints(HintRule::Ignore);
    for (codes, own, total) in [
        (&[500, 500, 200], None, ms(20)),
        (&[500, 500, 200], Some(ms(70)), ms(140)),
        (&[429, 500, 200], None, ms(1010)),
        (&[429, 500, 200], Some(ms(70)), ms(140)),
    ] {
        let (service, _) = orders(&policy, config.clone(), codes);
        let mut order = Order::default();
        policy.carry(&mut order, |carried| {
            carried.backoff = own.map(|delay| Arc::new(Backoff::constant(delay)));
        });
        let started = Instant::now();
        assert_eq!(service.oneshot(order).await.unwrap().code, 200);
        assert_eq!(started.elapsed(), total, "{codes:?} {own:?}");
    }
}

/// A copy that turns out to be gone when it is needed.
#[derive(Clone)]
struct Gone;

impl Replay<()> for Gone {
    type Request = ();
    type Saved = ();
    fn is_repeatable(&self, (): &()) -> bool {
        true
    }
    fn once(&self, (): ()) {}
    fn record(&self, (): ()) {}
    fn keep(&self, (): &()) {}
    fn replay(&self, (): &mut ()) -> Option<()> {
        None
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_cannot_be_replayed_is_sent_once_and_an_event_says_so() {
    let (observer, events) = recorder();
    let script = Scripted::<u32>::new([err("down")]);
    let retry = layer(every(3, ms(1)).budget(Budget::ratio(0.0, 5).unwrap())).replay(Gone).observe(observer);
    let error = retry.layer(script.clone()).oneshot(()).await.unwrap_err();
    let exhausted = exhausted(&error);
    assert_eq!((script.calls(), exhausted.attempts, exhausted.stop), (1, 1, Stop::NotReplayable));
    assert!(exhausted.safe_to_retry, "whoever still has the request may send it");
    assert!(events.lock().unwrap().contains(&Event::GaveUp { attempts: 1, stop: Stop::NotReplayable }));
    assert_eq!(retry.budget().tokens(), 5.0, "and nothing was paid");
}

#[tokio::test(start_paused = true)]
async fn what_may_be_repeated_is_safe_to_retry_also_where_no_retry_was_allowed() {
    for retries in [0, 1] {
        let error = layer(every(retries, ms(1)))
            .layer(Scripted::<u32>::new([err("down")]))
            .oneshot(())
            .await
            .unwrap_err();
        assert!(exhausted(&error).safe_to_retry, "{retries} retries");
    }
}

/// Ready for the first call, and then never again.
#[derive(Clone, Default)]
struct Closing(Arc<Mutex<bool>>);

impl Service<()> for Closing {
    type Response = ();
    type Error = BoxError;
    type Future = std::future::Ready<Result<(), BoxError>>;
    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(if *self.0.lock().unwrap() { Err("closed".into()) } else { Ok(()) })
    }
    fn call(&mut self, (): ()) -> Self::Future {
        *self.0.lock().unwrap() = true;
        std::future::ready(Err(Box::new(std::io::Error::from(std::io::ErrorKind::ConnectionRefused))))
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_whose_service_cannot_become_ready_sent_nothing_and_took_no_time() {
    let (observer, events) = recorder();
    let retry = layer(every(1, ms(1000))).observe(observer);
    let error = retry.layer(Closing::default()).oneshot(()).await.unwrap_err();
    assert_eq!(exhausted(&error).verdict, Verdict::failure(Kind::Transient).not_sent());
    let events = events.lock().unwrap();
    let second = events.iter().find(|event| matches!(event, Event::Attempt { number: 2, .. })).unwrap();
    assert!(matches!(second, Event::Attempt { elapsed: Duration::ZERO, .. }), "{second:?}");
}

/// gRPC A6
#[tokio::test(start_paused = true)]
async fn what_is_given_back_is_sent_again_at_once_as_the_same_attempt() {
    let (observer, events) = recorder();
    let policy = Orders::default();
    let script = [425, 200].map(|code| Receipt { code, carried: None });
    let answers = Arc::new(Mutex::new(script.into_iter().rev().collect::<Vec<_>>()));
    let numbers = Seen::default();
    let seen = Arc::clone(&numbers);
    let inner = tower::service_fn(move |order: Order| {
        seen.lock().unwrap().push(order.carried.unwrap_or_default().attempt);
        std::future::ready(Ok::<_, BoxError>(answers.lock().unwrap().pop().unwrap()))
    });
    let layer = layer(every(1, ms(1000)).budget(Budget::ratio(0.0, 1).unwrap()));
    let layer = layer.policy(policy.clone()).replay(policy.clone()).observe(observer);
    let started = Instant::now();
    let receipt = layer.layer(inner).oneshot(Order::default()).await.unwrap();
    assert_eq!((receipt.code, started.elapsed(), layer.budget().tokens()), (200, ms(0), 1.0));
    assert_eq!(*policy.discarded.lock().unwrap(), [425], "and the answer that gave it back is disposed of");
    assert!(receipt.carried.is_none(), "one attempt");
    assert_eq!(*numbers.lock().unwrap(), [0, 1]);
    let events = events.lock().unwrap();
    let attempts: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::Attempt { number, verdict, .. } => Some((*number, *verdict)),
            _ => None,
        })
        .collect();
    assert_eq!(attempts, [(1, Verdict::failure(Kind::Unprocessed)), (1, Verdict::Success)]);
    let backoff = Event::Backoff { retry: 1, delay: ms(0), kind: Kind::Unprocessed, hint: None };
    assert!(events.contains(&backoff), "{events:?}");
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_no_retry_gets_none_not_even_of_what_was_given_back() {
    let policy = Orders::default();
    let (service, seen) = orders(&policy, every(0, ms(1)), &[425, 200]);
    assert_eq!(service.oneshot(Order::default()).await.unwrap().code, 425);
    assert_eq!(seen.lock().unwrap().len(), 1);
}
