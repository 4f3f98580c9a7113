//! CP-4: a step that is a transaction of the application's own PostgreSQL. The other stores have no transaction that an
//! application could write in.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use buttress_checkpoint::{
    Begun, Cx, Failure, StepKey, StepTransaction, TransactionError, Workflow, Workflows,
};
use buttress_cli::AnyStore;
use buttress_core::Backoff;
use checkpoint_tests::cases::{Effects, id};
use checkpoint_tests::{Worker, long, short};
use tokio_postgres::{Client, NoTls};

struct Bank {
    server: services::Postgres,
    client: Client,
    store: AnyStore,
}

async fn connect(config: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(config, NoTls).await.expect("it connects");
    tokio::spawn(connection);
    client
}

impl Bank {
    async fn open() -> Self {
        let server = services::Postgres::start();
        let client = connect(&server.config()).await;
        let (one, other) = tokio::join!(StepTransaction::install(&client), async {
            StepTransaction::install(&connect(&server.config()).await).await
        });
        one.and(other).unwrap();
        client
            .batch_execute("CREATE TABLE accounts AS SELECT 1 AS id, 100::bigint AS balance")
            .await
            .unwrap();
        let store = AnyStore::create(&server.url()).await.unwrap();
        Self { server, client, store }
    }

    async fn balance(&self) -> i64 {
        self.client.query_one("SELECT balance FROM accounts", &[]).await.unwrap().get(0)
    }
}

async fn withdraw(transaction: &StepTransaction<'_>) -> Result<i64, Failure> {
    let sql = "UPDATE accounts SET balance = balance - 7 RETURNING balance";
    Ok(transaction.query_one(sql, &[]).await?.get(0))
}

/// Where the first attempt stops.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Point {
    /// The worker crashes before the commit.
    Written,
    /// The worker crashes between the commit and the record.
    Committed,
    /// The connection breaks before the commit.
    Broken,
    /// The commit was made, and its answer is lost.
    Answer,
    Nowhere,
}

fn register(
    bank: &Bank,
    workflows: &Workflows<AnyStore>,
    effects: &Effects,
    point: Point,
) -> Workflow<AnyStore, (), i64, Failure> {
    let (config, effects, first) = (bank.server.config(), effects.clone(), Arc::new(AtomicBool::new(true)));
    let code = move |cx: Cx, ()| {
        let (config, effects, first) = (config.clone(), effects.clone(), first.clone());
        async move {
            let transfer = async || {
                effects.add("attempt");
                let mut client = connect(&config).await;
                let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
                let transaction = match StepTransaction::begin(&mut client).await? {
                    Begun::Done(balance) => return Ok(balance),
                    Begun::Open(transaction) => transaction,
                };
                let stops = first.swap(false, Ordering::SeqCst);
                let balance = withdraw(&transaction).await?;
                if stops && point == Point::Written {
                    return effects.hang("stop").await;
                }
                if stops && point == Point::Broken {
                    let sql = "SELECT pg_terminate_backend($1, 10000)";
                    connect(&config).await.execute(sql, &[&pid]).await?;
                }
                transaction.commit(&balance).await?;
                match point {
                    Point::Committed if stops => effects.hang("stop").await,
                    Point::Answer if stops => Err(Failure::new("the connection was reset")),
                    _ => Ok::<_, Failure>(balance),
                }
            };
            let step = cx.step("transfer", transfer).retry(Backoff::constant(Duration::from_millis(10)), 3);
            Ok(step.await?)
        }
    };
    workflows.register("w", 1, code).unwrap()
}

/// CP-4, a crash around the commit, and a lost answer.
#[tokio::test]
async fn what_a_step_writes_and_its_result_are_there_both_or_neither() {
    for point in [Point::Written, Point::Committed, Point::Broken, Point::Answer, Point::Nowhere] {
        let bank = Bank::open().await;
        let effects = Effects::default();
        let first = Workflows::with(bank.store.clone(), short());
        let flow = register(&bank, &first, &effects, point);
        flow.start("run", ()).await.unwrap();
        let worker = Worker::start(&first);
        if matches!(point, Point::Written | Point::Committed) {
            effects.until("stop", 1).await;
            worker.crash().await;
            assert_eq!(bank.balance().await, if point == Point::Written { 100 } else { 93 });
            let second = Workflows::with(bank.store.clone(), long());
            let flow = register(&bank, &second, &effects, Point::Nowhere);
            let worker = Worker::start(&second);
            assert_eq!(flow.handle(id("run")).result().await.unwrap(), 93, "{point:?}");
            worker.stop().await;
        } else {
            assert_eq!(flow.handle(id("run")).result().await.unwrap(), 93, "{point:?}");
            worker.stop().await;
        }
        assert_eq!(bank.balance().await, 93, "{point:?}");
        assert_eq!(effects.count("attempt"), if point == Point::Nowhere { 1 } else { 2 }, "{point:?}");
    }
}

/// CP-4, a rival.
#[tokio::test]
async fn of_two_that_run_at_once_the_second_waits_and_gives_the_first_ones_result() {
    let bank = Bank::open().await;
    for commits in [false, true] {
        let (mut one, mut other) =
            (connect(&bank.server.config()).await, connect(&bank.server.config()).await);
        StepKey::scope("key".into(), async {
            let Begun::Open(first) = StepTransaction::begin::<i64>(&mut one).await.unwrap() else {
                panic!("nothing was committed")
            };
            let balance = withdraw(&first).await.unwrap();
            let rival = tokio::spawn(StepKey::scope("key".into(), async move {
                match StepTransaction::begin::<i64>(&mut other).await.unwrap() {
                    Begun::Done(balance) => Some(balance),
                    // It is dropped, and rolled back.
                    Begun::Open(second) => withdraw(&second).await.map(|_| None).unwrap(),
                }
            }));
            // It waits for the first one, and has written nothing.
            let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted";
            while bank.client.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) == 0 {
                assert!(!rival.is_finished());
                tokio::task::yield_now().await;
            }
            if commits {
                first.commit(&balance).await.unwrap();
            } else {
                drop(first);
            }
            assert_eq!(rival.await.unwrap(), commits.then_some(93));
        })
        .await;
    }
    assert_eq!(bank.balance().await, 93);
}

#[tokio::test]
async fn a_step_has_a_transaction_for_each_call_and_forgets_old_ones() {
    let bank = Bank::open().await;
    let mut client = connect(&bank.server.config()).await;
    let outside = StepTransaction::begin::<i64>(&mut client).await.err();
    assert!(matches!(outside, Some(TransactionError::OutsideStep)));
    for done in [false, true] {
        StepKey::scope("key".into(), async {
            for number in 1..=2 {
                match StepTransaction::begin::<i64>(&mut client).await.unwrap() {
                    Begun::Open(open) if !done => open.commit(&number).await.unwrap(),
                    Begun::Done(stored) => assert_eq!((stored, done), (number, true)),
                    Begun::Open(_) => panic!("it was committed"),
                }
            }
        })
        .await;
    }
    assert_eq!(StepTransaction::prune(&client, Duration::from_secs(3600)).await.unwrap(), 0);
    assert_eq!(StepTransaction::prune(&client, Duration::ZERO).await.unwrap(), 2);
}
