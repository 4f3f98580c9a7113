//! A hundred runs whose worker crashed, among a hundred thousand that are over: what a recovery reads, and that they are pruned.
//! For SQLite the plan and the rows are counted beside its statement, in `buttress-store`.

use std::collections::HashMap;
use std::time::Duration;

use buttress_checkpoint::{Cx, Failure, Workflow, Workflows, retry_from};
use buttress_cli::AnyStore;
use buttress_store::{Flow, JournalStore, Owner, Query, Sqlite, Wanted};
use checkpoint_tests::cases::{Effects, id};
use checkpoint_tests::failing::Failing;
use checkpoint_tests::{SHORT, Worker, long, short};
use tokio::time::{Instant, sleep};

const OPEN: usize = 100;
const OVER: usize = 100_000;

fn register<S: JournalStore>(
    workflows: &Workflows<S>,
    effects: &Effects,
    hangs: bool,
) -> Workflow<S, (), usize, Failure> {
    let effects = effects.clone();
    let code = move |cx: Cx, ()| {
        let effects = effects.clone();
        async move {
            let hangs = hangs && cx.run_id().as_str() != "over";
            let body = async || if hangs { effects.hang("a").await } else { effects.done("a") };
            Ok(cx.step("a", body).await?)
        }
    };
    workflows.register("w", 1, code).unwrap()
}

/// A run that is over, to be copied, and those that a worker left when it crashed.
async fn abandon<S: JournalStore>(store: &S) {
    let workflows = Workflows::with(store.clone(), short().max_runs(1000).unwrap());
    let effects = Effects::default();
    let flow = register(&workflows, &effects, true);
    let worker = Worker::start(&workflows);
    flow.start("over", ()).await.unwrap().result().await.unwrap();
    for run in 0..OPEN {
        flow.start(format!("open {run}"), ()).await.unwrap();
    }
    effects.until("a", 1 + OPEN).await;
    worker.crash().await;
    sleep(SHORT + Duration::from_millis(100)).await;
}

/// Takes hold of all that is due, for no time.
async fn acquire<S: JournalStore>(store: &S) {
    let flows = vec![Flow { name: "w".into(), versions: 1..=1 }];
    let (owner, lease) = (Owner::random(), Duration::from_millis(1));
    let wanted = Wanted { flows, id: None, owner, worker: "".into(), lease, max: 1000 };
    assert_eq!(store.acquire(&wanted).await.unwrap().len(), OPEN);
}

/// Another worker ends the runs that are open.
async fn recover<S: JournalStore>(store: &S) {
    let workflows = Workflows::with(store.clone(), long().max_runs(1000).unwrap());
    let effects = Effects::default();
    let flow = register(&workflows, &effects, false);
    let began = Instant::now();
    let worker = Worker::start(&workflows);
    for run in 0..OPEN {
        flow.handle(id(&format!("open {run}"))).result().await.unwrap();
    }
    println!("{OPEN} runs recovered among {OVER} in {:.1?}", began.elapsed());
    worker.stop().await;
    assert_eq!(effects.count("a"), OPEN);
}

/// CP-36: all that is over is pruned in batches, and on once more after that was cut off; but for what an open run continues.
async fn prune<S: JournalStore>(store: &S) {
    retry_from(store, &id("over"), ("a", 0), &id("again"), false).await.unwrap();
    let failing = Failing::new(store.clone());
    failing.fail_every(100);
    let began = Instant::now();
    assert!(buttress_checkpoint::prune(&failing, Duration::ZERO).await.is_err());
    // The batch with the error was carried out, and its answer lost.
    assert_eq!(
        buttress_checkpoint::prune(store, Duration::ZERO).await.unwrap(),
        (OVER + OPEN - 100 * 100) as u64
    );
    println!("{} runs pruned in {:.1?}", OVER + OPEN, began.elapsed());
    let left = store.list(&Query::default()).await.unwrap();
    let left: Vec<_> = left.runs.iter().map(|run| run.id.as_str()).collect();
    assert_eq!(left, ["again", "over"]);
    assert_eq!(store.load(&id("over")).await.unwrap().unwrap().entries.len(), 2);
}

#[tokio::test]
async fn sqlite_finds_open_runs_without_a_look_at_those_that_are_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("runs.db");
    let store = Sqlite::open(&path).await.unwrap();
    abandon(&store).await;
    // With another identity a row has another checksum: whatever reads one of the copies says that it is damaged.
    let columns = "name, version, fingerprint, parent, status, reason, cancel, epoch, owner, worker, lease_until, due, \
                   recoveries, entries, created, changed, sum";
    let copies = format!(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {OVER}) \
         INSERT INTO runs (id, {columns}) SELECT 'copy ' || i, {columns} FROM runs, n WHERE id = 'over'"
    );
    let connection = rusqlite::Connection::open(&path).unwrap();
    assert_eq!(connection.execute(&copies, []).unwrap(), OVER);
    for (table, columns) in
        [("inputs", "input, sum"), ("entries", "seq, at, kind, format, name, occurrence, payload, sum")]
    {
        let copies = format!(
            "INSERT INTO {table} (run, {columns}) SELECT copy.number, row.* FROM
                (SELECT number FROM runs WHERE id LIKE 'copy %') AS copy,
                (SELECT {columns} FROM {table} WHERE run = (SELECT number FROM runs WHERE id = 'over')) AS row"
        );
        assert!(connection.execute(&copies, []).unwrap() >= OVER);
    }
    acquire(&store).await;
    recover(&store).await;
    prune(&store).await;
    let rows = "SELECT (SELECT count(*) FROM entries) + (SELECT count(*) FROM inputs)";
    assert_eq!(connection.query_row(rows, [], |row| row.get::<_, i64>(0)).unwrap(), 4);
}

/// Whether the plans of who connects now are told of.
async fn explains(server: &services::Postgres) -> bool {
    let (client, connection) =
        tokio_postgres::connect(&server.config(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let row = client.query_one("SHOW session_preload_libraries", &[]).await.unwrap();
    row.get::<_, &str>(0) == "auto_explain"
}

#[tokio::test]
async fn postgres_finds_open_runs_by_the_index_of_what_is_due() {
    let server = services::Postgres::start();
    abandon(&AnyStore::create(&server.url()).await.unwrap()).await;
    let (client, connection) =
        tokio_postgres::connect(&server.config(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let copies = format!(
        "INSERT INTO buttress_runs (id, name, version, fingerprint, status, reason, cancel, epoch, owner, worker,
            recoveries, entries, created, changed, input, sum)
        SELECT 'copy ' || n, name, version, fingerprint, status, reason, cancel, epoch, owner, worker,
            recoveries, entries, created, changed, input, sum
        FROM buttress_runs, generate_series(1, {OVER}) AS n WHERE id = 'over'"
    );
    assert_eq!(client.execute(&copies, &[]).await.unwrap(), OVER as u64);
    let columns = "seq, at, kind, format, name, occurrence, payload, sum";
    let copies = format!(
        "INSERT INTO buttress_entries (run, {columns}) SELECT copy.number, entry.* FROM
            (SELECT number FROM buttress_runs WHERE id LIKE 'copy %') AS copy,
            (SELECT {columns} FROM buttress_entries
                WHERE run = (SELECT number FROM buttress_runs WHERE id = 'over')) AS entry"
    );
    assert_eq!(client.execute(&copies, &[]).await.unwrap(), 2 * OVER as u64);
    // Whoever connects from here on tells the server's log of its plans, and of what they came to.
    client.batch_execute("LOAD 'auto_explain'").await.unwrap();
    for setting in [
        "session_preload_libraries = 'auto_explain'",
        "auto_explain.log_min_duration = 0",
        "auto_explain.log_analyze = on",
        "auto_explain.log_nested_statements = on",
    ] {
        client.batch_execute(&format!("ALTER SYSTEM SET {setting}")).await.unwrap();
    }
    client.batch_execute("VACUUM ANALYZE buttress_runs").await.unwrap();
    client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    // The first process has to notice.
    while !explains(&server).await {
        sleep(Duration::from_millis(20)).await;
    }
    let store = AnyStore::create(&server.url()).await.unwrap();
    acquire(&store).await;
    let data: String = client.query_one("SHOW data_directory", &[]).await.unwrap().get(0);
    let log = std::fs::read_to_string(std::path::Path::new(&data).with_file_name("log")).unwrap();
    let plan = log.rsplit("WITH due AS").next().unwrap();
    let found =
        plan.lines().find(|line| line.contains("Index Scan using buttress_runs_due on buttress_runs"));
    let found = found.unwrap_or_else(|| panic!("the index is not used:\n{plan}"));
    assert!(found.contains(&format!(" rows={OPEN} loops=1)")), "{found}");
    assert!(!plan.contains("Seq Scan on buttress_runs"), "{plan}");
    recover(&store).await;
    prune(&store).await;
    let entries: i64 = client.query_one("SELECT count(*) FROM buttress_entries", &[]).await.unwrap().get(0);
    assert_eq!(entries, 2);
}

/// Redis has no plans: the runs that are due are a sorted set for each workflow, and that is what is read.
#[tokio::test]
async fn redis_finds_open_runs_in_the_set_of_what_is_due() {
    let server = services::Redis::start();
    let store = AnyStore::create(&server.url()).await.unwrap();
    abandon(&store).await;
    let mut connection = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
    let copies = "
        local run = redis.call('KEYS', '*:run:over')[1]
        local fields = redis.call('HGETALL', run)
        local prefix = string.sub(run, 1, -10)
        for n = 1, tonumber(ARGV[1]) do
          local id = 'copy ' .. n
          redis.call('HSET', prefix .. ':run:' .. id, unpack(fields))
          redis.call('COPY', prefix .. ':entries:over', prefix .. ':entries:' .. id)
          local place = string.format('%016d:', n) .. id
          redis.call('HSET', prefix .. ':run:' .. id, 'place', place)
          redis.call('ZADD', prefix .. ':created', 0, place)
          redis.call('ZADD', prefix .. ':over', n, id)
        end
        return {redis.call('ZCARD', prefix .. ':over'), redis.call('ZCARD', prefix .. ':due:w')}";
    let counts: (usize, usize) =
        redis::cmd("EVAL").arg(copies).arg(0).arg(OVER).query(&mut connection).unwrap();
    assert_eq!(counts, (OVER + 1, OPEN));
    redis::cmd("CONFIG").arg("RESETSTAT").exec(&mut connection).unwrap();
    acquire(&store).await;
    let statistics: String = redis::cmd("INFO").arg("commandstats").query(&mut connection).unwrap();
    let calls = |line: &str| -> Option<(String, usize)> {
        let (command, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        Some((command.to_owned(), rest.split(',').next()?.parse().ok()?))
    };
    let calls: HashMap<String, usize> = statistics.lines().filter_map(calls).collect();
    // One for the set and one for each run in it; the rest is written.
    assert!(calls["zrangebyscore"] <= 2, "{calls:?}");
    assert_eq!((calls["hmget"], calls["hset"]), (OPEN, OPEN), "{calls:?}");
    let reads =
        ["scan", "keys", "zrange", "zrevrangebylex", "zscan", "hgetall", "hscan", "lrange", "smembers"];
    assert!(reads.iter().all(|command| !calls.contains_key(*command)), "{calls:?}");
    recover(&store).await;
    prune(&store).await;
    let mut keys: Vec<String> = redis::cmd("KEYS").arg("*:entries:*").query(&mut connection).unwrap();
    assert_eq!((keys.len(), keys.pop().unwrap().ends_with(":entries:over")), (1, true));
}
