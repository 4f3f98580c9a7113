//! Calls in the caller's own task: nothing has to be `Send` or `'static`, and what is dropped is abandoned.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress_core::{Event, IdempotencyResult as Is, find, observe_fn};
use buttress_idempotency::{Config, Error, Hash, Idempotency, Keyed, Ran, RunError};
use buttress_store::{Fingerprint, Memory, ScopedKey};
use buttress_testkit::clock::{advance, poll_in_task, settle};
use tokio::sync::Notify;
use tower::{Layer, ServiceExt, service_fn};

fn key(name: &str) -> ScopedKey {
    ScopedKey::try_new("", name).unwrap()
}

fn same() -> Fingerprint {
    Hash::new().fingerprint()
}

/// A request that borrows, and that cannot be sent to another thread.
#[derive(Clone)]
struct Order<'a> {
    id: &'a str,
    amount: u64,
    paid: Rc<Cell<u64>>,
}

fn orders<'a>() -> Keyed<Order<'a>, u64> {
    Keyed::new(
        |order: &Order<'a>| Some(order.id.into()),
        |order, hash: Hash| hash.part(order.amount.to_be_bytes()),
    )
}

#[tokio::test(start_paused = true)]
async fn a_service_that_borrows_and_is_not_send_is_called_once() {
    let idempotency = Idempotency::new("orders", Memory::new(), Config::new()).unwrap();
    let (id, journal) = (String::from("order-42"), RefCell::new(Vec::new()));
    let service = idempotency.layer(orders()).inline().layer(service_fn(|order: Order<'_>| {
        journal.borrow_mut().push(order.amount);
        async move {
            order.paid.set(order.paid.get() + order.amount);
            Ok::<_, io::Error>(order.paid.get())
        }
    }));
    let order = |amount| Order { id: &id, amount, paid: Rc::default() };
    assert_eq!(service.clone().oneshot(order(100)).await.unwrap(), 100);
    let again = order(100);
    assert_eq!(service.clone().oneshot(again.clone()).await.unwrap(), 100);
    assert_eq!(again.paid.get(), 0, "it was replayed");
    let error = service.clone().oneshot(order(101)).await.unwrap_err();
    assert!(matches!(find(&*error), Some(Error::Mismatch)), "{error}");
    assert_eq!(*journal.borrow(), [100]);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_is_abandoned_and_its_key_lapses() {
    let seen: Arc<Mutex<Vec<Is>>> = Arc::default();
    let log = Arc::clone(&seen);
    let idempotency = Idempotency::new("orders", Memory::new(), Config::new()).unwrap();
    let idempotency = idempotency.observe(observe_fn(move |_, event| {
        if let Event::Idempotency(result) = event {
            log.lock().unwrap().push(*result);
        }
    }));
    let (go, ended) = (Notify::new(), Cell::new(0));
    let service = idempotency.layer(orders()).inline().layer(service_fn(|order: Order<'_>| {
        let (go, ended) = (&go, &ended);
        async move {
            go.notified().await;
            ended.set(ended.get() + 1);
            Ok::<_, io::Error>(order.amount)
        }
    }));
    let order = || Order { id: "order-42", amount: 100, paid: Rc::default() };
    let mut call = Box::pin(service.clone().oneshot(order()));
    assert!(poll_in_task(&mut call).await.is_pending());
    drop(call);
    go.notify_one();
    settle().await;
    assert_eq!((ended.get(), idempotency.detached()), (0, 0), "nothing goes on");
    let error = service.clone().oneshot(order()).await.unwrap_err();
    assert!(matches!(find(&*error), Some(Error::InFlight { .. })), "{error}");
    assert_eq!(*seen.lock().unwrap(), [Is::Unknown, Is::InFlight]);
    advance(Duration::from_secs(31)).await;
    assert_eq!((service.oneshot(order()).await.unwrap(), ended.get()), (100, 1), "rerun after the lease");
}

#[tokio::test(start_paused = true)]
async fn a_function_runs_once_and_is_abandoned_when_it_is_dropped() {
    let idempotency = Idempotency::new("orders", Memory::new(), Config::new()).unwrap();
    let runs = Rc::new(Cell::new(0));
    let effect = |_| {
        let runs = Rc::clone(&runs);
        async move {
            runs.set(runs.get() + 1);
            Ok::<_, io::Error>(runs.get())
        }
    };
    assert_eq!(idempotency.run_inline(key("a"), same(), effect).await.unwrap(), Ran::Executed(1));
    assert_eq!(idempotency.run_inline(key("a"), same(), effect).await.unwrap(), Ran::Replayed(1));
    let other = Hash::new().part("other").fingerprint();
    let mismatch = idempotency.run_inline(key("a"), other, effect).await.unwrap_err();
    assert!(matches!(mismatch, RunError::Idempotency(Error::Mismatch)), "{mismatch}");

    let hangs = |_| std::future::pending::<Result<u64, io::Error>>();
    let mut call = Box::pin(idempotency.run_inline(key("b"), same(), hangs));
    assert!(poll_in_task(&mut call).await.is_pending());
    drop(call);
    let refused = idempotency.run_inline(key("b"), same(), effect).await.unwrap_err();
    assert!(matches!(refused, RunError::Idempotency(Error::InFlight { .. })), "{refused}");
    advance(Duration::from_secs(31)).await;
    assert_eq!(idempotency.run_inline(key("b"), same(), effect).await.unwrap(), Ran::Executed(2));
}
