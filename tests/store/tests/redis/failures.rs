//! A server that is down, hangs, is cut off, is full, is set up badly, or holds damaged or newer values.

use std::time::Duration;

use buttress_store::{
    Appended, ClaimStore, Claimed, Command, Created, Fault, Flow, JournalStore, NewRun, Next, Owner, Query,
    Redis, StoreError, Wanted, Written,
};
use redis::AsyncTypedCommands;
use redis::aio::MultiplexedConnection;
use store_tests::{Answers, HOUR, Proxy, entry, owned, request, run, value};

use super::open;

fn may_have_been_applied(error: &StoreError) -> bool {
    error.to_string().contains("it may have been applied")
}

async fn connect(server: &services::Redis) -> MultiplexedConnection {
    let client = redis::Client::open(server.url()).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

async fn max_memory(connection: &mut MultiplexedConnection, bytes: u64) {
    let mut command = redis::cmd("CONFIG");
    let _: String = command.arg("SET").arg("maxmemory").arg(bytes).query_async(connection).await.unwrap();
}

/// Asks again until the connection was made anew, for some minutes.
async fn once_connected<T>(mut ask: impl AsyncFnMut() -> Result<T, StoreError>) -> T {
    let start = tokio::time::Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => {
                assert!(error.is_transient() && start.elapsed() < Duration::from_secs(300), "{error}");
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_server_that_is_killed_is_unavailable_and_forgets_nothing_it_acknowledged() {
    let mut server = services::Redis::start();
    let store = open(&server).await;
    let (done, open) = (owned(&store, "done").await, owned(&store, "open").await);
    assert_eq!(store.complete(&done, &value("answer"), HOUR).await.unwrap(), Written::Applied);

    server.kill();
    for _ in 0..3 {
        let error = store.claim(&request("another")).await.unwrap_err();
        assert_eq!((error.fault(), error.is_transient()), (Fault::Unavailable, true), "{error}");
    }
    server.restart();
    let claimed = once_connected(async || store.claim(&request("done")).await).await;
    assert!(matches!(claimed, Claimed::Done(_)), "{claimed:?}");
    assert_eq!(store.complete(&open, &value("late"), HOUR).await.unwrap(), Written::Applied);
}

#[tokio::test]
async fn a_token_from_before_the_server_forgot_everything_is_worth_nothing_after_it() {
    let mut server = services::Redis::start_with(&[("appendonly", "no")]);
    let store = open(&server).await;
    let lost = owned(&store, "a").await;
    server.kill();
    server.restart();
    let taken = once_connected(async || store.claim(&request("a")).await).await;
    let Claimed::Owned(taken) = taken else { panic!("the server has forgotten it: {taken:?}") };
    assert_eq!(taken.epoch(), lost.epoch(), "it cannot know better");
    let written = store.complete(&lost, &value("of a ghost"), HOUR).await.unwrap();
    assert_eq!(written, Written::Fenced { winner: None });
    assert_eq!(store.complete(&taken, &value("answer"), HOUR).await.unwrap(), Written::Applied);
}

#[tokio::test]
async fn a_server_that_never_was_there_is_unavailable_when_the_store_is_opened() {
    let store = Redis::at("redis://127.0.0.1:1/").unwrap();
    let error = store.open().await.unwrap_err();
    assert_eq!((error.fault(), may_have_been_applied(&error)), (Fault::Unavailable, false), "{error}");
    let error = Redis::at("postgres://secret@host/").unwrap_err();
    assert!(!error.to_string().contains("secret"), "{error}");
}

#[tokio::test]
async fn a_server_that_hangs_is_given_up_within_the_limit() {
    let mut server = services::Redis::start();
    // Enough to open it on any machine.
    let limit = Duration::from_secs(5);
    let store = Redis::at(server.url()).unwrap().timeout(limit).open().await.unwrap();
    server.freeze(true);
    let start = tokio::time::Instant::now();
    let error = store.claim(&request("a")).await.unwrap_err();
    assert_eq!((error.fault(), may_have_been_applied(&error)), (Fault::Timeout, true), "{error}");
    assert!(start.elapsed() >= limit, "{:?}", start.elapsed());
    server.freeze(false);
    let claimed = once_connected(async || store.claim(&request("b")).await).await;
    assert!(matches!(claimed, Claimed::Owned(_) | Claimed::InFlight { .. }), "{claimed:?}");
}

#[tokio::test]
async fn a_connection_that_never_answers_again_is_replaced() {
    let server = services::Redis::start();
    let proxy = Proxy::start(server.port()).await;
    let limit = Duration::from_secs(5);
    let url = format!("redis://127.0.0.1:{}/", proxy.port());
    let store = Redis::at(url).unwrap().timeout(limit).open().await.unwrap();
    proxy.set(Answers::Strand);
    let error = store.claim(&request("a")).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Timeout, "{error}");
    proxy.set(Answers::Pass);
    once_connected(async || store.claim(&request("b")).await).await;
}

#[tokio::test]
async fn after_a_failover_the_store_finds_the_new_primary_though_the_old_one_lives_on() {
    let (old, new) = (services::Redis::start(), services::Redis::start());
    let proxy = Proxy::start(old.port()).await;
    let url = format!("redis://127.0.0.1:{}/", proxy.port());
    let store = Redis::at(url).unwrap().timeout(Duration::from_secs(60)).open().await.unwrap();
    owned(&store, "warm").await;
    let mut demote = redis::cmd("REPLICAOF");
    demote.arg("127.0.0.1").arg(new.port());
    let _: String = demote.query_async(&mut connect(&old).await).await.unwrap();
    proxy.redirect(new.port());
    let mut tries = 0;
    while let Err(error) = store.claim(&request("a")).await {
        assert_eq!((error.fault(), may_have_been_applied(&error)), (Fault::Unavailable, false), "{error}");
        tries += 1;
        assert!(tries < 100, "it stays with the old one");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn what_was_done_while_its_answer_was_lost_is_had_by_asking_again() {
    let server = services::Redis::start();
    let proxy = Proxy::start(server.port()).await;
    let url = format!("redis://127.0.0.1:{}/", proxy.port());
    let store = Redis::at(url).unwrap().timeout(Duration::from_secs(60)).open().await.unwrap();
    // So that the server knows the scripts, and only their answers are lost.
    let warm = owned(&store, "warm").await;
    assert_eq!(store.complete(&warm, &value("answer"), HOUR).await.unwrap(), Written::Applied);

    let lost = request("a");
    proxy.set(Answers::Cut);
    let error = store.claim(&lost).await.unwrap_err();
    assert_eq!((error.fault(), may_have_been_applied(&error)), (Fault::Unavailable, true), "{error}");
    proxy.set(Answers::Pass);
    let claimed = once_connected(async || store.claim(&request("a")).await).await;
    assert!(matches!(claimed, Claimed::InFlight { .. }), "it was done: {claimed:?}");
    let Claimed::Owned(claim) = store.claim(&lost).await.unwrap() else { panic!("it is the same owner") };
    assert_eq!((claim.epoch(), claim.unfinished()), (1, 0));

    proxy.set(Answers::Cut);
    let error = store.complete(&claim, &value("answer"), HOUR).await.unwrap_err();
    assert!(may_have_been_applied(&error), "{error}");
    proxy.set(Answers::Pass);
    let claimed = once_connected(async || store.claim(&request("a")).await).await;
    assert!(matches!(claimed, Claimed::Done(_)), "it was done: {claimed:?}");
    assert_eq!(store.complete(&claim, &value("answer"), HOUR).await.unwrap(), Written::Applied);
}

#[tokio::test]
async fn a_full_server_is_an_error_that_loses_nothing_and_the_store_goes_on_once_there_is_room() {
    let server = services::Redis::start();
    let (store, mut connection) = (open(&server).await, connect(&server).await);
    let claim = owned(&store, "a").await;
    let Created::Held(hold) = store.create(&run("run"), Some(HOUR)).await.unwrap() else {
        panic!("it is new")
    };
    max_memory(&mut connection, 1).await;
    let errors = [
        store.claim(&request("b")).await.unwrap_err(),
        store.complete(&claim, &value("answer"), HOUR).await.unwrap_err(),
        store.append(&hold, 0, &[entry(0)], &Next::Done).await.unwrap_err(),
        store.create(&run("another"), None).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!((error.fault(), may_have_been_applied(&error)), (Fault::Full, false), "{error}");
    }
    max_memory(&mut connection, 0).await;
    assert_eq!(store.complete(&claim, &value("answer"), HOUR).await.unwrap(), Written::Applied);
    let appended = store.append(&hold, 0, &[entry(0)], &Next::Done).await.unwrap();
    assert!(matches!(appended, Appended::Applied { next: 1, .. }), "{appended:?}");
    assert!(store.load(&run("another").id).await.unwrap().is_none());
    owned(&store, "b").await;
}

#[tokio::test]
async fn a_damaged_record_or_entry_is_an_error_and_left_as_it_is() {
    let server = services::Redis::start();
    let (store, mut connection) = (open(&server).await, connect(&server).await);
    let claim = owned(&store, "a").await;
    assert_eq!(store.complete(&claim, &value("answer"), HOUR).await.unwrap(), Written::Applied);
    let keys: Vec<String> = connection.keys("buttress:claim:*").await.unwrap();
    connection.hset(&keys[0], "b", "answes").await.unwrap();
    assert_eq!(store.claim(&request("a")).await.unwrap_err().fault(), Fault::Corrupt);
    connection.hset(&keys[0], "b", "answer").await.unwrap();
    assert!(matches!(store.claim(&request("a")).await.unwrap(), Claimed::Done(_)));
    connection.hset(&keys[0], "o", "nobody").await.unwrap();
    assert_eq!(store.claim(&request("a")).await.unwrap_err().fault(), Fault::Corrupt);

    let Created::Held(hold) = store.create(&run("run"), Some(HOUR)).await.unwrap() else {
        panic!("it is new")
    };
    let appended = store.append(&hold, 0, &[entry(0), entry(1)], &Next::Go).await.unwrap();
    assert!(matches!(appended, Appended::Applied { .. }), "{appended:?}");
    let (entries, row) = ("{buttress:runs}:entries:run", "{buttress:runs}:run:run");
    let stored: Vec<u8> =
        redis::cmd("LINDEX").arg(entries).arg(1).query_async(&mut connection).await.unwrap();
    for at in (0..stored.len()).step_by(7) {
        let mut flipped = stored.clone();
        flipped[at] ^= 4;
        connection.lset(entries, 1, &flipped[..]).await.unwrap();
        assert_eq!(store.load(&hold.id).await.unwrap_err().fault(), Fault::Corrupt, "at {at}");
    }
    connection.lset(entries, 1, &stored[..]).await.unwrap();
    assert_eq!(store.load(&hold.id).await.unwrap().unwrap().entries.len(), 2);
    connection.ltrim(entries, 0, 0).await.unwrap();
    assert_eq!(store.load(&hold.id).await.unwrap_err().fault(), Fault::Corrupt, "one is missing");

    let fields: Vec<String> = connection.hkeys(row).await.unwrap();
    for field in fields.iter().filter(|field| !["input", "place"].contains(&&***field)) {
        let stored: Vec<u8> =
            redis::cmd("HGET").arg(row).arg(field).query_async(&mut connection).await.unwrap();
        for damaged in [Some([&stored[..], b"1"].concat()), None] {
            let changed = match damaged {
                Some(damaged) => connection.hset(row, field, damaged).await.unwrap() == 0,
                None => connection.hdel(row, field).await.unwrap() == 1,
            };
            assert!(changed, "{field}");
            let errors = [
                store.append(&hold, 2, &[], &Next::Done).await.unwrap_err(),
                JournalStore::renew(&store, &hold, HOUR).await.unwrap_err(),
                store.peek(&hold.id).await.unwrap_err(),
                store.create(&run("run"), None).await.unwrap_err(),
                store.control(&hold.id, Command::Cancel).await.unwrap_err(),
            ];
            for error in errors {
                assert_eq!(error.fault(), Fault::Corrupt, "{field}: {error}");
            }
        }
        connection.hset(row, field, stored).await.unwrap();
    }
    assert!(matches!(
        store.append(&hold, 1, &[], &Next::Done).await.unwrap(),
        Appended::Conflict { next: 2 }
    ));
}

#[tokio::test]
async fn what_is_due_is_found_behind_many_that_nobody_wants_and_a_damaged_run_keeps_no_other_from_it() {
    let server = services::Redis::start();
    let (store, mut connection) = (open(&server).await, connect(&server).await);
    for index in 0..450 {
        let older = NewRun { version: 9, ..run(&format!("older {index}")) };
        assert!(matches!(store.create(&older, None).await.unwrap(), Created::Queued));
    }
    for name in ["damaged", "sound"] {
        assert!(matches!(store.create(&run(name), None).await.unwrap(), Created::Queued));
    }
    connection.hset("{buttress:runs}:run:damaged", "epoch", 7).await.unwrap();
    let page = store.list(&Query { name: Some("nobody's".into()), ..Query::default() }).await.unwrap();
    assert_eq!((page.runs.len(), &page.damaged[..]), (0, &[run("damaged").id][..]));
    let wanted = Wanted {
        flows: vec![Flow { name: run("sound").name, versions: 0..=8 }],
        id: None,
        owner: Owner::random(),
        worker: "test".into(),
        lease: HOUR,
        max: 1,
    };
    let acquired = store.acquire(&wanted).await.unwrap();
    assert_eq!(acquired.iter().map(|run| run.hold.id.as_str()).collect::<Vec<_>>(), ["sound"]);
    let error = store.acquire(&wanted).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Corrupt, "it is told of once nothing else is due");
}

#[tokio::test]
async fn whoever_attaches_writes_nothing() {
    let server = services::Redis::start();
    let attach = async || Redis::at(server.url()).unwrap().attach().await;
    let error = attach().await.unwrap_err();
    assert_eq!(error.fault(), Fault::Misconfigured);
    assert!(error.to_string().contains("an application has to open it first"), "{error}");
    let mut connection = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
    assert_eq!(redis::cmd("DBSIZE").query::<u64>(&mut connection).unwrap(), 0);

    let store = Redis::at(server.url()).unwrap().open().await.unwrap();
    store.create(&run("run"), None).await.unwrap();
    assert!(attach().await.unwrap().load(&run("run").id).await.unwrap().is_some());
}

#[tokio::test]
async fn what_a_newer_release_has_written_is_refused() {
    let server = services::Redis::start();
    open(&server).await;
    let mut connection = connect(&server).await;
    connection.set("buttress:version", 9).await.unwrap();
    let error = Redis::at(server.url()).unwrap().open().await.unwrap_err();
    assert_eq!(error.fault(), Fault::Version);
    assert!(error.to_string().contains("what it holds has version 9, this release knows 1"), "{error}");
}

#[tokio::test]
async fn a_set_up_that_would_lose_claims_is_a_warning() {
    let server = services::Redis::start();
    assert_eq!(open(&server).await.warnings(), &[] as &[String]);
    let server = services::Redis::start_with(&[("appendonly", "yes"), ("maxmemory-policy", "allkeys-lru")]);
    let store = open(&server).await;
    let warnings = store.warnings();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].contains("appendfsync is everysec, and not always"), "{warnings:?}");
    assert!(warnings[1].contains("maxmemory-policy is allkeys-lru, and not noeviction"), "{warnings:?}");
}

#[tokio::test]
async fn who_is_not_let_in_is_told_so() {
    let server = services::Redis::start_with(&[("requirepass", "secret")]);
    let error = Redis::at(server.url()).unwrap().open().await.unwrap_err();
    assert_eq!(error.fault(), Fault::Misconfigured, "{error}");
    let url = server.url().replace("redis://", "redis://:wrong@");
    let error = Redis::at(url).unwrap().open().await.unwrap_err();
    assert_eq!(error.fault(), Fault::Misconfigured, "{error}");
    assert!(!format!("{error} {error:?}").contains("wrong@"));
}
