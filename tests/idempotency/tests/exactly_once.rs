//! Effects that complete their claim in a transaction of their own.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use buttress_core::BoxError;
use buttress_idempotency::{
    Claim, Config, Error, Hash, HttpKeys, Idempotency, InFlight, Ran, RunError, record_of,
};
use buttress_store::{Postgres, ScopedKey};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use idempotency_tests::{Got, post};
use tokio::sync::Notify;
use tokio_postgres::{Client, NoTls};
use tower::{Layer, ServiceExt, service_fn};

/// A ledger beside the claims.
struct Bank {
    server: services::Postgres,
    store: Postgres,
}

impl Bank {
    async fn open() -> Self {
        let server = services::Postgres::start();
        let store = server.store().await;
        let bank = Self { server, store };
        bank.connect().await.batch_execute("CREATE TABLE ledger (amount bigint)").await.unwrap();
        bank
    }

    async fn connect(&self) -> Client {
        connect(&self.server.config()).await
    }

    /// What pays, and completes in the same transaction.
    fn teller(&self) -> Teller {
        Teller { store: self.store.clone(), config: self.server.config() }
    }

    async fn payments(&self) -> i64 {
        self.connect().await.query_one("SELECT count(*) FROM ledger", &[]).await.unwrap().get(0)
    }
}

async fn connect(config: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(config, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

#[derive(Clone)]
struct Teller {
    store: Postgres,
    config: String,
}

impl Teller {
    async fn pay(
        &self,
        claim: &Claim,
        record: &buttress_store::Record,
        commits: bool,
    ) -> Result<(), BoxError> {
        let mut client = connect(&self.config).await;
        let transaction = client.transaction().await?;
        transaction.execute("INSERT INTO ledger VALUES (7)", &[]).await?;
        claim.complete_in(&self.store, &transaction, record).await?;
        if commits {
            transaction.commit().await?;
        }
        Ok(())
    }
}

fn guard(bank: &Bank, config: Config) -> Idempotency<Postgres> {
    Idempotency::new("test", bank.store.clone(), config).unwrap()
}

/// A lease that is over soon.
fn short() -> Config {
    let lease = Duration::from_secs(1);
    heir().lease(lease).ceiling(lease)
}

/// Whoever takes over waits until it can.
fn heir() -> Config {
    Config::new().store_timeout(Duration::from_secs(60)).in_flight(InFlight::Wait(Duration::from_secs(600)))
}

type Tried = Result<Ran<u64>, RunError<io::Error>>;

async fn run<F>(
    idempotency: &Idempotency<Postgres>,
    effect: impl FnOnce(Claim) -> F + Send + 'static,
) -> Tried
where
    F: Future<Output = io::Result<u64>> + Send + 'static,
{
    idempotency.run(ScopedKey::try_new("", "k").unwrap(), Hash::new().fingerprint(), effect).await
}

/// As the page on idempotency has it.
#[tokio::test]
async fn a_response_that_was_completed_with_its_transaction_is_replayed_as_it_was() {
    let bank = Bank::open().await;
    let keys = HttpKeys::http_default();
    let (teller, recorder) = (bank.teller(), keys.clone());
    let service = guard(&bank, heir()).layer(keys).layer(service_fn(move |request: Request<_>| {
        let (teller, keys) = (teller.clone(), recorder.clone());
        let claim = request.extensions().get::<Claim>().unwrap().clone();
        async move {
            let response = Response::builder().status(201).header("x-payment", "7").header("date", "now");
            let response = response.header("connection", "x-hop").header("x-hop", "1");
            let response = response.body(Bytes::from_static(b"paid")).unwrap();
            teller.pay(&claim, &keys.record(&response), true).await.unwrap();
            Ok::<_, Infallible>(response.map(Full::new))
        }
    }));
    let mut answers = Vec::new();
    for replayed in [false, true, true] {
        let got = Got::of(service.clone().oneshot(post("k", "100")).await.unwrap()).await;
        assert_eq!((got.seen(), &got.body[..]), ((201, replayed), &b"paid"[..]));
        answers.push(got.headers);
    }
    assert_eq!(answers[1]["x-payment"], "7");
    assert!(
        ["date", "connection", "x-hop"].iter().all(|name| !answers[1].contains_key(*name)),
        "{answers:?}"
    );
    assert_eq!(bank.payments().await, 1);
}

/// IA-10: whatever the effect answers then, it has not happened.
#[tokio::test]
async fn an_effect_whose_transaction_was_fenced_gives_way_to_the_winner() {
    let bank = Bank::open().await;
    let (begun, taken) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (teller, begins, waits) = (bank.teller(), Arc::clone(&begun), Arc::clone(&taken));
    let zombie = guard(&bank, short());
    let first = tokio::spawn(async move {
        run(&zombie, async move |claim| {
            begins.notify_one();
            waits.notified().await;
            let fenced = teller.pay(&claim, &record_of(&1), true).await.unwrap_err();
            assert!(matches!(fenced.downcast_ref(), Some(Error::Lost { .. })), "{fenced}");
            Ok(1)
        })
        .await
    });
    begun.notified().await;
    let teller = bank.teller();
    let other = guard(&bank, heir());
    let second = run(&other, async move |claim| {
        teller.pay(&claim, &record_of(&2), true).await.unwrap();
        Ok(2)
    });
    assert_eq!(second.await.unwrap(), Ran::Executed(2));
    taken.notify_one();
    assert_eq!(first.await.unwrap().unwrap(), Ran::Replayed(2));
    assert_eq!(bank.payments().await, 1);
}

/// IA-10: the winner is gone, too. Nothing was done, and so there is nothing to record.
#[tokio::test]
async fn the_answer_of_a_transaction_that_was_fenced_is_not_recorded_though_nobody_has_the_key() {
    let bank = Bank::open().await;
    let teller = bank.teller();
    let store = bank.store.clone();
    let idempotency = guard(&bank, heir());
    let lost = run(&idempotency, async move |claim| {
        use buttress_store::ClaimStore;
        let _ = store.release(claim.stored()).await.unwrap();
        teller.pay(&claim, &record_of(&1), true).await.unwrap_err();
        Ok(1)
    })
    .await;
    assert!(matches!(lost, Err(RunError::Idempotency(Error::Lost { .. }))), "{lost:?}");
    let teller = bank.teller();
    let again = run(&idempotency, async move |claim| {
        teller.pay(&claim, &record_of(&2), true).await.unwrap();
        Ok(2)
    });
    assert_eq!(again.await.unwrap(), Ran::Executed(2));
    assert_eq!(bank.payments().await, 1);
}

/// An answer stands for what was committed, and for nothing else.
#[tokio::test]
async fn the_answer_of_a_transaction_that_was_rolled_back_is_not_recorded() {
    let bank = Bank::open().await;
    let idempotency = guard(&bank, short());
    let teller = bank.teller();
    let lost = run(&idempotency, async move |claim| {
        teller.pay(&claim, &record_of(&1), false).await.unwrap();
        Ok(1)
    })
    .await;
    assert!(matches!(lost, Err(RunError::Idempotency(Error::Lost { .. }))), "{lost:?}");
    assert_eq!(bank.payments().await, 0);
    let teller = bank.teller();
    let again = run(&idempotency, async move |claim| {
        teller.pay(&claim, &record_of(&2), true).await.unwrap();
        Ok(2)
    });
    assert_eq!(again.await.unwrap(), Ran::Executed(2));
    assert_eq!(bank.payments().await, 1);
}

/// `Mode::Observe`, and `fail_open`: there is nothing to complete, and the effect is carried out all the same.
#[tokio::test]
async fn without_a_claim_there_is_nothing_to_complete() {
    let bank = Bank::open().await;
    let idempotency = guard(&bank, heir());
    idempotency.set_mode(buttress_core::Mode::Observe);
    for number in 1..=2 {
        let teller = bank.teller();
        let ran = run(&idempotency, async move |claim| {
            assert_eq!(claim.is_protected(), number == 1);
            teller.pay(&claim, &record_of(&number), true).await.unwrap();
            Ok(number)
        });
        assert_eq!(ran.await.unwrap(), Ran::Executed(number));
    }
    assert_eq!(bank.payments().await, 2);
}
