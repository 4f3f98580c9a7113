//! A server that is down, hangs, is cut off, is set up badly, or holds damaged or newer rows.

use std::time::Duration;

use buttress_store::{
    Appended, ClaimStore, Claimed, Created, Fault, JournalStore, Next, Postgres, Query, RunId, StoreError,
    Written,
};
use store_tests::{Answers, HOUR, Proxy, entry, owned, request, run, value};
use tokio_postgres::NoTls;

use super::{connect, open};

fn may_have_been_applied(error: &StoreError) -> bool {
    error.to_string().contains("it may have been applied")
}

#[tokio::test]
async fn a_server_that_is_killed_is_unavailable_and_forgets_nothing_it_acknowledged() {
    let mut server = services::Postgres::start();
    let store = open(&server.config()).await;
    let (done, open) = (owned(&store, "done").await, owned(&store, "open").await);
    assert_eq!(store.complete(&done, &value("answer"), HOUR).await.unwrap(), Written::Applied);

    server.kill();
    for _ in 0..3 {
        let error = store.claim(&request("another")).await.unwrap_err();
        assert_eq!((error.fault(), error.is_transient()), (Fault::Unavailable, true), "{error}");
    }
    let error = store.complete(&open, &value("late"), HOUR).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Unavailable, "{error}");

    server.restart();
    assert!(
        matches!(store.claim(&request("done")).await.unwrap(), Claimed::Done(_)),
        "new connections are made"
    );
    assert_eq!(store.complete(&open, &value("late"), HOUR).await.unwrap(), Written::Applied);
}

#[tokio::test]
async fn a_server_that_never_was_there_is_unavailable_when_the_store_is_opened() {
    let config = "host=127.0.0.1 port=1 user=nobody".parse().unwrap();
    let error = Postgres::open(config).await.unwrap_err();
    assert_eq!((error.fault(), may_have_been_applied(&error)), (Fault::Unavailable, false), "{error}");
}

#[tokio::test]
async fn a_server_that_hangs_is_given_up_within_the_limit_and_its_connection_is_not_used_again() {
    let server = services::Postgres::start();
    let proxy = Proxy::start(server.port()).await;
    let config = server.config_by(proxy.port()).parse().unwrap();
    // Enough to open it on any machine.
    let limit = Duration::from_secs(5);
    let store = Postgres::at(config).timeout(limit).connections(1).open(NoTls).await.unwrap();
    proxy.set(Answers::Hold);
    let start = tokio::time::Instant::now();
    let error = store.claim(&request("a")).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Timeout, "{error}");
    assert!(start.elapsed() >= limit, "{:?}", start.elapsed());
    proxy.set(Answers::Pass);
    let mut tries = 0;
    while let Err(error) = store.claim(&request("b")).await {
        assert_eq!(error.fault(), Fault::Timeout, "{error}");
        tries += 1;
        assert!(tries < 20, "it does not recover");
    }
}

#[tokio::test]
async fn what_was_given_up_does_not_go_on_waiting_in_the_server() {
    let server = services::Postgres::start();
    let (config, limit) = (server.config().parse().unwrap(), Duration::from_secs(5));
    let store = Postgres::at(config).timeout(limit).connections(2).open(NoTls).await.unwrap();
    let claim = owned(&store, "a").await;
    let (mut blocker, observer) = (connect(&server).await, connect(&server).await);
    let lock = blocker.transaction().await.unwrap();
    lock.execute("SELECT FROM buttress_claims FOR UPDATE", &[]).await.unwrap();
    for _ in 0..2 {
        let error = store.complete(&claim, &value("answer"), HOUR).await.unwrap_err();
        assert_eq!(error.fault(), Fault::Timeout, "{error}");
    }
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    let start = tokio::time::Instant::now();
    while observer.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) > 0 {
        assert!(start.elapsed() < 60 * limit, "it waits for as long as the lock is held");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    lock.rollback().await.unwrap();
}

#[tokio::test]
async fn a_connection_to_a_server_that_only_reads_is_not_used_again() {
    let server = services::Postgres::start();
    let config = server.config().parse().unwrap();
    let limit = Duration::from_secs(60);
    let store = Postgres::at(config).timeout(limit).connections(1).open(NoTls).await.unwrap();
    let client = connect(&server).await;
    // What a connection finds that was made to a replica, as a name may still lead there after a failover.
    let only_reads = "ALTER ROLE buttress SET default_transaction_read_only = on;
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE usename = 'buttress' AND pid <> pg_backend_pid()";
    client.batch_execute(only_reads).await.unwrap();
    let mut tries = 0;
    loop {
        let error = store.claim(&request("a")).await.unwrap_err();
        assert_eq!(error.fault(), Fault::Unavailable, "{error}");
        if error.to_string().contains("25006") {
            break;
        }
        tries += 1;
        assert!(tries < 20, "{error}");
    }
    let writes =
        "SET default_transaction_read_only = off; ALTER ROLE buttress RESET default_transaction_read_only";
    client.batch_execute(writes).await.unwrap();
    owned(&store, "a").await;
}

#[tokio::test]
async fn a_claim_whose_answer_was_lost_after_the_commit_is_had_by_asking_again() {
    let server = services::Postgres::start();
    let proxy = Proxy::start(server.port()).await;
    let store = open(&server.config_by(proxy.port())).await;
    owned(&store, "warm").await;

    let lost = request("a");
    proxy.set(Answers::Cut);
    let error = store.claim(&lost).await.unwrap_err();
    assert_eq!((error.fault(), may_have_been_applied(&error)), (Fault::Unavailable, true), "{error}");
    proxy.set(Answers::Pass);
    assert!(
        matches!(store.claim(&request("a")).await.unwrap(), Claimed::InFlight { .. }),
        "it was committed"
    );
    let Claimed::Owned(claim) = store.claim(&lost).await.unwrap() else { panic!("it is the same owner") };
    assert_eq!((claim.epoch(), claim.unfinished()), (1, 0));
}

#[tokio::test]
async fn a_completion_or_an_append_whose_answer_was_lost_can_be_repeated() {
    let server = services::Postgres::start();
    let proxy = Proxy::start(server.port()).await;
    let store = open(&server.config_by(proxy.port())).await;
    // So that the statements are known to the connection, and only their own answers are lost.
    let warm = owned(&store, "warm").await;
    assert_eq!(store.complete(&warm, &value("answer"), HOUR).await.unwrap(), Written::Applied);
    let claim = owned(&store, "a").await;
    proxy.set(Answers::Cut);
    let error = store.complete(&claim, &value("answer"), HOUR).await.unwrap_err();
    assert!(may_have_been_applied(&error), "{error}");
    proxy.set(Answers::Pass);
    assert!(matches!(store.claim(&request("a")).await.unwrap(), Claimed::Done(_)), "it was committed");
    assert_eq!(store.complete(&claim, &value("answer"), HOUR).await.unwrap(), Written::Applied);

    let Created::Held(hold) = store.create(&run("run"), Some(HOUR)).await.unwrap() else {
        panic!("it is new")
    };
    let appended = store.append(&hold, 0, &[entry(0)], &Next::Go).await.unwrap();
    assert!(matches!(appended, Appended::Applied { .. }), "{appended:?}");
    proxy.set(Answers::Cut);
    let error = store.append(&hold, 1, &[entry(1)], &Next::Done).await.unwrap_err();
    assert!(may_have_been_applied(&error), "{error}");
    proxy.set(Answers::Pass);
    let appended = store.append(&hold, 1, &[entry(1)], &Next::Done).await.unwrap();
    assert!(matches!(appended, Appended::Applied { next: 2, .. }), "{appended:?}");
    assert_eq!(store.load(&hold.id).await.unwrap().unwrap().entries.len(), 2);
}

#[tokio::test]
async fn a_damaged_record_or_entry_is_an_error_and_left_as_it_is() {
    let server = services::Postgres::start();
    let (store, client) = (open(&server.config()).await, connect(&server).await);
    let claim = owned(&store, "a").await;
    assert_eq!(store.complete(&claim, &value("answer"), HOUR).await.unwrap(), Written::Applied);
    let Created::Held(hold) = store.create(&run("run"), Some(HOUR)).await.unwrap() else {
        panic!("it is new")
    };
    let appended = store.append(&hold, 0, &[entry(0), entry(1)], &Next::Go).await.unwrap();
    assert!(matches!(appended, Appended::Applied { .. }), "{appended:?}");

    client.batch_execute("UPDATE buttress_claims SET body = 'answes'").await.unwrap();
    assert_eq!(store.claim(&request("a")).await.unwrap_err().fault(), Fault::Corrupt);
    client.batch_execute("UPDATE buttress_claims SET body = 'answer', state = 9").await.unwrap();
    assert_eq!(store.claim(&request("a")).await.unwrap_err().fault(), Fault::Corrupt);
    client.batch_execute("UPDATE buttress_claims SET state = 2").await.unwrap();
    assert!(matches!(store.claim(&request("a")).await.unwrap(), Claimed::Done(_)));

    for damage in [
        "UPDATE buttress_entries SET payload = 'x' WHERE seq = 1",
        "UPDATE buttress_entries SET name = 'x' WHERE seq = 0",
        "DELETE FROM buttress_entries WHERE seq = 0",
        "UPDATE buttress_runs SET input = 'x'",
    ] {
        client.batch_execute(&format!("CREATE TABLE e AS TABLE buttress_entries; {damage}")).await.unwrap();
        let error = store.load(&hold.id).await.unwrap_err();
        assert_eq!(error.fault(), Fault::Corrupt, "{damage}");
        let restore = "TRUNCATE buttress_entries; INSERT INTO buttress_entries TABLE e; DROP TABLE e; \
                       UPDATE buttress_runs SET input = 'input'";
        client.batch_execute(restore).await.unwrap();
    }
    assert_eq!(store.load(&hold.id).await.unwrap().unwrap().entries.len(), 2);

    store.create(&run("sound"), None).await.unwrap();
    client.batch_execute("UPDATE buttress_runs SET owner = 'x' WHERE id = 'run'").await.unwrap();
    let page = store.list(&Query::default()).await.unwrap();
    assert_eq!((page.runs.len(), &page.damaged[..]), (1, &[hold.id][..]));
}

#[tokio::test]
async fn tables_of_a_newer_release_are_refused_and_left_as_they_are() {
    let server = services::Postgres::start();
    open(&server.config()).await;
    open(&server.config()).await;
    let client = connect(&server).await;
    client.batch_execute("UPDATE buttress_schema SET version = 9").await.unwrap();
    let error = Postgres::open(server.config().parse().unwrap()).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Version);
    assert!(error.to_string().contains("its tables have version 9, this release knows 3"), "{error}");

    client.batch_execute("UPDATE buttress_schema SET version = 3").await.unwrap();
    let store = open(&server.config()).await;
    let claim = owned(&store, "a").await;
    client.batch_execute("ALTER FUNCTION buttress_now RENAME TO buttress_now_9").await.unwrap();
    let errors = [
        store.claim(&request("a")).await.unwrap_err(),
        store.complete(&claim, &value("answer"), HOUR).await.unwrap_err(),
        store.load(&run("run").id).await.unwrap_err(),
    ];
    assert!(errors.iter().all(|error| error.fault() == Fault::Version), "{errors:?}");
}

#[tokio::test]
async fn whoever_attaches_makes_and_changes_no_tables() {
    let server = services::Postgres::start();
    let attach = async || Postgres::at(server.config().parse().unwrap()).attach(tokio_postgres::NoTls).await;
    let client = connect(&server).await;
    let error = attach().await.unwrap_err();
    assert_eq!(error.fault(), Fault::Misconfigured);
    assert!(error.to_string().contains("an application has to open it first"), "{error}");
    let tables = "SELECT count(*) FROM pg_class WHERE relname LIKE 'buttress%'";
    assert_eq!(client.query_one(tables, &[]).await.unwrap().get::<_, i64>(0), 0);

    let claim = owned(&open(&server.config()).await, "a").await;
    let tool = attach().await.unwrap();
    assert_eq!(tool.complete(&claim, &value("answer"), HOUR).await.unwrap(), Written::Applied);
    for (version, fault) in [(1, Fault::Misconfigured), (9, Fault::Version)] {
        client.execute("UPDATE buttress_schema SET version = $1", &[&version]).await.unwrap();
        assert_eq!(attach().await.unwrap_err().fault(), fault);
        let stored = client.query_one("SELECT version FROM buttress_schema", &[]).await.unwrap();
        assert_eq!(stored.get::<_, i32>(0), version);
    }
}

#[tokio::test]
async fn tables_of_an_older_release_are_brought_up_to_date_with_what_is_in_them() {
    let server = services::Postgres::start();
    let older = open(&server.config()).await;
    let claim = owned(&older, "a").await;
    let client = connect(&server).await;
    let undo = "ALTER TABLE buttress_claims DROP COLUMN awaited; DROP TABLE buttress_answers;
        UPDATE buttress_schema SET version = 1";
    client.batch_execute(undo).await.unwrap();
    let store = open(&server.config()).await;
    assert_eq!(store.complete(&claim, &value("answer"), HOUR).await.unwrap(), Written::Applied);
    let version = "SELECT version FROM buttress_schema";
    assert_eq!(client.query_one(version, &[]).await.unwrap().get::<_, i32>(0), 3);
}

#[tokio::test]
async fn commits_are_synchronous_whatever_the_roles_default_is_and_what_else_loses_data_is_a_warning() {
    let server = services::Postgres::start();
    let client = connect(&server).await;
    client.batch_execute("ALTER ROLE buttress SET synchronous_commit = off").await.unwrap();
    let (sender, traced) = std::sync::mpsc::channel();
    let writer = move || Traced(sender.clone());
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(writer).finish();
    let guard = tracing_subscriber::util::SubscriberInitExt::set_default(subscriber);
    let store = open(&server.config()).await;
    drop(guard);
    let traced: String = traced.try_iter().collect();
    assert!(traced.contains("WARN") && traced.contains("PostgreSQL's fsync is off"), "{traced}");
    let spy = "CREATE TABLE seen (setting text);
        CREATE FUNCTION spy() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN INSERT INTO seen VALUES (current_setting(''synchronous_commit'')); RETURN NEW; END';
        CREATE TRIGGER spy BEFORE INSERT ON buttress_claims FOR EACH ROW EXECUTE FUNCTION spy()";
    client.batch_execute(spy).await.unwrap();
    owned(&store, "a").await;
    let seen: String = client.query_one("SELECT setting FROM seen", &[]).await.unwrap().get(0);
    assert_eq!(seen, "on");
    assert_eq!(store.warnings().len(), 1, "{:?}", store.warnings());
    assert!(store.warnings()[0].contains("fsync is off"), "{:?}", store.warnings());
}

#[tokio::test]
async fn who_may_not_make_tables_is_told_so() {
    let server = services::Postgres::start();
    let client = connect(&server).await;
    client
        .batch_execute("CREATE ROLE guest LOGIN; REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        .await
        .unwrap();
    let config = server.config().replace("user=buttress", "user=guest").parse().unwrap();
    let error = Postgres::open(config).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Misconfigured, "{error}");
    let error = Postgres::open(server.config().replace("user=buttress", "user=x").parse().unwrap())
        .await
        .unwrap_err();
    assert_eq!(error.fault(), Fault::Misconfigured, "{error}");
}

#[tokio::test]
async fn a_closed_store_refuses_everything() {
    let server = services::Postgres::start();
    let store = open(&server.config()).await;
    store.close();
    assert_eq!(store.clone().claim(&request("a")).await.unwrap_err().fault(), Fault::Closed);
    assert_eq!(store.load(&RunId::try_new("a").unwrap()).await.unwrap_err().fault(), Fault::Closed);
}

/// Takes what is traced.
struct Traced(std::sync::mpsc::Sender<String>);

impl std::io::Write for Traced {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _ = self.0.send(String::from_utf8_lossy(bytes).into_owned());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
