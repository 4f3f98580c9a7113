use super::*;

use std::io;
use std::sync::{Arc, Mutex};

use buttress_core::{BoxError, Reason, Refused, find};
use buttress_idempotency::{
    Claim, Error, Hash, Idempotency, InvalidKey, Keyed, MAX_KEY, Outcome, Reconciled,
};
use tower::{Layer, ServiceExt, service_fn};

/// A transfer, and what its handler was shown.
#[derive(Clone, Debug, Default)]
pub struct Transfer {
    id: Option<&'static str>,
    tenant: String,
    amount: u64,
    claim: Option<Claim>,
}

fn transfer(id: &'static str, amount: u64) -> Transfer {
    Transfer { id: Some(id), amount, ..Transfer::default() }
}

fn keyed() -> Keyed<Transfer, u64> {
    Keyed::new(
        |transfer: &Transfer| transfer.id.map(Into::into),
        |transfer, hash: Hash| hash.part(transfer.amount.to_be_bytes()),
    )
    .scope(|transfer| transfer.tenant.as_str().into())
    .attach(|transfer, claim| transfer.claim = Some(claim))
}

/// A bank that fails where it is told to, and remembers what it was asked.
#[derive(Clone, Debug, Default)]
struct Bank {
    asked: Arc<Mutex<Vec<Transfer>>>,
    fails: Arc<Mutex<Option<BoxError>>>,
}

impl Bank {
    fn fail(&self, with: impl Into<BoxError>) {
        *self.fails.lock().unwrap() = Some(with.into());
    }

    fn calls(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    async fn pay<St: ClaimStore>(
        &self,
        layer: &buttress_idempotency::IdempotencyLayer<St, Keyed<Transfer, u64>>,
        transfer: Transfer,
    ) -> Result<u64, BoxError> {
        let bank = self.clone();
        let service = layer.layer(service_fn(move |transfer: Transfer| {
            let failure = bank.fails.lock().unwrap().take();
            bank.asked.lock().unwrap().push(transfer.clone());
            async move { failure.map_or(Ok(transfer.amount), Err) }
        }));
        service.oneshot(transfer).await
    }
}

fn at<St: ClaimStore>(store: &St, config: Config) -> Idempotency<St> {
    Idempotency::new("transfers", store.clone(), config).unwrap()
}

fn is(error: &BoxError, expected: fn(&Error) -> bool) -> bool {
    find::<Error>(&**error).is_some_and(expected)
}

/// IA-1, IA-5, IA-34: requests of any type.
pub async fn a_request_of_any_type_is_carried_out_once<St: ClaimStore>(store: St) {
    let (bank, layer) = (Bank::default(), at(&store, config()).layer(keyed()));
    assert_eq!(bank.pay(&layer, transfer("t-1", 100)).await.unwrap(), 100);
    assert_eq!(bank.pay(&layer, transfer("t-1", 100)).await.unwrap(), 100);
    assert_eq!(bank.calls(), 1);
    let mismatch = bank.pay(&layer, transfer("t-1", 101)).await.unwrap_err();
    assert!(is(&mismatch, |error| matches!(error, Error::Mismatch)), "{mismatch}");
    let long = "tenant ".repeat(200);
    // Another tenant may call itself what a long name becomes.
    let hashed = format!("blake3:{}", blake3::hash(long.as_bytes()).to_hex());
    for tenant in ["acme", &long, &hashed] {
        let theirs = Transfer { tenant: tenant.to_owned(), ..transfer("t-1", 7) };
        assert_eq!(bank.pay(&layer, theirs.clone()).await.unwrap(), 7, "another scope has keys of its own");
        assert_eq!(bank.pay(&layer, theirs).await.unwrap(), 7);
    }
    assert_eq!(bank.calls(), 4);
}

/// A byte more than fits.
const LONG: &str = match std::str::from_utf8(&[b'k'; MAX_KEY + 1]) {
    Ok(key) => key,
    Err(_) => panic!("it is ASCII"),
};

/// With `required`, whatever the type.
pub async fn a_request_without_a_key_passes_unless_one_is_required<St: ClaimStore>(store: St) {
    let (bank, idempotency) = (Bank::default(), at(&store, config()));
    let keyless = || Transfer { amount: 100, ..Transfer::default() };
    for _ in 0..2 {
        assert_eq!(bank.pay(&idempotency.layer(keyed()), keyless()).await.unwrap(), 100);
    }
    assert_eq!(bank.calls(), 2);
    let required = idempotency.layer(keyed().required());
    let refused = bank.pay(&required, keyless()).await.unwrap_err();
    assert!(is(&refused, |error| matches!(error, Error::KeyMissing)), "{refused}");
    let empty = bank.pay(&required, transfer("", 100)).await.unwrap_err();
    assert!(is(&empty, |error| matches!(error, Error::KeyInvalid(InvalidKey::Empty))), "{empty}");
    let long = bank.pay(&required, transfer(LONG, 100)).await.unwrap_err();
    assert!(is(&long, |error| matches!(error, Error::KeyInvalid(InvalidKey::TooLong))), "{long}");
    assert_eq!(bank.calls(), 2);
}

/// What `Claim` tells whoever carries it out.
pub async fn the_handler_is_shown_its_claim<St: ClaimStore>(store: St) {
    let (bank, config) = (Bank::default(), config().hold_unknown(Duration::ZERO));
    let layer = at(&store, config).layer(keyed());
    bank.fail("the connection was lost");
    bank.pay(&layer, transfer("t-1", 100)).await.unwrap_err();
    bank.pay(&layer, transfer("t-1", 100)).await.unwrap();
    bank.pay(&layer, transfer("t-2", 100)).await.unwrap();
    let asked = bank.asked.lock().unwrap().clone();
    let claims: Vec<Claim> = asked.into_iter().map(|transfer| transfer.claim.unwrap()).collect();
    let epochs: Vec<_> = claims.iter().map(|claim| (claim.epoch(), claim.unfinished())).collect();
    assert_eq!(epochs, [(1, 0), (2, 1), (1, 0)]);
    assert_eq!(claims[0].derive("charge"), claims[1].derive("charge"), "the same at each attempt");
    assert_ne!(claims[0].derive("charge"), claims[2].derive("charge"));
    assert_ne!(claims[0].derive("charge"), claims[0].derive("mail"));
}

/// IA-30: what errors say.
pub async fn an_error_frees_the_key_only_where_nothing_was_sent<St: ClaimStore>(store: St) {
    let (bank, idempotency) = (Bank::default(), at(&store, config()));
    let layer = idempotency.layer(keyed());
    bank.fail(Refused::new("circuit breaker", "bank".into(), Reason::CircuitOpen));
    bank.pay(&layer, transfer("t-1", 100)).await.unwrap_err();
    assert_eq!(bank.pay(&layer, transfer("t-1", 100)).await.unwrap(), 100, "it was not sent");

    bank.fail(io::Error::other("broken pipe"));
    let failed = bank.pay(&layer, transfer("t-2", 100)).await.unwrap_err();
    assert!(find::<io::Error>(&*failed).is_some(), "it is the bank's own: {failed}");
    let refused = bank.pay(&layer, transfer("t-2", 100)).await.unwrap_err();
    assert!(is(&refused, |error| matches!(error, Error::InFlight { .. })), "nobody knows: {refused}");

    let layer = idempotency.layer(keyed().success_only());
    bank.fail(io::Error::other("broken pipe"));
    bank.pay(&layer, transfer("t-3", 100)).await.unwrap_err();
    assert_eq!(bank.pay(&layer, transfer("t-3", 100)).await.unwrap(), 100);
}

/// IA-30: a closure decides.
pub async fn a_closure_judges_answers_and_errors<St: ClaimStore>(store: St) {
    let (bank, idempotency) = (Bank::default(), at(&store, config()));
    let layer = idempotency.layer(keyed().judge(|answer| match answer {
        Ok(0) => Outcome::NotExecuted,
        Ok(_) => Outcome::Definitive,
        Err(error) if error.to_string() == "no such account" => Outcome::NotExecuted,
        // It cannot be stored, so that this comes to the same as `Unknown`.
        Err(_) => Outcome::Definitive,
    }));
    for (id, amount, calls) in [("free", 0, 2), ("kept", 7, 1)] {
        let before = bank.calls();
        for _ in 0..2 {
            assert_eq!(bank.pay(&layer, transfer(id, amount)).await.unwrap(), amount);
        }
        assert_eq!(bank.calls() - before, calls, "{id}");
    }
    bank.fail("no such account");
    bank.pay(&layer, transfer("t-1", 7)).await.unwrap_err();
    assert_eq!(bank.pay(&layer, transfer("t-1", 7)).await.unwrap(), 7);
    bank.fail("broken pipe");
    bank.pay(&layer, transfer("t-2", 7)).await.unwrap_err();
    let refused = bank.pay(&layer, transfer("t-2", 7)).await.unwrap_err();
    assert!(is(&refused, |error| matches!(error, Error::InFlight { .. })), "{refused}");
}

/// IA-9: a function looks what has happened.
pub async fn an_unknown_transfer_is_looked_up<St: ClaimStore>(store: St) {
    let config = config().hold_unknown(Duration::ZERO);
    for (id, found) in [
        ("done", Some(Reconciled::Done(99))),
        ("not done", Some(Reconciled::NotDone)),
        ("unknown", Some(Reconciled::Unknown)),
        ("failed", None),
    ] {
        let answer = found.clone();
        let layer = at(&store, config.clone()).layer(keyed().reconcile(move |claim: Claim| {
            let found = answer.clone().ok_or_else(|| BoxError::from("the bank does not answer"));
            async move {
                assert_eq!(claim.unfinished(), 1);
                found
            }
        }));
        let bank = Bank::default();
        bank.fail("the connection was lost");
        bank.pay(&layer, transfer(id, 100)).await.unwrap_err();
        for _ in 0..2 {
            let paid = bank.pay(&layer, transfer(id, 100)).await;
            match &found {
                Some(Reconciled::Done(amount)) => assert_eq!((paid.unwrap(), bank.calls()), (*amount, 1)),
                Some(Reconciled::NotDone) => assert_eq!((paid.unwrap(), bank.calls()), (100, 2)),
                Some(Reconciled::Unknown) => {
                    assert!(is(&paid.unwrap_err(), |error| matches!(error, Error::Unknown)));
                    assert_eq!(bank.calls(), 1);
                }
                None => {
                    assert!(is(&paid.unwrap_err(), |error| matches!(error, Error::Unreconciled(_))));
                    assert_eq!(bank.calls(), 1);
                }
            }
        }
    }
}
