//! Files that are torn, damaged, full, too new, or something else.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use buttress_store::{
    AnswerStore, Appended, ClaimStore, Claimed, Command, Created, Fault, Flow, JournalStore, NewAnswer, Next,
    Owner, Query, RunId, ScopedKey, Sqlite, StoreError, Wanted, Written,
};
use rusqlite::Connection;
use tempfile::TempDir;

use super::processes::{entry, run};
use super::{HOUR, open, owned, request, value};

fn database(directory: &Path) -> PathBuf {
    directory.join("store.db")
}

async fn open_error(directory: &Path) -> StoreError {
    Sqlite::open(database(directory)).await.unwrap_err()
}

/// A journal of so many entries, and the two files as a power cut would leave them.
async fn journal(entries: u64) -> (Vec<u8>, Vec<u8>) {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path()).await;
    let Created::Held(hold) = store.create(&run("run"), Some(HOUR)).await.unwrap() else {
        panic!("it is new")
    };
    for seq in 0..entries {
        let appended = store.append(&hold, seq, &[entry(seq)], &Next::Go).await.unwrap();
        assert!(matches!(appended, Appended::Applied { .. }), "{appended:?}");
    }
    let read = |name: &str| fs::read(directory.path().join(name)).unwrap();
    (read("store.db"), read("store.db-wal"))
}

/// How many entries there are in a store with this log; they must be the first ones.
async fn entries_with(database: &[u8], log: &[u8]) -> u64 {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("store.db"), database).unwrap();
    fs::write(directory.path().join("store.db-wal"), log).unwrap();
    let store = open(directory.path()).await;
    let Some(run) = store.load(&RunId::try_new("run").unwrap()).await.unwrap() else { return 0 };
    assert!(run.entries.iter().all(|stored| stored.entry == entry(stored.seq)));
    run.entries.len() as u64
}

#[tokio::test]
async fn a_log_that_was_torn_anywhere_leaves_a_clean_prefix() {
    let (database, log) = journal(12).await;
    assert_eq!(entries_with(&database, &log).await, 12);
    // A header, and frames of a header and a page each.
    let mut last = 0;
    for cut in (32..log.len()).step_by(1777).chain([log.len() - 1]) {
        let entries = entries_with(&database, &log[..cut]).await;
        assert!(entries >= last, "a longer log has no fewer entries: {cut} gives {entries} after {last}");
        last = entries;
    }
    assert_eq!(last, 11, "of the last entry one byte was missing");
}

#[tokio::test]
async fn a_bit_that_flipped_in_the_log_leaves_a_clean_prefix() {
    let (database, log) = journal(12).await;
    let frame = 4096 + 24;
    // The commit of the last entry: the frames after the one that is a commit before it.
    for back in (1..frame).step_by(401) {
        for bit in [0, 7] {
            let mut log = log.clone();
            let at = log.len() - back;
            log[at] ^= 1 << bit;
            assert_eq!(entries_with(&database, &log).await, 11, "bit {bit} at {at}");
        }
    }
    for at in (32..log.len()).step_by(3331) {
        let mut log = log.clone();
        log[at] ^= 16;
        assert!(entries_with(&database, &log).await < 12, "at {at}");
    }
}

#[tokio::test]
async fn a_damaged_answer_is_an_error_until_the_next_one_replaces_it() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path()).await;
    let put = async |name: &str| {
        let key = ScopedKey::try_new("", name).unwrap();
        let answer = NewAnswer { key, body: "answer".into(), age: Duration::ZERO, asked: None, keep: HOUR };
        assert!(store.put(&answer).await.unwrap());
    };
    let get = async |name: &str| store.get(&ScopedKey::try_new("", name).unwrap()).await;
    let connection = Connection::open(database(directory.path())).unwrap();
    put("b").await;
    for damage in
        ["body = x'616e73776571'", "born = born - 1", "expires = expires + 1", "sum = 'x'", "born = 'x'"]
    {
        put("a").await;
        let sql = format!("UPDATE answers SET {damage} WHERE key = x'000061'");
        assert_eq!(connection.execute(&sql, []).unwrap(), 1);
        assert_eq!(get("a").await.unwrap_err().fault(), Fault::Corrupt, "{damage}");
        assert!(get("b").await.unwrap().is_some(), "{damage}: the rest works");
    }
}

#[tokio::test]
async fn a_damaged_claim_is_an_error_and_left_as_it_is() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path()).await;
    for name in ["a", "b"] {
        let claim = owned(&store, name).await;
        assert_eq!(store.complete(&claim, &value("answer"), HOUR).await.unwrap(), Written::Applied);
    }
    let connection = Connection::open(database(directory.path())).unwrap();
    let damages = [
        "body = x'616e73776571'",
        "epoch = epoch + 1",
        "unfinished = unfinished + 1",
        "state = 3",
        "expires = 1",
        "expires = expires + 1",
        "owner = zeroblob(16)",
        "owner = zeroblob(15)",
        "fingerprint = randomblob(32)",
        "state = 'x'",
    ];
    let key = "key = x'000061'";
    let row =
        "SELECT hex(owner) || epoch || state || expires || coalesce(hex(body), '') || sum FROM claims WHERE ";
    let read = || -> String { connection.query_row(&format!("{row}{key}"), [], |row| row.get(0)).unwrap() };
    connection.execute_batch("CREATE TEMP TABLE saved AS SELECT * FROM claims").unwrap();
    for damage in damages {
        assert_eq!(connection.execute(&format!("UPDATE claims SET {damage} WHERE {key}"), []).unwrap(), 1);
        let damaged = read();
        let error = store.claim(&request("a")).await.unwrap_err();
        assert_eq!(error.fault(), Fault::Corrupt, "{damage}");
        assert_eq!(read(), damaged, "{damage}");
        assert!(
            matches!(store.claim(&request("b")).await.unwrap(), Claimed::Done(_)),
            "{damage}: the rest works"
        );
        let restore =
            format!("DELETE FROM claims WHERE {key}; INSERT INTO claims SELECT * FROM saved WHERE {key}");
        connection.execute_batch(&restore).unwrap();
        assert!(matches!(store.claim(&request("a")).await.unwrap(), Claimed::Done(_)), "{damage}: restored");
    }
}

#[tokio::test]
async fn a_damaged_journal_is_read_whole_or_not_at_all() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path()).await;
    let Created::Held(hold) = store.create(&run("run"), Some(HOUR)).await.unwrap() else {
        panic!("it is new")
    };
    let entries = [entry(0), entry(1), entry(2)];
    let appended = store.append(&hold, 0, &entries, &Next::Go).await.unwrap();
    assert!(matches!(appended, Appended::Applied { .. }));
    let connection = Connection::open(database(directory.path())).unwrap();
    let damages = [
        "UPDATE entries SET payload = x'39' WHERE seq = 1",
        "UPDATE entries SET name = 'another' WHERE seq = 1",
        "UPDATE entries SET kind = 2 WHERE seq = 0",
        "UPDATE entries SET seq = 7 WHERE seq = 2",
        "DELETE FROM entries WHERE seq = 1",
        "DELETE FROM entries WHERE seq = 2",
        "DELETE FROM entries WHERE seq = 9223372036854775807",
        "UPDATE entries SET occurrence = 2 WHERE seq = 9223372036854775807",
        "UPDATE entries SET at = at - 1 WHERE seq = 9223372036854775807",
        "UPDATE entries SET sum = sum + 1 WHERE seq = 9223372036854775807",
        "UPDATE inputs SET input = x'00'",
        "DELETE FROM inputs",
        "UPDATE runs SET entries = 2",
        "UPDATE runs SET name = 'another'",
        "UPDATE runs SET status = 9",
    ];
    let id = RunId::try_new("run").unwrap();
    for damage in damages {
        connection.execute_batch(&format!("BEGIN; {damage}; COMMIT")).unwrap();
        let error = store.load(&id).await.unwrap_err();
        assert_eq!(error.fault(), Fault::Corrupt, "{damage}");
        restore(&connection, &store, &id).await;
    }
}

#[tokio::test]
async fn a_peek_reads_the_last_entry_and_finds_damage_there_only() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path()).await;
    let Created::Held(hold) = store.create(&run("run"), Some(HOUR)).await.unwrap() else {
        panic!("it is new")
    };
    let appended = store.append(&hold, 0, &[entry(0), entry(1)], &Next::Done).await.unwrap();
    assert!(matches!(appended, Appended::Applied { .. }));
    let connection = Connection::open(database(directory.path())).unwrap();
    connection.execute_batch("UPDATE entries SET payload = x'39' WHERE seq = 0").unwrap();
    assert_eq!(store.load(&hold.id).await.unwrap_err().fault(), Fault::Corrupt);
    let peeked = store.peek(&hold.id).await.unwrap().unwrap();
    assert_eq!(peeked.last.unwrap().entry, entry(1));
    for damage in ["UPDATE entries SET payload = x'39' WHERE seq = 1", "DELETE FROM entries WHERE seq = 1"] {
        connection.execute_batch(damage).unwrap();
        assert_eq!(store.peek(&hold.id).await.unwrap_err().fault(), Fault::Corrupt, "{damage}");
    }
}

#[tokio::test]
async fn a_damaged_run_that_is_due_keeps_no_other_from_being_acquired() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path()).await;
    for id in ["damaged", "sound"] {
        assert!(matches!(store.create(&run(id), None).await.unwrap(), Created::Queued));
    }
    let connection = Connection::open(database(directory.path())).unwrap();
    connection.execute_batch("UPDATE runs SET recoveries = 7, due = due - 1 WHERE id = 'damaged'").unwrap();
    let wanted = Wanted {
        flows: vec![Flow { name: run("sound").name, versions: 0..=9 }],
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
async fn a_damaged_run_has_its_place_on_a_page_and_keeps_no_other_off_it() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path()).await;
    for id in ["a", "b", "c", "d"] {
        assert!(matches!(store.create(&run(id), None).await.unwrap(), Created::Queued));
    }
    let connection = Connection::open(database(directory.path())).unwrap();
    connection.execute_batch("UPDATE runs SET recoveries = 7 WHERE id IN ('b', 'c')").unwrap();
    let mut query = Query { limit: 2, ..Query::default() };
    let (mut sound, mut damaged) = (Vec::new(), Vec::new());
    loop {
        let page = store.list(&query).await.unwrap();
        sound.extend(page.runs.iter().map(|run| run.id.to_string()));
        damaged.extend(page.damaged.iter().map(RunId::to_string));
        query.after = page.next;
        if query.after.is_none() {
            break;
        }
    }
    sound.sort();
    damaged.sort();
    assert_eq!((&sound[..], &damaged[..]), (&["a".into(), "d".into()][..], &["b".into(), "c".into()][..]));
}

/// Begins the run and its entries anew.
async fn restore(connection: &Connection, store: &Sqlite, id: &RunId) {
    connection.execute_batch("DELETE FROM runs; DELETE FROM inputs; DELETE FROM entries").unwrap();
    let Created::Held(hold) = store.create(&run("run"), Some(HOUR)).await.unwrap() else {
        panic!("it is new")
    };
    let entries = [entry(0), entry(1), entry(2)];
    let appended = store.append(&hold, 0, &entries, &Next::Go).await.unwrap();
    assert!(matches!(appended, Appended::Applied { .. }));
    assert_eq!(store.load(id).await.unwrap().unwrap().entries.len(), 3);
}

#[tokio::test]
async fn a_damaged_file_is_not_opened() {
    let directory = TempDir::new().unwrap();
    fs::write(
        database(directory.path()),
        b"this is a text, and it is longer than the header of a database. ".repeat(100),
    )
    .unwrap();
    assert_eq!(open_error(directory.path()).await.fault(), Fault::Corrupt);

    let directory = TempDir::new().unwrap();
    let store = open(directory.path()).await;
    for index in 0..500 {
        owned(&store, &index.to_string()).await;
    }
    store.shutdown().await;
    drop(store);
    let whole = fs::read(database(directory.path())).unwrap();
    fs::write(database(directory.path()), &whole[..whole.len() / 2]).unwrap();
    assert_eq!(open_error(directory.path()).await.fault(), Fault::Corrupt);
    let mut flipped = whole.clone();
    for page in 2..whole.len() / 4096 {
        flipped[page * 4096 + 3] ^= 0x55;
    }
    fs::write(database(directory.path()), &flipped).unwrap();
    assert_eq!(open_error(directory.path()).await.fault(), Fault::Corrupt);
    fs::write(database(directory.path()), &whole).unwrap();
    let store = open(directory.path()).await;
    assert!(matches!(store.claim(&request("499")).await.unwrap(), Claimed::InFlight { .. }));
}

#[tokio::test]
async fn a_file_that_is_attached_to_is_neither_read_whole_nor_made_nor_changed() {
    let directory = TempDir::new().unwrap();
    let path = database(directory.path());
    let attach_error = async || Sqlite::at(&path).attach().await.unwrap_err();
    assert_eq!(attach_error().await.fault(), Fault::Unavailable);
    assert!(!path.exists());
    fs::write(&path, b"").unwrap();
    assert_eq!(attach_error().await.fault(), Fault::Misconfigured, "it is empty");
    assert_eq!(fs::read(&path).unwrap(), b"");

    let application = open(directory.path()).await;
    assert!(matches!(application.create(&run("run"), None).await.unwrap(), Created::Queued));
    for index in 0..500 {
        owned(&application, &index.to_string()).await;
    }
    let tool = Sqlite::at(&path).attach().await.unwrap();
    assert_eq!(tool.list(&Query::default()).await.unwrap().runs.len(), 1);
    let id = RunId::try_new("run").unwrap();
    tool.control(&id, Command::Cancel).await.unwrap();
    assert!(application.load(&id).await.unwrap().unwrap().info.cancel_requested, "what it does is done");
    tool.shutdown().await;
    application.shutdown().await;

    let mut damaged = fs::read(&path).unwrap();
    // Those after the first one of each table and index.
    for page in 12..damaged.len() / 4096 {
        damaged[page * 4096 + 3] ^= 0x55;
    }
    fs::write(&path, &damaged).unwrap();
    assert_eq!(open_error(directory.path()).await.fault(), Fault::Corrupt);
    let tool = Sqlite::at(&path).attach().await.unwrap();
    assert_eq!(tool.list(&Query::default()).await.unwrap().runs.len(), 1, "what is sound can be looked at");
    tool.shutdown().await;

    let connection = Connection::open(&path).unwrap();
    connection.execute_batch("PRAGMA user_version = 7").unwrap();
    assert_eq!(attach_error().await.fault(), Fault::Version);
    connection.execute_batch("PRAGMA user_version = 0").unwrap();
    assert_eq!(attach_error().await.fault(), Fault::Misconfigured, "an older release may have it open");
}

#[tokio::test]
async fn a_newer_releases_file_and_one_of_something_else_are_refused_and_left_as_they_are() {
    let directory = TempDir::new().unwrap();
    open(directory.path()).await.shutdown().await;
    let connection = Connection::open(database(directory.path())).unwrap();
    connection.execute_batch("PRAGMA user_version = 7").unwrap();
    let error = open_error(directory.path()).await;
    assert_eq!(error.fault(), Fault::Version);
    assert_eq!(
        error.to_string(),
        "`sqlite` failed to open: it was written by a newer release \
         (its schema has version 7, this release knows 2); upgrade this process"
    );

    connection.execute_batch("PRAGMA user_version = 2").unwrap();
    let store = open(directory.path()).await;
    let claim = owned(&store, "a").await;
    connection.execute_batch("PRAGMA user_version = 7").unwrap();
    let errors = [
        store.complete(&claim, &value("answer"), HOUR).await.unwrap_err(),
        store.wait(claim.key(), request("a").fingerprint(), Duration::ZERO).await.unwrap_err(),
    ];
    assert!(errors.iter().all(|error| error.fault() == Fault::Version), "{errors:?}");
    connection.execute_batch("PRAGMA user_version = 2").unwrap();
    assert_eq!(store.complete(&claim, &value("answer"), HOUR).await.unwrap(), Written::Applied);

    let directory = TempDir::new().unwrap();
    let connection = Connection::open(database(directory.path())).unwrap();
    connection.execute_batch("CREATE TABLE claims (mine)").unwrap();
    assert_eq!(open_error(directory.path()).await.fault(), Fault::Misconfigured);
    let journal: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
    assert_eq!(journal, "delete", "it was not touched");

    let nowhere = directory.path().join("no such directory");
    assert_eq!(open_error(&nowhere).await.fault(), Fault::Unavailable);
}
