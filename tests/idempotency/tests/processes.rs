//! Processes that are killed, frozen and set against each other, over each store that they can share.

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use buttress_idempotency::{Config, Hash, Idempotency, InFlight, Ran, RunError};
use buttress_store::{ClaimStore, ScopedKey};
use idempotency_tests::{Backend, Effects, LEASE, apply, kills, signal, with_store};
use rand::RngExt;

const ROLE: &str = "BUTTRESS_IDEMPOTENCY_ROLE";
const STORE: &str = "BUTTRESS_IDEMPOTENCY_STORE";
const SCOPE: &str = "BUTTRESS_IDEMPOTENCY_SCOPE";
const EFFECTS: &str = "BUTTRESS_IDEMPOTENCY_EFFECTS";

/// What a child process does; it is this program, started again.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "is started by the other tests"]
async fn child() {
    let (Ok(role), Ok(store)) = (std::env::var(ROLE), std::env::var(STORE)) else { return };
    let effects = std::env::var(EFFECTS).unwrap();
    with_store!(store, |store| play(role, store, effects));
}

async fn play<St: ClaimStore>(role: String, store: St, effects: String) {
    // Where nobody dies, a machine that is busy must not look like it.
    let lease = if role == "race" { Duration::from_secs(60) } else { LEASE };
    let config = Config::new().lease(lease).in_flight(InFlight::Wait(Duration::from_secs(30)));
    let idempotency = Idempotency::new("test", store, config).unwrap();
    println!("ready");
    match role.split_once(' ').unwrap_or((&role, "")) {
        ("race", _) => race(idempotency, effects).await,
        ("fault", point) => fault(&idempotency, effects, point.to_owned()).await,
        ("work", range) => work(idempotency, effects, range).await,
        ("answer", name) => answer(&idempotency, name.to_owned()).await,
        (other, _) => panic!("there is no role {other}"),
    }
}

/// Within the scope that this process was given.
fn key(call: usize) -> ScopedKey {
    ScopedKey::try_new(std::env::var(SCOPE).unwrap(), format!("call-{call}")).unwrap()
}

type Charged = Result<Ran<String>, RunError<std::io::Error>>;

/// One call, with a fault point before and after its effect.
async fn charge<St: ClaimStore>(
    idempotency: &Idempotency<St>,
    call: usize,
    effects: String,
    point: impl Fn(&'static str) + Send + 'static,
) -> Charged {
    let effect = async move |claim: buttress_idempotency::Claim| {
        point("after-claim");
        apply(&effects, &format!("call-{call}"), &claim.derive("charge")).await?;
        point("after-effect");
        Ok(format!("charged {call}"))
    };
    idempotency.run(key(call), Hash::new().part("100").fingerprint(), effect).await
}

/// Stops at a point, and says so, to be killed there.
fn stop(at: &'static str) {
    println!("at {at}");
    loop {
        std::thread::park();
    }
}

async fn fault<St: ClaimStore>(idempotency: &Idempotency<St>, effects: String, wanted: String) {
    if wanted == "before-claim" {
        stop("before-claim");
    }
    let inside = wanted.clone();
    let point = move |at| {
        if at == inside {
            stop(at);
        }
    };
    let ran = charge(idempotency, 0, effects, point).await.unwrap();
    if wanted == "after-complete" {
        stop("after-complete");
    }
    println!("{ran:?}");
}

async fn race<St: ClaimStore>(idempotency: Idempotency<St>, effects: String) {
    std::io::stdin().lock().read_line(&mut String::new()).unwrap();
    let executed = Arc::new(AtomicUsize::new(0));
    let next = Arc::new(AtomicUsize::new(0));
    let workers = (0..8).map(|_| {
        let (idempotency, effects) = (idempotency.clone(), effects.clone());
        let (executed, next) = (Arc::clone(&executed), Arc::clone(&next));
        tokio::spawn(async move {
            loop {
                let call = next.fetch_add(1, Ordering::Relaxed);
                if call >= 1000 {
                    return;
                }
                if let Ran::Executed(_) = charge(&idempotency, call, effects.clone(), |_| {}).await.unwrap() {
                    executed.fetch_add(1, Ordering::Relaxed);
                }
            }
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        worker.await.unwrap();
    }
    println!("executed {}", executed.load(Ordering::Relaxed));
}

/// Calls from a number on, four at a time, until it is killed; says which are answered.
async fn work<St: ClaimStore>(idempotency: Idempotency<St>, effects: String, first: &str) {
    let next = Arc::new(AtomicUsize::new(first.parse().unwrap()));
    let workers = (0..4).map(|_| {
        let (idempotency, effects, next) = (idempotency.clone(), effects.clone(), Arc::clone(&next));
        tokio::spawn(async move {
            loop {
                let call = next.fetch_add(1, Ordering::Relaxed);
                let ran = charge(&idempotency, call, effects.clone(), |_| {}).await.unwrap();
                println!("answered {call} {}", ran.into_inner());
            }
        })
    });
    let workers: Vec<_> = workers.collect();
    std::future::pending::<()>().await;
    drop(workers);
}

async fn answer<St: ClaimStore>(idempotency: &Idempotency<St>, name: String) {
    let effect = async move |_| {
        println!("running");
        tokio::task::spawn_blocking(|| std::io::stdin().lock().read_line(&mut String::new()))
            .await
            .unwrap()?;
        Ok::<_, std::io::Error>(name)
    };
    let ran = idempotency.run(key(0), Hash::new().fingerprint(), effect).await.unwrap();
    println!("{ran:?}");
}

/// This program, started again in a role, and what it prints from "ready" on.
struct Player {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Player {
    fn start(role: &str, backend: &Backend, effects: &Effects) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["child", "--exact", "--ignored", "--nocapture", "--test-threads=1"]);
        command.env(ROLE, role).env(STORE, backend.address()).env(EFFECTS, effects.address());
        // Each test, and each fault point, has a server of effects of its own, and so keys of its own.
        command.env(SCOPE, effects.address());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut player = Self { child, lines };
        player.until("ready");
        player
    }

    /// The next line that has this in it.
    fn until(&mut self, wanted: &str) -> String {
        let line = self.lines.by_ref().map_while(Result::ok).find(|line| line.contains(wanted));
        line.unwrap_or_else(|| panic!("the child ended without saying `{wanted}`"))
    }

    fn go(&mut self) {
        self.child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    }

    fn kill(mut self) -> impl Iterator<Item = String> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        // What it had said before.
        let lines: Vec<_> = self.lines.by_ref().map_while(Result::ok).collect();
        lines.into_iter()
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Each call had one effect: all requests for it had one key.
fn assert_one_effect_each(effects: &Effects) {
    for (call, keys) in effects.seen() {
        assert!(keys.iter().all(|key| *key == keys[0]), "{call} had several keys: {keys:?}");
    }
}

fn killed_at_each_point(backend: &Backend) {
    for (point, requests) in
        [("before-claim", 1), ("after-claim", 1), ("after-effect", 2), ("after-complete", 1)]
    {
        let effects = Effects::start();
        let role = format!("fault {point}");
        let mut first = Player::start(&role, backend, &effects);
        first.until(&format!("at {point}"));
        drop(first.kill());
        let mut second = Player::start("fault none", backend, &effects);
        let ran = second.until("charged 0");
        let replayed = ran.contains("Replayed");
        assert_eq!(replayed, point == "after-complete", "{point}: {ran}");
        assert_eq!(effects.seen()["call-0"].len(), requests, "{point}");
        assert_one_effect_each(&effects);
    }
}

fn killed_at_random(backend: &Backend) {
    let effects = Effects::start();
    let mut rng = rand::rng();
    let mut first = 0;
    for _ in 0..kills() {
        let player = Player::start(&format!("work {first}"), backend, &effects);
        // It is the child's clock that runs.
        #[allow(clippy::disallowed_methods, reason = "a real process is killed after a real time")]
        std::thread::sleep(Duration::from_millis(rng.random_range(1..60)));
        for line in player.kill() {
            let Some((_, said)) = line.split_once("answered ") else { continue };
            let Some((call, answer)) = said.split_once(' ') else { continue };
            assert_eq!(answer, format!("charged {call}"));
            // The next one begins with calls that this one has made or may have made.
            first = first.max(call.parse::<usize>().unwrap().saturating_sub(3));
        }
    }
    assert!(first > 0, "something was answered");
    assert_one_effect_each(&effects);
}

fn a_thousand_keys(backend: &Backend, processes: usize) {
    let effects = Effects::start();
    let mut players: Vec<_> = (0..processes).map(|_| Player::start("race", backend, &effects)).collect();
    players.iter_mut().for_each(Player::go);
    let executed = |player: &mut Player| {
        let line = player.until("executed ");
        line.rsplit(' ').next().unwrap().parse::<usize>().unwrap()
    };
    let executed: usize = players.iter_mut().map(executed).sum();
    assert_eq!(executed, 1000);
    let seen = effects.seen();
    assert_eq!((seen.len(), seen.values().map(Vec::len).sum::<usize>()), (1000, 1000));
}

fn frozen(backend: &Backend) {
    let effects = Effects::start();
    let mut zombie = Player::start("answer old", backend, &effects);
    zombie.until("running");
    signal(zombie.child.id(), "STOP");
    let mut other = Player::start("answer new", backend, &effects);
    // It waits until the lease is over, and takes the key.
    other.until("running");
    other.go();
    assert!(other.until("new").contains("Executed"));
    signal(zombie.child.id(), "CONT");
    zombie.go();
    assert!(zombie.until("new").contains("Replayed"), "its own answer does not count");
}

/// IA-9
#[test]
fn sqlite_killed_at_each_fault_point() {
    killed_at_each_point(&Backend::sqlite());
}

/// IA-9
#[test]
fn sqlite_killed_at_random() {
    killed_at_random(&Backend::sqlite());
}

/// IA-4
#[test]
fn sqlite_two_processes_and_a_thousand_keys() {
    a_thousand_keys(&Backend::sqlite(), 2);
}

/// IA-10
#[test]
fn sqlite_a_frozen_owner_is_fenced() {
    frozen(&Backend::sqlite());
}

/// IA-9
#[test]
fn postgres_killed_at_random_and_at_each_fault_point() {
    let backend = Backend::Postgres(services::Postgres::start());
    killed_at_each_point(&backend);
    killed_at_random(&backend);
}

/// IA-4
#[test]
fn postgres_four_processes_and_a_thousand_keys() {
    a_thousand_keys(&Backend::Postgres(services::Postgres::start()), 4);
}

/// IA-10
#[test]
fn postgres_a_frozen_owner_is_fenced() {
    frozen(&Backend::Postgres(services::Postgres::start()));
}

/// IA-9
#[test]
fn redis_killed_at_random_and_at_each_fault_point() {
    let backend = Backend::Redis(services::Redis::start());
    killed_at_each_point(&backend);
    killed_at_random(&backend);
}

/// IA-4
#[test]
fn redis_four_processes_and_a_thousand_keys() {
    a_thousand_keys(&Backend::Redis(services::Redis::start()), 4);
}

/// IA-10
#[test]
fn redis_a_frozen_owner_is_fenced() {
    frozen(&Backend::Redis(services::Redis::start()));
}
