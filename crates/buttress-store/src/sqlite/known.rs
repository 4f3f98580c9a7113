use std::collections::HashMap;

use rusqlite::Connection;

use super::schema;
use crate::failure::Failure;
use crate::key::RunId;
use crate::run_row::RunRow;

/// So many runs at most; after that it begins anew.
const MOST: usize = 1024;

/// Runs as they stand in the file, and need not be read from it: those that this connection appended to last, for as long as no
/// other connection commits anything, and nothing that was done is undone. A row that has been damaged in the file meanwhile is found when
/// it is next read, by the renewal of its lease at the latest.
#[derive(Default)]
pub(super) struct Known {
    /// What SQLite's `data_version` was: it is another one after each commit of another connection.
    version: Option<i64>,
    runs: HashMap<RunId, (i64, RunRow)>,
}

impl Known {
    /// Forgets all if somebody else has written, perhaps a newer release. `version` is what `data_version` is in a transaction that
    /// keeps others from writing.
    pub(super) fn check(&mut self, connection: &Connection, version: i64) -> Result<(), Failure> {
        if self.version != Some(version) {
            self.version = None;
            self.runs.clear();
            schema::expect_known(connection)?;
            self.version = Some(version);
        }
        Ok(())
    }

    /// All that was done in the transaction is undone. Of a single command nothing is known while it works, nor if it fails.
    pub(super) fn forget_all(&mut self) {
        self.runs.clear();
    }

    /// A run and its number. It is forgotten: whoever changes it says how it stands once it has.
    pub(super) fn take(&mut self, id: &RunId) -> Option<(i64, RunRow)> {
        self.runs.remove(id)
    }

    pub(super) fn keep(&mut self, number: i64, run: RunRow) {
        if self.runs.len() >= MOST {
            self.runs.clear();
        }
        self.runs.insert(run.id.clone(), (number, run));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::{Duration, UNIX_EPOCH};

    use bytes::Bytes;
    use rusqlite::StatementStatus;

    use super::*;
    use crate::journal::{
        Appended, Command, Created, Flow, Hold, JournalStore, NewEntry, NewRun, Next, Renewed, Wanted,
    };
    use crate::key::{Fingerprint, Owner};
    use crate::sqlite::{Sqlite, runs};

    const LEASE: Duration = Duration::from_secs(60);

    struct File {
        directory: tempfile::TempDir,
        seconds: Arc<AtomicU64>,
    }

    impl File {
        fn new() -> Self {
            Self { directory: tempfile::tempdir().unwrap(), seconds: Arc::default() }
        }

        /// A connection of its own each time, as another process has one.
        async fn open(&self) -> Sqlite {
            let seconds = Arc::clone(&self.seconds);
            let now = move || UNIX_EPOCH + Duration::from_secs(seconds.load(Ordering::Relaxed));
            Sqlite::at(self.directory.path().join("store.db")).clock(now).open().await.unwrap()
        }
    }

    async fn begun(store: &Sqlite) -> Hold {
        let (id, owner) = (RunId::try_new("run").unwrap(), Owner::random());
        let (name, worker, input) = ("flow".into(), "".into(), Bytes::new());
        let fingerprint = Fingerprint::new([0; 32]);
        let run = NewRun { id, name, version: 1, fingerprint, input, parent: None, owner, worker };
        match store.create(&run, Some(LEASE)).await.unwrap() {
            Created::Held(hold) => hold,
            other => panic!("{other:?}"),
        }
    }

    fn entry(payload: &'static str) -> NewEntry {
        NewEntry { kind: 1, format: 1, name: "step".into(), occurrence: 0, payload: payload.into() }
    }

    async fn append(store: &Sqlite, hold: &Hold, seq: u64) -> Appended {
        store.append(hold, seq, &[entry("1")], &Next::Go).await.unwrap()
    }

    fn applied(appended: &Appended) -> (u64, bool) {
        match appended {
            Appended::Applied { next, cancel_requested, .. } => (*next, *cancel_requested),
            other => panic!("{other:?}"),
        }
    }

    /// How often the row of a run was looked for by its identity.
    async fn reads(store: &Sqlite) -> i32 {
        let work = |connection: &Connection, _| {
            Ok(connection.prepare_cached(runs::FIND)?.get_status(StatementStatus::Run))
        };
        store.write("test", 0, work).await.unwrap()
    }

    async fn acquire(store: &Sqlite) -> Hold {
        let flows = vec![Flow { name: "flow".into(), versions: 1..=1 }];
        let wanted =
            Wanted { flows, id: None, owner: Owner::random(), worker: "".into(), lease: LEASE, max: 9 };
        store.acquire(&wanted).await.unwrap().remove(0).hold
    }

    #[tokio::test]
    async fn an_append_to_a_run_that_was_appended_to_last_does_not_read_it() {
        let file = File::new();
        let store = file.open().await;
        let hold = begun(&store).await;
        let before = reads(&store).await;
        for seq in 0..10 {
            assert_eq!(applied(&append(&store, &hold, seq).await), (seq + 1, false));
        }
        assert_eq!(reads(&store).await - before, 1);
        // Whoever opens the file sees what was counted.
        assert_eq!(file.open().await.load(&hold.id).await.unwrap().unwrap().info.entries, 10);
    }

    #[tokio::test]
    async fn what_another_process_did_to_a_run_is_seen_by_the_next_append() {
        let file = File::new();
        let (ours, theirs) = (file.open().await, file.open().await);
        let hold = begun(&ours).await;
        assert_eq!(applied(&append(&ours, &hold, 0).await), (1, false));
        theirs.control(&hold.id, Command::Cancel).await.unwrap();
        assert_eq!(applied(&append(&ours, &hold, 1).await), (2, true));

        file.seconds.fetch_add(61, Ordering::Relaxed);
        let taken = acquire(&theirs).await;
        assert_eq!(append(&ours, &hold, 2).await, Appended::Fenced);
        assert_eq!(applied(&append(&theirs, &taken, 2).await), (3, true));

        file.seconds.fetch_add(61, Ordering::Relaxed);
        let back = acquire(&ours).await;
        assert_eq!(append(&theirs, &taken, 3).await, Appended::Fenced);
        assert_eq!(applied(&append(&ours, &back, 3).await), (4, true));
    }

    #[tokio::test]
    async fn what_was_done_to_a_run_through_the_same_store_is_seen_by_the_next_append() {
        let file = File::new();
        let store = file.open().await;
        let hold = begun(&store).await;
        assert_eq!(applied(&append(&store, &hold, 0).await), (1, false));
        assert_eq!(append(&store, &hold, 0).await, append(&store, &hold, 0).await, "it is repeated");
        let renewed = store.renew(&hold, LEASE * 2).await.unwrap();
        assert_eq!(renewed, Renewed::Held { cancel_requested: false });
        store.control(&hold.id, Command::Cancel).await.unwrap();
        assert_eq!(applied(&append(&store, &hold, 1).await), (2, true));
        let other = store.append(&hold, 1, &[entry("2")], &Next::Go).await.unwrap();
        assert_eq!(other, Appended::Conflict { next: 2 });

        file.seconds.fetch_add(61, Ordering::Relaxed);
        assert_eq!(applied(&append(&store, &hold, 2).await), (3, true));
        let info = store.peek(&hold.id).await.unwrap().unwrap().info;
        assert_eq!(info.lease, Some(LEASE * 2 - Duration::from_secs(61)), "the renewal is kept");
        store.control(&hold.id, Command::Abandon).await.unwrap();
        assert_eq!(append(&store, &hold, 3).await, Appended::Fenced);
    }

    #[tokio::test]
    async fn of_an_append_that_was_undone_with_its_transaction_nothing_is_known() {
        let file = File::new();
        let store = file.open().await;
        let hold = begun(&store).await;
        assert_eq!(applied(&append(&store, &hold, 0).await), (1, false));
        // While the writer is held up, the append and what ends its transaction come to share the next one.
        let (started, running) = tokio::sync::oneshot::channel();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let hold_up = move |_: &Connection, _| {
            started.send(()).unwrap();
            wait.recv().unwrap();
            Ok(())
        };
        let holding_up = store.clone();
        let held_up = tokio::spawn(async move { holding_up.write("test", 0, hold_up).await });
        running.await.unwrap();
        let added = [entry("undone")];
        let undone = store.append(&hold, 1, &added, &Next::Go);
        let breaks = store.write("test", 0, |connection, _| Ok(connection.execute_batch("ROLLBACK")?));
        let (undone, broke, ()) = tokio::join!(undone, breaks, async { go.send(()).unwrap() });
        held_up.await.unwrap().unwrap();
        assert!(undone.is_err() && broke.is_err(), "{undone:?} {broke:?}");
        assert_eq!(applied(&append(&store, &hold, 1).await), (2, false));
        let entries = store.load(&hold.id).await.unwrap().unwrap().entries;
        assert_eq!(entries.last().unwrap().entry, entry("1"));
    }

    #[tokio::test]
    async fn of_an_append_that_fails_by_itself_nothing_is_known() {
        let file = File::new();
        let store = file.open().await;
        let hold = begun(&store).await;
        assert_eq!(applied(&append(&store, &hold, 0).await), (1, false));
        let change = |sql: &'static str| {
            store.write("test", 0, move |connection: &Connection, _| Ok(connection.execute_batch(sql)?))
        };
        change("CREATE TEMP TRIGGER full BEFORE INSERT ON entries BEGIN SELECT RAISE(ABORT, 'full'); END")
            .await
            .unwrap();
        store.append(&hold, 1, &[entry("1")], &Next::Go).await.unwrap_err();
        change("DROP TRIGGER full").await.unwrap();
        assert_eq!(applied(&append(&store, &hold, 1).await), (2, false));
    }
}
