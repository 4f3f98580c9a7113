//! The cases for claims; each panics where the store does not do what [`ClaimStore`] says.

#![expect(missing_docs, reason = "the name of a case says what it asserts")]

mod waiting;

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;

use super::{Harness, LONG};
use crate::claim::{Claim, ClaimRequest, ClaimStore, Claimed, Record, Waited, Written};
use crate::key::{Fingerprint, ScopedKey};

pub use waiting::*;

const ONE: Fingerprint = Fingerprint::new([1; 32]);
const OTHER: Fingerprint = Fingerprint::new([2; 32]);
const APPLIED: Written = Written::Applied;

fn key(name: &str) -> ScopedKey {
    ScopedKey::try_new("conformance", name).expect("short enough")
}

fn request(lease: Duration) -> ClaimRequest {
    ClaimRequest::new(key("key"), ONE, lease)
}

fn value(text: &str) -> Record {
    Record::Value(Bytes::copy_from_slice(text.as_bytes()))
}

fn fenced(winner: Option<Record>) -> Written {
    Written::Fenced { winner }
}

async fn claimed<S: ClaimStore>(store: &S, request: &ClaimRequest) -> Claimed {
    store.claim(request).await.expect("the store works")
}

async fn owned<S: ClaimStore>(store: &S, request: &ClaimRequest) -> Claim {
    match claimed(store, request).await {
        Claimed::Owned(claim) => claim,
        other => panic!("expected the claim, and got {other:?}"),
    }
}

async fn done<S: ClaimStore>(store: &S) -> Record {
    match claimed(store, &request(LONG)).await {
        Claimed::Done(record) => record,
        other => panic!("expected the record, and got {other:?}"),
    }
}

async fn complete<S: ClaimStore>(store: &S, claim: &Claim, record: &Record) -> Written {
    store.complete(claim, record, LONG).await.expect("the store works")
}

async fn renew<S: ClaimStore>(store: &S, claim: &Claim, lease: Duration) -> Written {
    store.renew(claim, lease).await.expect("the store works")
}

async fn release<S: ClaimStore>(store: &S, claim: &Claim) -> Written {
    store.release(claim).await.expect("the store works")
}

async fn look<S: ClaimStore>(store: &S, fingerprint: Fingerprint) -> Waited {
    store.wait(&key("key"), &fingerprint, Duration::ZERO).await.expect("the store works")
}

fn is_in_flight(claimed: &Claimed) -> bool {
    matches!(claimed, Claimed::InFlight { remaining } if *remaining <= LONG && !remaining.is_zero())
}

/// A claim whose lease is over, and the one that took it over.
async fn taken_over<H: Harness<Store: ClaimStore>>(harness: &H, store: &H::Store) -> (Claim, Claim) {
    let lost = owned(store, &request(harness.short())).await;
    harness.pass(harness.short()).await;
    let taken = owned(store, &request(LONG)).await;
    (lost, taken)
}

pub async fn a_free_key_is_owned<H: Harness<Store: ClaimStore>>(harness: &H) {
    let store = harness.store().await;
    let request = request(LONG);
    let claim = owned(&store, &request).await;
    assert_eq!((claim.epoch(), claim.unfinished()), (1, 0));
    assert_eq!((claim.owner(), claim.key()), (request.owner(), request.key()));
}

pub async fn a_claimed_key_is_in_flight_for_others<H: Harness<Store: ClaimStore>>(harness: &H) {
    let store = harness.store().await;
    owned(&store, &request(LONG)).await;
    let second = claimed(&store, &request(LONG)).await;
    assert!(is_in_flight(&second), "{second:?}");
}

pub async fn a_completed_key_gives_its_record_byte_for_byte<H: Harness<Store: ClaimStore>>(harness: &H) {
    let store = harness.store().await;
    let every_byte: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    let values = [Bytes::new(), Bytes::from_static(b"\0"), Bytes::from(every_byte)];
    let records = values.map(Record::Value).into_iter().chain([Record::TooLarge, Record::Unknown]);
    for (index, record) in records.enumerate() {
        let request = ClaimRequest::new(key(&index.to_string()), ONE, LONG);
        let claim = owned(&store, &request).await;
        assert_eq!(complete(&store, &claim, &record).await, APPLIED);
        let again = ClaimRequest::new(request.key().clone(), ONE, LONG);
        let Claimed::Done(stored) = claimed(&store, &again).await else { panic!("{record:?} is not stored") };
        assert!(stored == record, "{record:?} became {stored:?}");
    }
}

pub async fn another_fingerprint_is_a_mismatch_whatever_the_state<H: Harness<Store: ClaimStore>>(
    harness: &H,
) {
    let store = harness.store().await;
    let other = || ClaimRequest::new(key("key"), OTHER, LONG);
    let first = owned(&store, &request(LONG)).await;
    assert!(matches!(claimed(&store, &other()).await, Claimed::Mismatch), "while it is claimed");
    assert_eq!(renew(&store, &first, Duration::ZERO).await, APPLIED);
    assert!(matches!(claimed(&store, &other()).await, Claimed::Mismatch), "once its lease is over");
    let claim = owned(&store, &request(LONG)).await;
    assert_eq!(complete(&store, &claim, &value("answer")).await, APPLIED);
    assert!(matches!(claimed(&store, &other()).await, Claimed::Mismatch), "once it is done");
    assert!(matches!(look(&store, OTHER).await, Waited::Mismatch));
    assert_eq!(done(&store).await, value("answer"), "it is unharmed");
}

pub async fn a_lapsed_claim_is_taken_over_and_the_new_owner_learns_so<H: Harness<Store: ClaimStore>>(
    harness: &H,
) {
    let store = harness.store().await;
    for earlier in 0..3_u32 {
        let claim = owned(&store, &request(harness.short())).await;
        assert_eq!((claim.epoch(), claim.unfinished()), (u64::from(earlier) + 1, earlier));
        harness.pass(harness.short()).await;
    }
}

pub async fn who_lost_a_claim_can_write_nothing<H: Harness<Store: ClaimStore>>(harness: &H) {
    let store = harness.store().await;
    let (lost, taken) = taken_over(harness, &store).await;
    assert_eq!(renew(&store, &lost, LONG).await, fenced(None));
    assert_eq!(complete(&store, &lost, &value("of the loser")).await, fenced(None));
    assert_eq!(release(&store, &lost).await, fenced(None));
    assert!(is_in_flight(&claimed(&store, &request(LONG)).await), "the winner has it still");
    assert_eq!(complete(&store, &taken, &value("of the winner")).await, APPLIED);
    assert_eq!(done(&store).await, value("of the winner"));
}

pub async fn who_lost_a_claim_gets_the_winners_record<H: Harness<Store: ClaimStore>>(harness: &H) {
    let store = harness.store().await;
    let (lost, taken) = taken_over(harness, &store).await;
    let winner = value("of the winner");
    assert_eq!(complete(&store, &taken, &winner).await, APPLIED);
    assert_eq!(complete(&store, &lost, &value("of the loser")).await, fenced(Some(winner.clone())));
    assert_eq!(renew(&store, &lost, LONG).await, fenced(Some(winner.clone())));
    assert_eq!(release(&store, &lost).await, fenced(Some(winner.clone())));
    assert_eq!(done(&store).await, winner, "it is unharmed");
}

pub async fn a_lapsed_claim_that_nobody_took_is_still_its_owners<H: Harness<Store: ClaimStore>>(harness: &H) {
    let store = harness.store().await;
    let claim = owned(&store, &request(harness.short())).await;
    harness.pass(harness.short()).await;
    assert_eq!(renew(&store, &claim, harness.short()).await, APPLIED);
    harness.pass(harness.short()).await;
    assert_eq!(complete(&store, &claim, &value("late")).await, APPLIED);
    assert_eq!(done(&store).await, value("late"));
}

pub async fn a_renewed_claim_outlives_its_first_lease<H: Harness<Store: ClaimStore>>(harness: &H) {
    let store = harness.store().await;
    let claim = owned(&store, &request(harness.short())).await;
    assert_eq!(renew(&store, &claim, LONG).await, APPLIED);
    harness.pass(harness.short()).await;
    assert!(is_in_flight(&claimed(&store, &request(LONG)).await));
    assert_eq!(complete(&store, &claim, &value("answer")).await, APPLIED);
    assert_eq!(renew(&store, &claim, LONG).await, APPLIED, "a renewal that the completion has overtaken");
    assert_eq!(done(&store).await, value("answer"));
}

pub async fn a_lease_can_be_made_shorter<H: Harness<Store: ClaimStore>>(harness: &H) {
    let store = harness.store().await;
    let claim = owned(&store, &request(LONG)).await;
    assert_eq!(renew(&store, &claim, Duration::ZERO).await, APPLIED);
    assert_eq!(owned(&store, &request(LONG)).await.epoch(), 2);
}

pub async fn the_same_owner_gets_its_claim_again<H: Harness<Store: ClaimStore>>(harness: &H) {
    let store = harness.store().await;
    let request = request(LONG);
    let first = owned(&store, &request).await;
    let second = owned(&store, &request).await;
    assert_eq!((second.epoch(), second.unfinished()), (1, 0));
    assert_eq!(complete(&store, &first, &value("answer")).await, APPLIED);
}

pub async fn a_completion_can_be_repeated_and_the_first_one_counts<H: Harness<Store: ClaimStore>>(
    harness: &H,
) {
    let store = harness.store().await;
    let claim = owned(&store, &request(LONG)).await;
    assert_eq!(complete(&store, &claim, &value("first")).await, APPLIED);
    assert_eq!(complete(&store, &claim, &value("second")).await, APPLIED);
    assert_eq!(release(&store, &claim).await, fenced(Some(value("first"))), "what is done is not released");
    assert_eq!(done(&store).await, value("first"));
}

pub async fn a_released_key_is_free_at_once<H: Harness<Store: ClaimStore>>(harness: &H) {
    let store = harness.store().await;
    let claim = owned(&store, &request(LONG)).await;
    assert_eq!(release(&store, &claim).await, APPLIED);
    assert_eq!(release(&store, &claim).await, APPLIED, "a release can be repeated");
    assert!(matches!(look(&store, OTHER).await, Waited::Free), "with any fingerprint");
    let next = owned(&store, &request(LONG)).await;
    assert_eq!(next.unfinished(), 0);
    assert_eq!(release(&store, &claim).await, fenced(None), "somebody else has it by now");
}

pub async fn a_released_claim_can_write_nothing<H: Harness<Store: ClaimStore>>(harness: &H) {
    let store = harness.store().await;
    let first = owned(&store, &request(LONG)).await;
    assert_eq!(release(&store, &first).await, APPLIED);
    assert_eq!(complete(&store, &first, &value("late")).await, fenced(None));
    assert_eq!(renew(&store, &first, LONG).await, fenced(None));
    let (_, second) = taken_over(harness, &store).await;
    assert_eq!(release(&store, &second).await, APPLIED);
    assert_eq!(complete(&store, &second, &value("late")).await, fenced(None));
    assert_eq!(renew(&store, &second, LONG).await, fenced(None));
}

pub async fn what_was_left_unfinished_stays_known_after_a_release<H: Harness<Store: ClaimStore>>(
    harness: &H,
) {
    let store = harness.store().await;
    let (_, second) = taken_over(harness, &store).await;
    assert_eq!((second.epoch(), second.unfinished()), (2, 1));
    assert_eq!(release(&store, &second).await, APPLIED);
    assert_eq!(release(&store, &second).await, APPLIED, "a release can be repeated");
    assert!(matches!(look(&store, ONE).await, Waited::Free));
    assert!(matches!(look(&store, OTHER).await, Waited::Mismatch));
    let third = owned(&store, &request(LONG)).await;
    assert_eq!((third.epoch(), third.unfinished()), (3, 1), "the second one was no risk");
    assert_eq!(release(&store, &second).await, fenced(None));
}

pub async fn a_lease_of_zero_is_over_at_once<H: Harness<Store: ClaimStore>>(harness: &H) {
    let store = harness.store().await;
    owned(&store, &request(Duration::ZERO)).await;
    assert!(matches!(look(&store, ONE).await, Waited::Free));
    let next = owned(&store, &request(Duration::ZERO)).await;
    assert_eq!((next.epoch(), next.unfinished()), (2, 1));
}

pub async fn time_to_live_counts_from_completion<H: Harness<Store: ClaimStore>>(harness: &H) {
    let store = harness.store().await;
    let short = harness.short();
    let claim = owned(&store, &request(LONG).keep(Duration::ZERO)).await;
    harness.pass(short).await;
    assert_eq!(store.complete(&claim, &value("answer"), short).await.expect("works"), APPLIED);
    harness.pass(short).await;
    assert!(matches!(look(&store, OTHER).await, Waited::Free), "a new life, with any fingerprint");
    assert_eq!(complete(&store, &claim, &value("late")).await, fenced(None));
    let next = owned(&store, &request(LONG)).await;
    assert_eq!(next.unfinished(), 0);

    // Longer than the claim's own time was.
    assert_eq!(renew(&store, &next, short).await, APPLIED);
    assert_eq!(complete(&store, &next, &value("kept")).await, APPLIED);
    harness.pass(short).await;
    assert_eq!(done(&store).await, value("kept"));
}

pub async fn an_unfinished_claim_is_forgotten_in_the_end<H: Harness<Store: ClaimStore>>(harness: &H) {
    let store = harness.store().await;
    let short = harness.short();
    let lost = owned(&store, &request(short).keep(short)).await;
    harness.pass(short).await;
    harness.pass(short).await;
    let next = owned(&store, &request(LONG)).await;
    assert_eq!((next.epoch(), next.unfinished()), (1, 0));
    assert_eq!(
        complete(&store, &lost, &value("of a ghost")).await,
        fenced(None),
        "the epoch is equal, not the owner"
    );
    assert_eq!(release(&store, &lost).await, fenced(None));
}

pub async fn scopes_and_keys_are_never_mixed_up<H: Harness<Store: ClaimStore>>(harness: &H) {
    let store = harness.store().await;
    let long = "ü".repeat(crate::MAX_NAME / 2);
    let pairs = [
        ("", "a"),
        ("a", "b:c"),
        ("a:b", "c"),
        ("a", "b"),
        ("A", "b"),
        ("a", "b "),
        ("a\0", "b"),
        ("a", "\0b"),
    ];
    for (scope, name) in pairs.into_iter().chain([("{a}", "*"), (&*long, &*long), ("a", "'; --")]) {
        let key = ScopedKey::try_new(scope, name).expect("short enough");
        let claim = owned(&store, &ClaimRequest::new(key.clone(), ONE, LONG)).await;
        assert_eq!(claim.epoch(), 1, "{scope:?} and {name:?} were mixed up with others");
        let second = claimed(&store, &ClaimRequest::new(key, ONE, LONG)).await;
        assert!(is_in_flight(&second), "{scope:?} and {name:?} give {second:?}");
    }
}

pub async fn looking_changes_nothing<H: Harness<Store: ClaimStore>>(harness: &H) {
    let store = harness.store().await;
    assert!(matches!(look(&store, ONE).await, Waited::Free));
    let claim = owned(&store, &request(LONG)).await;
    assert_eq!(claim.epoch(), 1);
    let found = look(&store, ONE).await;
    assert!(matches!(found, Waited::InFlight { remaining } if remaining <= LONG), "{found:?}");
    assert_eq!(complete(&store, &claim, &value("answer")).await, APPLIED);
    assert!(matches!(look(&store, ONE).await, Waited::Done(record) if record == value("answer")));
}

async fn one_winner<S: ClaimStore>(store: &S) -> Claim {
    let mut claims = JoinSet::new();
    for _ in 0..32 {
        let store = store.clone();
        claims.spawn(async move { claimed(&store, &request(LONG)).await });
    }
    let mut winners = Vec::new();
    for outcome in claims.join_all().await {
        match outcome {
            Claimed::Owned(claim) => winners.push(claim),
            other => assert!(is_in_flight(&other), "{other:?}"),
        }
    }
    assert_eq!(winners.len(), 1, "{winners:?}");
    winners.remove(0)
}

pub async fn of_many_that_claim_one_key_one_gets_it<H: Harness<Store: ClaimStore>>(harness: &H) {
    let store = harness.store().await;
    assert_eq!(one_winner(&store).await.epoch(), 1);
}

pub async fn of_many_that_take_over_one_gets_it<H: Harness<Store: ClaimStore>>(harness: &H) {
    let store = harness.store().await;
    owned(&store, &request(Duration::ZERO)).await;
    let winner = one_winner(&store).await;
    assert_eq!((winner.epoch(), winner.unfinished()), (2, 1));
}

pub async fn a_dropped_claim_can_be_asked_for_again<H: Harness<Store: ClaimStore>>(harness: &H) {
    let store = harness.store().await;
    for polls in 0..3 {
        let request = ClaimRequest::new(key(&polls.to_string()), ONE, LONG);
        {
            let mut dropped = pin!(store.claim(&request));
            for _ in 0..polls {
                if dropped.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        let claim = owned(&store, &request).await;
        assert_eq!((claim.epoch(), claim.unfinished()), (1, 0));
        assert_eq!(complete(&store, &claim, &value("answer")).await, APPLIED);
    }
}

pub async fn sweeping_is_bounded_and_takes_only_what_is_over<H: Harness<Store: ClaimStore>>(harness: &H) {
    let store = harness.store().await;
    let short = harness.short();
    for index in 0..5 {
        let request = ClaimRequest::new(key(&format!("done {index}")), ONE, LONG);
        let claim = owned(&store, &request).await;
        assert_eq!(store.complete(&claim, &value("old"), short).await.expect("works"), APPLIED);
        let lapsed = ClaimRequest::new(key(&format!("lapsed {index}")), ONE, Duration::ZERO);
        owned(&store, &lapsed.keep(short)).await;
    }
    let live = owned(&store, &request(LONG)).await;
    let remembered = ClaimRequest::new(key("remembered"), ONE, Duration::ZERO);
    owned(&store, &remembered).await;
    harness.pass(short).await;

    let sweep = async |max| store.sweep(max).await.expect("the store works");
    if !harness.expires_by_itself() {
        assert_eq!(sweep(4).await, 4, "no more than it was told to");
        assert_eq!(sweep(100).await, 6);
    }
    assert_eq!(sweep(100).await, 0);
    assert_eq!(complete(&store, &live, &value("alive")).await, APPLIED);
    let next = owned(&store, &ClaimRequest::new(key("remembered"), ONE, LONG)).await;
    assert_eq!(next.unfinished(), 1);
}
