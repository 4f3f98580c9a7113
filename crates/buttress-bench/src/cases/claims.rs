use std::time::Duration;

use buttress_idempotency::{Config, Idempotency};
use buttress_store::{
    ClaimRequest, ClaimStore, Claimed, Fingerprint, Memory, Record, ScopedKey, StoreError, Written,
};

use crate::leaf::{Down, futures};
use crate::measure::{Case, Side};

/// Of each call: the key is made in it, too.
const GROUP: &str = "claims in memory";
const FINGERPRINT: Fingerprint = Fingerprint::new([7; 32]);
const HOUR: Duration = Duration::from_secs(3600);
/// So that there is always room for a new key.
const SHORT: Duration = Duration::from_nanos(1);

fn key(number: u64) -> ScopedKey {
    ScopedKey::try_new("bench", number.to_string()).expect("short")
}

/// Keys that were never used.
fn new() -> impl FnMut() -> ScopedKey {
    let mut next = 0;
    move || {
        next += 1;
        key(next)
    }
}

async fn once(store: Memory, key: ScopedKey, ttl: Duration) -> Result<Record, StoreError> {
    match store.claim(&ClaimRequest::new(key, FINGERPRINT, HOUR)).await? {
        Claimed::Done(record) => Ok(record),
        Claimed::Owned(claim) => {
            let record = Record::Value("answer".into());
            match store.complete(&claim, &record, ttl).await? {
                Written::Applied => Ok(record),
                Written::Fenced { .. } => unreachable!("nobody else is there"),
            }
        }
        Claimed::InFlight { .. } | Claimed::Mismatch => unreachable!("nobody else is there"),
    }
}

fn guard(ttl: Duration) -> Idempotency<Memory> {
    Idempotency::new("bench", Memory::new(), Config::new().ttl(ttl)).expect("the options are sound")
}

pub(super) fn memory() -> Vec<Case> {
    let run = |guard: &Idempotency<Memory>, key| {
        let guard = guard.clone();
        async move { guard.run(key, FINGERPRINT, async |_| Ok::<u64, Down>(7)).await }
    };
    let (hit, miss) = (Memory::new(), Memory::new());
    let (guard_hit, guard_miss) = (guard(HOUR), guard(SHORT));
    let (mut first, mut second) = (new(), new());
    vec![
        Case::new(GROUP, Side::Floor, "a key made", futures(|n| async move { Ok::<_, Down>(key(n)) }, true)),
        Case::new(
            GROUP,
            Side::Buttress,
            "hit: a completed key, by the store",
            futures(move |_| once(hit.clone(), key(0), HOUR), true),
        ),
        Case::new(
            GROUP,
            Side::Buttress,
            "miss: a new key claimed and completed, by the store",
            futures(move |_| once(miss.clone(), first(), SHORT), true),
        ),
        Case::new(
            GROUP,
            Side::Buttress,
            "hit: a completed key, by the guard",
            futures(move |_| run(&guard_hit, key(0)), true),
        ),
        Case::new(
            GROUP,
            Side::Buttress,
            "miss: a new key, by the guard",
            futures(move |_| run(&guard_miss, second()), true),
        ),
    ]
}
