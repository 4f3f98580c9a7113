//! What a child process does.

use std::convert::Infallible;
use std::io::{BufRead, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use buttress_idempotency::{
    Claim, Config, Hash, Idempotency, IdempotencyKeyLayer, InFlight, Ran, RunError, new_key, stamp_fn,
};
use buttress_store::{ClaimStore, Postgres, Redis, ScopedKey, Sqlite};
use services::apply;
use tower::{Layer, ServiceExt, service_fn};

pub(crate) const ROLE: &str = "BUTTRESS_IDEMPOTENCY_ROLE";
pub(crate) const STORE: &str = "BUTTRESS_IDEMPOTENCY_STORE";
pub(crate) const EFFECTS: &str = "BUTTRESS_IDEMPOTENCY_EFFECTS";

/// Longer than a process needs to start, short enough to be waited for.
const LEASE: Duration = Duration::from_millis(400);

/// It is this program, started again.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "is started by the other tests"]
async fn child() {
    let (Ok(role), Ok(store)) = (std::env::var(ROLE), std::env::var(STORE)) else { return };
    let effects = std::env::var(EFFECTS).unwrap();
    match store.split_once(' ').unwrap() {
        ("sqlite", path) => play(&role, Sqlite::open(path).await.unwrap(), effects).await,
        ("postgres", config) => {
            let options = Postgres::at(config.parse().unwrap());
            play(&role, options.open(tokio_postgres::NoTls).await.unwrap(), effects).await;
        }
        (_, url) => play(&role, Redis::at(url).unwrap().open().await.unwrap(), effects).await,
    }
}

async fn play<St: ClaimStore>(role: &str, store: St, effects: String) {
    // Where nobody dies, a machine that is busy must not look like it.
    let lease = if role == "race" { Duration::from_secs(60) } else { LEASE };
    let config = Config::new().lease(lease).in_flight(InFlight::Wait(Duration::from_secs(30)));
    let charges = Charges { idempotency: Idempotency::new("test", store, config).unwrap(), effects };
    println!("ready");
    match role.split_once(' ').unwrap_or((role, "")) {
        ("race", _) => charges.race().await,
        ("fault", point) => charges.fault(point.to_owned()).await,
        ("work", first) => charges.work(first.parse().unwrap()).await,
        ("again", last) => charges.again(last.parse().unwrap()).await,
        ("answer", answer) => charges.answer(answer.to_owned()).await,
        ("client", file) => send_with_a_key_that_is_kept(file, charges.effects).await,
        (other, _) => panic!("there is no role {other}"),
    }
}

/// Waits until the test says so.
fn wait_for_go() {
    std::io::stdin().lock().read_line(&mut String::new()).unwrap();
}

/// Stops at a point, and says so, to be killed there.
fn stop(at: &'static str) {
    println!("at {at}");
    loop {
        std::thread::park();
    }
}

struct Charges<St> {
    idempotency: Idempotency<St>,
    effects: String,
}

impl<St> Clone for Charges<St> {
    fn clone(&self) -> Self {
        Self { idempotency: self.idempotency.clone(), effects: self.effects.clone() }
    }
}

type Charged = Result<Ran<String>, RunError<std::io::Error>>;

impl<St: ClaimStore> Charges<St> {
    /// Each server of effects has keys of its own.
    fn key(&self, call: usize) -> ScopedKey {
        ScopedKey::try_new(&*self.effects, format!("call-{call}")).unwrap()
    }

    /// One call, with a fault point before and after its effect.
    async fn charge(&self, call: usize, point: impl Fn(&'static str) + Send + 'static) -> Charged {
        let effects = self.effects.clone();
        let effect = async move |claim: Claim| {
            point("after-claim");
            apply(&effects, &format!("call-{call}"), &claim.derive("charge")).await?;
            point("after-effect");
            Ok(format!("charged {call}"))
        };
        self.idempotency.run(self.key(call), Hash::new().part("100").fingerprint(), effect).await
    }

    async fn fault(&self, wanted: String) {
        if wanted == "before-claim" {
            stop("before-claim");
        }
        let inside = wanted.clone();
        let point = move |at| {
            if at == inside {
                stop(at);
            }
        };
        let ran = self.charge(0, point).await.unwrap();
        if wanted == "after-complete" {
            stop("after-complete");
        }
        println!("{ran:?}");
    }

    /// All calls of a range, so many at a time; says what they came to.
    async fn each(&self, calls: std::ops::Range<usize>, at_once: usize, said: fn(usize, Ran<String>)) {
        let next = Arc::new(AtomicUsize::new(calls.start));
        let mut workers = tokio::task::JoinSet::new();
        for _ in 0..at_once {
            let (charges, next) = (self.clone(), Arc::clone(&next));
            workers.spawn(async move {
                loop {
                    let call = next.fetch_add(1, Ordering::Relaxed);
                    if call >= calls.end {
                        return;
                    }
                    said(call, charges.charge(call, |_| {}).await.unwrap());
                }
            });
        }
        workers.join_all().await;
    }

    async fn race(&self) {
        static EXECUTED: AtomicUsize = AtomicUsize::new(0);
        wait_for_go();
        let count = |_, ran: Ran<String>| {
            EXECUTED.fetch_add(usize::from(matches!(ran, Ran::Executed(_))), Ordering::Relaxed);
        };
        self.each(0..1000, 8, count).await;
        println!("executed {}", EXECUTED.load(Ordering::Relaxed));
    }

    /// Calls from a number on, until it is killed; says which are answered.
    async fn work(&self, first: usize) {
        let say = |call, ran: Ran<String>| {
            assert_eq!(ran.into_inner(), format!("charged {call}"));
            println!("answered {call} charged");
        };
        self.each(first..usize::MAX, 4, say).await;
    }

    /// All calls up to a number; says which were not answered before.
    async fn again(&self, last: usize) {
        let say = |call, ran| match ran {
            Ran::Executed(_) => println!("ran {call}"),
            Ran::Replayed(answer) => assert_eq!(answer, format!("charged {call}")),
        };
        self.each(0..last, 8, say).await;
        println!("ran them all");
    }

    async fn answer(&self, answer: String) {
        let effects = self.effects.clone();
        let effect = async move |claim: Claim| {
            println!("running");
            tokio::task::spawn_blocking(wait_for_go).await.unwrap();
            apply(&effects, "call-0", &claim.derive("charge")).await?;
            Ok::<_, std::io::Error>(format!("answer is {answer}"))
        };
        println!("{:?}", self.idempotency.run(self.key(0), Hash::new().fingerprint(), effect).await.unwrap());
    }
}

#[derive(Clone)]
struct Order {
    key: Option<String>,
}

/// A client that keeps the key of its call in a file before it sends it.
async fn send_with_a_key_that_is_kept(file: &str, effects: String) {
    let key = std::fs::read_to_string(file).unwrap_or_else(|_| {
        let key = new_key();
        let mut kept = std::fs::File::create(file).unwrap();
        kept.write_all(key.as_bytes()).unwrap();
        kept.sync_all().unwrap();
        key
    });
    let keys = IdempotencyKeyLayer::new(stamp_fn(
        |order: &Order| order.key.as_deref(),
        |order, key| order.key = Some(key.to_owned()),
    ));
    let server = service_fn(move |order: Order| {
        let effects = effects.clone();
        async move {
            apply(&effects, "call-0", &order.key.unwrap()).await.unwrap();
            Ok::<_, Infallible>(())
        }
    });
    keys.layer(server).oneshot(Order { key: Some(key) }).await.unwrap();
    stop("after-send");
}
