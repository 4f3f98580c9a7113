//! What is ready-made, at work in a supervisor.

mod support;

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress_core::observe::{Health, PageKind};
use buttress_core::{BoxError, Trim};
use buttress_heal::{
    Build, ClearCaches, LoadLimit, Monitor, Reload, ResponseTimeCheck, Supervisor, Symptom, check_fn,
    circuit_breaker, pool_use, queue_depth,
};
use support::{Pages, actions, secs};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tower::{Layer, Service, ServiceExt, service_fn};

/// A service that knows its password by heart.
#[derive(Clone)]
struct Login {
    knows: String,
    wanted: watch::Receiver<String>,
}

impl Login {
    async fn ping(self) -> Result<(), &'static str> {
        if self.knows == *self.wanted.borrow() { Ok(()) } else { Err("password refused") }
    }
}

#[tokio::test(start_paused = true)]
async fn credentials_that_have_expired_are_read_anew_and_the_service_is_rebuilt_with_them() {
    let (vault, wanted) = watch::channel("one".to_owned());
    let (secret, known) = watch::channel("one".to_owned());
    let server = wanted.clone();
    let pages = Pages::new();
    let (_service, handle) = Supervisor::new("db", move |_: Build| {
        let (knows, wanted) = (known.borrow().clone(), server.clone());
        async move { Ok::<_, BoxError>(Login { knows, wanted }) }
    })
    .check(check_fn("login", Symptom::Credentials, Login::ping))
    .rung(Reload::new("read password", move || {
        secret.send_replace(wanted.borrow().clone());
        async { Ok::<_, BoxError>(()) }
    }))
    .pager(Arc::clone(&pages))
    .spawn()
    .unwrap();
    sleep(secs(60)).await;
    vault.send_replace("two".to_owned());
    sleep(secs(120)).await;
    assert_eq!(actions(&handle), ["read password"]);
    let status = handle.status();
    assert_eq!((status.generation, status.incident), (2, None), "it was cured, and is over");
    assert!(pages.told().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_reload_that_fails_is_a_failed_attempt_with_its_reason() {
    let pages = Pages::new();
    let (_service, handle) = Supervisor::new("db", |_: Build| async { Ok::<_, BoxError>(()) })
        .check(check_fn("login", Symptom::Credentials, |()| async { Err("password refused") }))
        .rung(Reload::new("read password", || async { Err::<(), _>("the vault is sealed") }))
        .pager(Arc::clone(&pages))
        .spawn()
        .unwrap();
    sleep(secs(600)).await;
    assert_eq!(actions(&handle), ["read password", "read password"], "two attempts, 60 s apart");
    assert_eq!(pages.kinds(), [PageKind::Trigger]);
    assert!(pages.told()[0].text.contains("the vault is sealed"), "{}", pages.told()[0].text);
}

/// A service that does ten calls at a time, each in 50 ms, and gets slower with more.
fn overloaded(
    under_way: &Arc<AtomicUsize>,
) -> impl Service<(), Response = (), Error = BoxError, Future: Send> + Clone + Send + use<> {
    let under_way = Arc::clone(under_way);
    service_fn(move |()| {
        let under_way = Arc::clone(&under_way);
        async move {
            let calls = under_way.fetch_add(1, SeqCst) + 1;
            sleep(Duration::from_millis(50) * u32::try_from(calls.div_ceil(10)).unwrap()).await;
            under_way.fetch_sub(1, SeqCst);
            Ok(())
        }
    })
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_overloaded_gets_less_to_do_until_it_answers_in_time_and_then_slowly_more() {
    let (under_way, pages) = (Arc::new(AtomicUsize::new(0)), Pages::new());
    let limit = LoadLimit::new("search", 64).unwrap();
    let (client, handle) = Supervisor::new("search", {
        let service = overloaded(&under_way);
        move |_: Build| std::future::ready(Ok::<_, BoxError>(service.clone()))
    })
    .check(
        Monitor::new(ResponseTimeCheck::new(Duration::from_millis(125)).percent(20).unwrap()).every(secs(1)),
    )
    .rung(limit.clone())
    .pager(Arc::clone(&pages))
    .spawn()
    .unwrap();
    let client = limit.layer(client);
    // A crowd of 60 for a minute and a half, and then a handful.
    let crowd = |callers: usize, for_how_long: Duration| {
        let client = client.clone();
        async move {
            let end = Instant::now() + for_how_long;
            let callers = (0..callers).map(|_| {
                let client = client.clone();
                tokio::spawn(async move {
                    let mut refused = 0_u32;
                    while Instant::now() < end {
                        if client.clone().oneshot(()).await.is_err() {
                            refused += 1;
                            sleep(Duration::from_millis(100)).await;
                        }
                    }
                    refused
                })
            });
            let mut refused = 0;
            for caller in callers.collect::<Vec<_>>() {
                refused += caller.await.unwrap();
            }
            refused
        }
    };
    assert!(crowd(60, secs(30)).await > 0);
    assert_eq!(limit.under_way(), 0);
    let incident = handle.incident().unwrap();
    assert!(actions(&handle).iter().all(|action| action == "shed load") && limit.limit() < 64);
    assert!(incident.to_string().contains("calls took longer than 125 ms"), "{incident}");
    assert_eq!(crowd(5, secs(150)).await, 0, "there is room for all");
    assert_eq!((limit.limit(), handle.incident().is_none()), (64, true));
    let cured = format!("{:?}", handle.ledger());
    assert!(cured.contains("shed load"), "{cured}");
    assert!(pages.told().is_empty(), "{:?}", pages.told());
}

/// A store that counts what is asked of it.
#[derive(Clone, Default)]
struct Store(Arc<(AtomicUsize, AtomicUsize)>);

impl Trim for Store {
    fn purge(&self) -> usize {
        self.0.0.fetch_add(1, SeqCst)
    }

    fn shrink_to(&self, bytes: usize) {
        assert_eq!(bytes, 500);
        self.0.1.fetch_add(1, SeqCst);
    }

    fn bytes(&self) -> usize {
        1000
    }
}

/// HD-20 for memory, and what a dead dependency must not do: only want of memory clears caches.
#[tokio::test(start_paused = true)]
async fn want_of_memory_clears_caches_twice_and_a_dead_dependency_never_does() {
    for (symptom, expected) in [(Symptom::Memory, (2, 2, 1)), (Symptom::Connectivity, (0, 0, 0))] {
        let (store, cleared) = (Store::default(), Arc::new(AtomicUsize::new(0)));
        let counts = Arc::clone(&cleared);
        let heal = ClearCaches::new().trim(store.clone()).cache(move || {
            counts.fetch_add(1, SeqCst);
        });
        let (_service, handle) = Supervisor::new("db", |_: Build| async { Ok::<_, BoxError>(()) })
            .check(check_fn("sick", symptom, |()| async { Err("it is") }))
            .rung(heal)
            .spawn()
            .unwrap();
        sleep(secs(600)).await;
        let (purged, shrunk) = (store.0.0.load(SeqCst), store.0.1.load(SeqCst));
        assert_eq!((cleared.load(SeqCst), purged, shrunk), expected);
        assert!(handle.incident().is_some_and(|incident| incident.is_escalated()));
    }
}

#[tokio::test(start_paused = true)]
async fn readings_open_incidents_with_their_own_severity() {
    use buttress_core::observe::CircuitState;
    let (depth, open) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (queue, circuit) = (Arc::clone(&depth), Arc::clone(&open));
    let (_service, handle) = Supervisor::new("db", |_: Build| async { Ok::<_, BoxError>(()) })
        .check(queue_depth(10, move || queue.load(SeqCst)))
        .check(circuit_breaker(move || {
            if circuit.load(SeqCst) == 1 { CircuitState::Open } else { CircuitState::Closed }
        }))
        .spawn()
        .unwrap();
    sleep(secs(30)).await;
    assert_eq!(handle.health(), Health::Healthy);
    depth.store(11, SeqCst);
    sleep(secs(10)).await;
    assert_eq!(handle.health(), Health::Degraded);
    open.store(1, SeqCst);
    sleep(secs(10)).await;
    assert_eq!(handle.health(), Health::Unhealthy);
    let incident = handle.incident().unwrap().to_string();
    assert!(incident.contains("queue depth (queue): 11 are waiting, more than 10"), "{incident}");
    depth.store(0, SeqCst);
    open.store(0, SeqCst);
    sleep(secs(120)).await;
    assert!(handle.incident().is_none());
}

/// A pool of ten connections, each generation with its own.
#[tokio::test(start_paused = true)]
async fn a_pool_whose_connections_never_come_back_is_replaced_and_a_burst_is_none() {
    type Pool = Arc<AtomicUsize>;
    let pools: Arc<Mutex<Vec<Pool>>> = Arc::default();
    let built = Arc::clone(&pools);
    let (_service, handle) = Supervisor::new("db", move |_: Build| {
        let pool = Pool::default();
        built.lock().unwrap().push(Arc::clone(&pool));
        std::future::ready(Ok::<_, BoxError>(pool))
    })
    .check(pool_use(90, |pool: &Pool| (pool.load(SeqCst), 10)).unwrap())
    .spawn()
    .unwrap();
    let used = |connections| pools.lock().unwrap().last().unwrap().store(connections, SeqCst);
    sleep(secs(30)).await;
    for _ in 0..20 {
        used(10);
        sleep(secs(3)).await;
        used(2);
        sleep(secs(27)).await;
    }
    assert!(
        actions(&handle).is_empty() && handle.incidents().is_empty(),
        "busy for three seconds, each half minute"
    );
    used(10);
    sleep(secs(120)).await;
    assert_eq!(actions(&handle), ["reset pool"]);
    assert_eq!((pools.lock().unwrap().len(), handle.incident().is_none()), (2, true));
    assert_eq!(handle.incidents()[0].worst(), Health::Degraded);
}
