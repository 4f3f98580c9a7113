//! The store in Redis, against a real server.

mod failures;

use std::time::Duration;

use buttress_store::conformance::Harness;
use buttress_store::{ClaimStore, Claimed, Redis, Written};
use store_tests::{HOUR, Proxy, race, request, trips, value};

/// A server of its own for each case.
struct Server(services::Redis);

impl Server {
    fn start() -> Self {
        Self(services::Redis::start())
    }
}

impl Harness for Server {
    type Store = Redis;

    async fn store(&self) -> Redis {
        open(&self.0).await
    }

    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    fn expires_by_itself(&self) -> bool {
        true
    }
}

mod claims {
    buttress_store::claim_conformance!(super::Server::start());
}

mod journals {
    buttress_store::journal_conformance!(super::Server::start());
}

mod answers {
    buttress_store::answer_conformance!(super::Server::start());
}

async fn open(server: &services::Redis) -> Redis {
    Redis::at(server.url()).unwrap().timeout(Duration::from_secs(60)).open().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_race_for_a_thousand_keys_and_each_key_has_one_winner() {
    let server = services::Redis::start();
    // What two processes have: connections of their own, and nothing in common.
    race([open(&server).await, open(&server).await]).await;
}

#[tokio::test]
async fn stores_with_different_prefixes_have_nothing_in_common() {
    let server = services::Redis::start();
    let one = Redis::at(server.url()).unwrap().prefix("one").open().await.unwrap();
    let other = Redis::at(server.url()).unwrap().prefix("other").open().await.unwrap();
    for store in [one, other] {
        assert!(matches!(store.claim(&request("a")).await.unwrap(), Claimed::Owned(_)));
    }
}

#[tokio::test]
async fn what_is_of_no_use_any_more_is_gone_from_the_server() {
    let server = services::Redis::start();
    let store = open(&server).await;
    let short = Duration::from_millis(20);
    for index in 0..50 {
        let claimed = store.claim(&request(&index.to_string())).await.unwrap();
        let Claimed::Owned(claim) = claimed else { panic!("{claimed:?}") };
        assert_eq!(store.complete(&claim, &value("answer"), short).await.unwrap(), Written::Applied);
    }
    let client = redis::Client::open(server.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    // The server looks for them ten times a second.
    loop {
        let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut connection).await.unwrap();
        if keys == ["buttress:version"] {
            return;
        }
        tokio::time::sleep(short).await;
    }
}

#[tokio::test]
async fn every_verb_is_one_round_trip_the_first_one_included() {
    let server = services::Redis::start();
    let proxy = Proxy::start(server.port()).await;
    let url = format!("redis://127.0.0.1:{}/", proxy.port());
    let store = Redis::at(url).unwrap().timeout(HOUR).open().await.unwrap();
    for name in ["first", "second"] {
        for (verb, trips) in trips(&store, &proxy, name).await {
            assert_eq!(trips, 1, "{verb}");
        }
    }
}

#[tokio::test]
async fn a_claim_that_is_not_to_be_had_writes_nothing_to_the_log() {
    let server = services::Redis::start();
    let store = open(&server).await;
    let Claimed::Owned(done) = store.claim(&request("done")).await.unwrap() else { panic!("it is free") };
    assert_eq!(store.complete(&done, &value("answer"), HOUR).await.unwrap(), Written::Applied);
    assert!(matches!(store.claim(&request("in flight")).await.unwrap(), Claimed::Owned(_)));
    let client = redis::Client::open(server.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let before = log_size(&mut connection).await;
    for _ in 0..5 {
        assert!(matches!(store.claim(&request("done")).await.unwrap(), Claimed::Done(_)));
        assert!(matches!(store.claim(&request("in flight")).await.unwrap(), Claimed::InFlight { .. }));
    }
    assert_eq!(log_size(&mut connection).await, before);
    assert!(matches!(store.claim(&request("another")).await.unwrap(), Claimed::Owned(_)));
    assert!(log_size(&mut connection).await > before);
}

async fn log_size(connection: &mut redis::aio::MultiplexedConnection) -> u64 {
    let info: String = redis::cmd("INFO").arg("persistence").query_async(connection).await.unwrap();
    let size = info.lines().find_map(|line| line.strip_prefix("aof_current_size:"));
    size.and_then(|size| size.trim().parse().ok()).expect("the server tells")
}
