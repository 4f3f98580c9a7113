//! Who waits here learns at once what another process has done.

use std::future::poll_fn;
use std::task::{Poll, ready};
use std::time::Duration;

use buttress_store::{ClaimStore, Postgres, Waited, Written};
use store_tests::{HOUR, owned, request, value};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_postgres::{AsyncMessage, Client, NoTls};

use super::{connect, open};

/// Shorter than the pauses of those who look for themselves are after a while, and far longer than a message takes.
const SOON: Duration = Duration::from_millis(100);

const KEYS: usize = 10;

fn name(key: usize) -> String {
    format!("key {key}")
}

/// Waits until so many keys are waited for by somebody who is told.
async fn awaited(client: &Client, keys: i64) {
    let sql = "SELECT count(*) FROM buttress_claims WHERE state = 0 AND awaited";
    while client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) < keys {
        sleep(Duration::from_millis(5)).await;
    }
}

/// The sessions that listen.
async fn listeners(client: &Client) -> Vec<i32> {
    let sql = "SELECT pid FROM pg_stat_activity
        WHERE query LIKE 'LISTEN%' AND state = 'idle' AND pid <> pg_backend_pid()";
    client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

async fn listening(client: &Client) -> i32 {
    loop {
        if let [listener] = listeners(client).await[..] {
            return listener;
        }
        sleep(Duration::from_millis(5)).await;
    }
}

/// Most of ten keys are heard of soon after their end, in one of twenty rounds: a machine may be too busy in some of them. So
/// many keys, and after the pauses have become long: who looks for itself is never that lucky.
async fn hears_soon(one: &Postgres, other: &Postgres) {
    let mut all = Vec::new();
    for round in 0..20 {
        let delays = delays(one, other, &round.to_string()).await;
        if delays[KEYS / 2] < SOON {
            return;
        }
        all.push(delays);
    }
    panic!("{all:?}");
}

/// How long after its end each of ten keys was heard of, the shortest first.
async fn delays(one: &Postgres, other: &Postgres, round: &str) -> Vec<Duration> {
    let mut claims = Vec::new();
    let mut waiting = JoinSet::new();
    for key in 0..KEYS {
        let name = format!("{round} {}", name(key));
        claims.push(owned(other, &name).await);
        let (store, request) = (one.clone(), request(&name));
        waiting.spawn(async move {
            let waited = store.wait(request.key(), request.fingerprint(), HOUR).await.unwrap();
            assert!(matches!(waited, Waited::Done(_) | Waited::Free), "{waited:?}");
            (key, Instant::now())
        });
    }
    sleep(Duration::from_millis(1500)).await;
    let mut ended = Vec::new();
    for (key, claim) in claims.iter().enumerate() {
        let written = if key % 2 == 0 {
            other.complete(claim, &value("answer"), HOUR).await.unwrap()
        } else {
            other.release(claim).await.unwrap()
        };
        assert_eq!(written, Written::Applied);
        ended.push(Instant::now());
    }
    let mut delays: Vec<_> = waiting
        .join_all()
        .await
        .into_iter()
        .map(|(key, heard)| heard.saturating_duration_since(ended[key]))
        .collect();
    delays.sort();
    delays
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_learns_at_once_what_another_process_has_done() {
    let server = services::Postgres::start();
    let (one, other) = (open(&server.config()).await, open(&server.config()).await);
    hears_soon(&one, &other).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_learns_of_it_even_if_the_connection_that_listens_is_cut_and_it_is_made_anew() {
    let server = services::Postgres::start();
    let (one, other) = (open(&server.config()).await, open(&server.config()).await);
    let client = connect(&server).await;
    let claim = owned(&other, "a").await;
    let waiter = one.clone();
    let waiting = tokio::spawn(async move {
        let request = request("a");
        waiter.wait(request.key(), request.fingerprint(), HOUR).await
    });
    awaited(&client, 1).await;
    let first = listening(&client).await;
    client.execute("SELECT pg_terminate_backend($1)", &[&first]).await.unwrap();
    assert_eq!(other.complete(&claim, &value("answer"), HOUR).await.unwrap(), Written::Applied);
    assert!(matches!(waiting.await.unwrap().unwrap(), Waited::Done(_)));

    hears_soon(&one, &other).await;
    assert_ne!(listening(&client).await, first);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completion_in_the_callers_own_transaction_is_told_of_when_that_is_committed() {
    let server = services::Postgres::start();
    let (one, other) = (open(&server.config()).await, open(&server.config()).await);
    let (mut client, observer) = (connect(&server).await, connect(&server).await);
    let claim = owned(&other, "a").await;
    let waiting = tokio::spawn(async move {
        let request = request("a");
        one.wait(request.key(), request.fingerprint(), HOUR).await
    });
    awaited(&observer, 1).await;
    listening(&observer).await;
    let transaction = client.transaction().await.unwrap();
    let written = other.complete_in(&transaction, &claim, &value("answer"), HOUR).await.unwrap();
    assert_eq!(written, Written::Applied);
    assert!(!waiting.is_finished());
    transaction.commit().await.unwrap();
    assert!(matches!(waiting.await.unwrap().unwrap(), Waited::Done(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_told_of_what_nobody_waits_for_and_nobody_listens_who_does_not_wait() {
    let server = services::Postgres::start();
    let store = open(&server.config()).await;
    let (mut told, client) = told(&server).await;
    let nobody = owned(&store, "nobody waits").await;
    assert_eq!(store.complete(&nobody, &value("answer"), HOUR).await.unwrap(), Written::Applied);
    let request = request("nobody waits");
    let looked = store.wait(request.key(), request.fingerprint(), Duration::ZERO).await.unwrap();
    assert!(matches!(looked, Waited::Done(_)));
    assert!(listeners(&client).await.is_empty());

    let somebody = owned(&store, "somebody waits").await;
    let waiting = {
        let (store, key) = (store.clone(), somebody.key().clone());
        tokio::spawn(async move { store.wait(&key, request.fingerprint(), HOUR).await })
    };
    awaited(&client, 1).await;
    assert_eq!(store.complete(&somebody, &value("answer"), HOUR).await.unwrap(), Written::Applied);
    waiting.await.unwrap().unwrap();
    client.batch_execute("NOTIFY buttress_claims, 'the end'").await.unwrap();
    let first = told.recv().await.unwrap();
    assert!(first.parse::<u64>().is_ok(), "not the key itself: {first}");
    assert_eq!(told.recv().await.unwrap(), "the end");
}

/// What all are told of from now on, and a connection.
async fn told(server: &services::Postgres) -> (UnboundedReceiver<String>, Client) {
    let (client, mut connection) = tokio_postgres::connect(&server.config(), NoTls).await.unwrap();
    let (sender, told) = unbounded_channel();
    tokio::spawn(poll_fn(move |cx| {
        while let Some(Ok(message)) = ready!(connection.poll_message(cx)) {
            if let AsyncMessage::Notification(notification) = message {
                let _ = sender.send(notification.payload().to_owned());
            }
        }
        Poll::Ready(())
    }));
    client.batch_execute("LISTEN buttress_claims").await.unwrap();
    (told, client)
}
