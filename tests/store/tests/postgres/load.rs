//! Many at once, and many rows.

use buttress_store::{
    ClaimStore, Claimed, Command, Created, Flow, JournalStore, Owner, Postgres, Wanted, Written,
};
use store_tests::{HOUR, Proxy, owned, race, request, run, trips, value};
use tokio::task::JoinSet;

use super::{connect, open};

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_race_for_a_thousand_keys_and_each_key_has_one_winner() {
    let server = services::Postgres::start();
    // What two processes have: connections of their own, and nothing in common.
    race([open(&server.config()).await, open(&server.config()).await]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_because_of_others_is_tried_again() {
    let server = services::Postgres::start();
    let client = connect(&server).await;
    client
        .batch_execute("ALTER ROLE buttress SET default_transaction_isolation = 'serializable'")
        .await
        .unwrap();
    let store = open(&server.config()).await;
    let mut claims = JoinSet::new();
    for index in 0..200 {
        let store = store.clone();
        claims.spawn(async move {
            let claimed = store.claim(&request(&(index / 10).to_string())).await.unwrap();
            if let Claimed::Owned(claim) = &claimed {
                assert_eq!(store.complete(claim, &value("answer"), HOUR).await.unwrap(), Written::Applied);
            }
            matches!(claimed, Claimed::Owned(_))
        });
    }
    let won = claims.join_all().await.into_iter().filter(|won| *won).count();
    assert_eq!(won, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_decides_does_not_fail_because_of_others() {
    let server = services::Postgres::start();
    let client = connect(&server).await;
    client
        .batch_execute("ALTER ROLE buttress SET default_transaction_isolation = 'serializable'")
        .await
        .unwrap();
    let store = open(&server.config()).await;
    assert!(matches!(store.create(&run("run"), None).await.unwrap(), Created::Queued));
    let mut deciding = JoinSet::new();
    for _ in 0..100 {
        let store = store.clone();
        deciding.spawn(async move { store.control(&run("run").id, Command::Cancel).await });
    }
    for decided in deciding.join_all().await {
        assert!(decided.unwrap().unwrap().cancel_requested);
    }
}

#[tokio::test]
async fn runs_that_are_due_are_found_by_an_index_among_many_that_are_over() {
    let server = services::Postgres::start();
    // What a session has scanned is counted when it ends at the latest, the making of the indexes included.
    drop(open(&server.config()).await);
    let client = connect(&server).await;
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'";
    while client.query_one(sessions, &[]).await.unwrap().get::<_, i64>(0) > 1 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let over =
        "INSERT INTO buttress_runs (id, name, version, fingerprint, status, reason, cancel, epoch, owner,
            worker, recoveries, entries, created, changed, input, sum)
        SELECT 'over ' || n, 'flow', 1, 'x', 4, '', false, 1, 'x', '', 0, 0, n, n, '', 0
        FROM generate_series(1, 20000) AS n";
    client.batch_execute(over).await.unwrap();
    client.batch_execute("VACUUM ANALYZE buttress_runs").await.unwrap();
    let before = scans(&client).await;
    let store = open(&server.config()).await;
    for index in 0..20 {
        store.create(&store_tests::run(&index.to_string()), None).await.unwrap();
    }
    let flows = vec![Flow { name: "flow".into(), versions: 1..=1 }];
    let wanted =
        Wanted { flows, id: None, owner: Owner::random(), worker: "test".into(), lease: HOUR, max: 5 };
    assert_eq!(store.acquire(&wanted).await.unwrap().len(), 5);
    drop(store);
    let mut after = scans(&client).await;
    while after.1 == before.1 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        after = scans(&client).await;
    }
    assert_eq!(after.0, before.0, "nothing was read from end to end");
}

/// How often the runs were read from end to end, and by the index of those that are open.
async fn scans(client: &tokio_postgres::Client) -> (i64, i64) {
    client.batch_execute("SELECT pg_stat_force_next_flush()").await.unwrap();
    let scans = "SELECT (SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'buttress_runs'),
        (SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'buttress_runs_due')";
    let row = client.query_one(scans, &[]).await.unwrap();
    (row.get(0), row.get(1))
}

#[tokio::test]
async fn every_verb_is_one_round_trip_once_its_statement_is_prepared() {
    let server = services::Postgres::start();
    let proxy = Proxy::start(server.port()).await;
    let config = server.config_by(proxy.port()).parse().unwrap();
    let one = Postgres::at(config).connections(1).timeout(HOUR);
    let store = one.open(tokio_postgres::NoTls).await.unwrap();
    trips(&store, &proxy, "prepare").await;
    for (verb, trips) in trips(&store, &proxy, "prepared").await {
        assert_eq!(trips, 1, "{verb}");
    }
}

#[tokio::test]
async fn a_claim_that_is_not_to_be_had_writes_nothing_to_the_log() {
    let server = services::Postgres::start();
    let (store, client) = (open(&server.config()).await, connect(&server).await);
    let done = owned(&store, "done").await;
    assert_eq!(store.complete(&done, &value("answer"), HOUR).await.unwrap(), Written::Applied);
    owned(&store, "in flight").await;
    let position = async || -> String {
        client.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await.unwrap().get(0)
    };
    // The server writes to it now and then for reasons of its own.
    let mut tries = 0;
    loop {
        let before = position().await;
        for _ in 0..5 {
            assert!(matches!(store.claim(&request("done")).await.unwrap(), Claimed::Done(_)));
            assert!(matches!(store.claim(&request("in flight")).await.unwrap(), Claimed::InFlight { .. }));
        }
        if position().await == before {
            return;
        }
        tries += 1;
        assert!(tries < 20, "replays are written to the log");
    }
}
