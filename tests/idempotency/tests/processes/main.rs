//! Processes that are killed, frozen and set against each other, over each store that they can share.

mod child;
mod player;

use std::collections::HashSet;
use std::time::Duration;

use player::{Place, Player};
use rand::RngExt;
use services::Effects;

/// A server of effects of one's own, and so keys of one's own.
fn effects() -> Effects {
    Effects::start(env!("CARGO_BIN_EXE_effects"), &[])
}

fn killed_at_each_point(place: &Place) {
    for (point, requests) in
        [("before-claim", 1), ("after-claim", 1), ("after-effect", 2), ("after-complete", 1)]
    {
        let effects = effects();
        let mut first = Player::start(&format!("fault {point}"), place, &effects);
        first.until(&format!("at {point}"));
        first.kill();
        let mut second = Player::start("fault none", place, &effects);
        let ran = second.until("charged 0");
        assert_eq!(ran.contains("Replayed"), point == "after-complete", "{point}: {ran}");
        assert_eq!(effects.ledger()["call-0"].len(), requests, "{point}");
        effects.assert_one_effect_each();
    }
}

/// How many random kills each store has to survive.
fn kills() -> usize {
    std::env::var("BUTTRESS_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(100)
}

fn killed_at_random(place: &Place) {
    let (effects, mut rng, mut answered) = (effects(), rand::rng(), HashSet::new());
    let (mut first, mut killed) = (0, 0);
    // More of them, and later, where a machine is too busy to answer anything.
    while killed < kills() || first == 0 {
        killed += 1;
        assert!(killed < 10 * kills(), "something is answered");
        let later = if first == 0 { killed as u64 } else { 0 };
        let player = Player::start(&format!("work {first}"), place, &effects);
        // It is the child's clock that runs.
        #[allow(clippy::disallowed_methods, reason = "a real process is killed after a real time")]
        std::thread::sleep(Duration::from_millis(rng.random_range(1..60) + later));
        for line in player.kill() {
            let Some((_, said)) = line.split_once("answered ") else { continue };
            // The last line may be cut off.
            let Some((call, "charged")) = said.split_once(' ') else { continue };
            let call: usize = call.parse().unwrap();
            answered.insert(call);
            // The next one begins with calls that this one has made or may have made.
            first = first.max(call.saturating_sub(3));
        }
    }
    // What was answered is answered again, without another effect; what was not is carried out in the end.
    let mut last = Player::start(&format!("again {}", first + 8), place, &effects);
    while let Some((_, call)) = last.until("ran ").split_once("ran ") {
        let Ok(call) = call.parse() else { break };
        assert!(!answered.contains(&call), "call {call} was answered, and made again");
    }
    effects.assert_one_effect_each();
    let ledger = effects.ledger();
    let requests: usize = ledger.values().map(Vec::len).sum();
    println!(
        "{place}: {killed} kills, {} calls answered, {requests} requests for {} effects",
        answered.len(),
        ledger.len(),
    );
}

fn a_thousand_keys(place: &Place, processes: usize) {
    let effects = effects();
    let mut players: Vec<_> = (0..processes).map(|_| Player::start("race", place, &effects)).collect();
    players.iter_mut().for_each(Player::go);
    let executed = |player: &mut Player| {
        let line = player.until("executed ");
        line.rsplit(' ').next().unwrap().parse::<usize>().unwrap()
    };
    let executed: usize = players.iter_mut().map(executed).sum();
    assert_eq!(executed, 1000);
    let ledger = effects.ledger();
    assert_eq!((ledger.len(), ledger.values().map(Vec::len).sum::<usize>()), (1000, 1000));
}

/// The zombie has its effect, too, and late: its key is the one that its heir had, so that it is applied once.
fn frozen(place: &Place) {
    let effects = effects();
    let mut zombie = Player::start("answer old", place, &effects);
    zombie.until("running");
    zombie.signal("STOP");
    let mut other = Player::start("answer new", place, &effects);
    // It waits until the lease is over, and takes the key.
    other.until("running");
    other.go();
    assert!(other.until("answer is new").contains("Executed"));
    zombie.signal("CONT");
    zombie.go();
    let said = zombie.until("answer is ");
    assert!(said.contains("answer is new") && said.contains("Replayed"), "its own does not count: {said}");
    assert_eq!(effects.ledger()["call-0"].len(), 2);
    effects.assert_one_effect_each();
}

/// IA-9
#[test]
fn sqlite_killed_at_each_fault_point() {
    killed_at_each_point(&Place::sqlite());
}

/// IA-9
#[test]
fn sqlite_killed_at_random() {
    killed_at_random(&Place::sqlite());
}

/// IA-4
#[test]
fn sqlite_two_processes_and_a_thousand_keys() {
    a_thousand_keys(&Place::sqlite(), 2);
}

/// IA-10
#[test]
fn sqlite_a_frozen_owner_is_fenced() {
    frozen(&Place::sqlite());
}

/// IA-9
#[test]
fn postgres_killed_at_each_fault_point() {
    killed_at_each_point(&Place::postgres());
}

/// IA-9
#[test]
fn postgres_killed_at_random() {
    killed_at_random(&Place::postgres());
}

/// IA-4
#[test]
fn postgres_four_processes_and_a_thousand_keys() {
    a_thousand_keys(&Place::postgres(), 4);
}

/// IA-10
#[test]
fn postgres_a_frozen_owner_is_fenced() {
    frozen(&Place::postgres());
}

/// IA-9
#[test]
fn redis_killed_at_each_fault_point() {
    killed_at_each_point(&Place::redis());
}

/// IA-9
#[test]
fn redis_killed_at_random() {
    killed_at_random(&Place::redis());
}

/// IA-4
#[test]
fn redis_four_processes_and_a_thousand_keys() {
    a_thousand_keys(&Place::redis(), 4);
}

/// IA-10
#[test]
fn redis_a_frozen_owner_is_fenced() {
    frozen(&Place::redis());
}

/// IB-7: a client that dies after it has sent, and is started again.
#[test]
fn a_client_that_is_killed_after_sending_sends_the_same_key_again() {
    let (effects, place) = (effects(), Place::sqlite());
    let role = format!("client {}", effects.file("key").display());
    for _ in 0..2 {
        let mut killed = Player::start(&role, &place, &effects);
        killed.until("at after-send");
        killed.kill();
    }
    let requests = effects.ledger().remove("call-0").unwrap();
    assert_eq!((requests.len(), &requests[0].key), (2, &requests[1].key));
    effects.assert_one_effect_each();
}
