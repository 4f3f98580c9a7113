//! The threads that talk to SQLite, which blocks.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::mpsc::error::{SendError, TryRecvError};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::SqliteStatistics;
use super::clock::StoreClock;
use super::schema;
use super::session::Session;
use crate::error::{Fault, StoreError};
use crate::failure::Failure;

/// Commands that share one commit: so many, and so many bytes, at most.
const GROUP: (usize, usize) = (256, 4 << 20);

/// For so long a thread looks for the next command before it goes to sleep, where there is a second processor: a workflow needs less
/// from one step to the next, and to be woken takes as long.
const LOOK: Duration = Duration::from_micros(50);

/// It looks if the command before came as soon as this, for which it may have had to be woken.
const SOON: Duration = Duration::from_micros(150);

pub(super) enum Message {
    Job(Box<dyn Job>),
    /// Nothing is taken in after this.
    Stop,
}

/// A thread that serves a connection.
pub(super) struct Thread {
    jobs: mpsc::Sender<Message>,
    /// Told of nothing but the end.
    ended: watch::Receiver<()>,
}

impl Thread {
    /// An error if it was stopped.
    pub(super) async fn send(&self, job: Box<dyn Job>) -> Result<(), SendError<Message>> {
        self.jobs.send(Message::Job(job)).await
    }

    /// Returns once what was sent before is done and the connection is closed, however many ask for it.
    pub(super) async fn stop(&self) {
        // An error if somebody else has stopped it.
        let _ = self.jobs.send(Message::Stop).await;
        let _ = self.ended.clone().changed().await;
    }
}

/// A command, and whoever waits for its answer.
pub(super) trait Job: Send {
    fn bytes(&self) -> usize;
    /// Carries it out within a transaction, and keeps the answer.
    fn run(&mut self, session: &mut Session<'_>, now: i64) -> Result<(), Failure>;
    /// Gives the answer, or says why the transaction failed.
    fn finish(self: Box<Self>, transaction: Result<(), Failure>);
}

pub(super) struct Pending<T, F> {
    verb: &'static str,
    bytes: usize,
    work: Option<F>,
    result: Option<T>,
    answer: oneshot::Sender<Result<T, StoreError>>,
}

type Answer<T> = oneshot::Receiver<Result<T, StoreError>>;

impl<T, F> Pending<T, F>
where
    T: Send + 'static,
    F: FnOnce(&mut Session<'_>, i64) -> Result<T, Failure> + Send + 'static,
{
    pub(super) fn job(verb: &'static str, bytes: usize, work: F) -> (Box<dyn Job>, Answer<T>) {
        let (answer, answered) = oneshot::channel();
        (Box::new(Self { verb, bytes, work: Some(work), result: None, answer }), answered)
    }
}

impl<T, F> Job for Pending<T, F>
where
    T: Send,
    F: FnOnce(&mut Session<'_>, i64) -> Result<T, Failure> + Send,
{
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn run(&mut self, session: &mut Session<'_>, now: i64) -> Result<(), Failure> {
        let Some(work) = self.work.take() else { return Ok(()) };
        // The transaction is rolled back to where it was before, and nothing else is shared.
        let result = catch_unwind(AssertUnwindSafe(|| work(session, now)));
        self.result = Some(result.unwrap_or_else(|_| Err(Failure::new(Fault::Internal, "a panic")))?);
        Ok(())
    }

    fn finish(self: Box<Self>, transaction: Result<(), Failure>) {
        let result = match (transaction, self.result) {
            (Ok(()), Some(result)) => Ok(result),
            (Ok(()), None) => Err(Failure::new(Fault::Internal, "a command without an answer")),
            (Err(failure), _) => Err(failure),
        };
        // Whoever asked may have gone.
        let _ = self.answer.send(result.map_err(|failure| failure.into_error("sqlite", self.verb)));
    }
}

/// What one thread does with its commands.
pub(super) trait Serve: Send + 'static {
    fn serve(&self, session: &mut Session<'_>, jobs: &mut VecDeque<Box<dyn Job>>);
}

/// Starts a thread that opens a connection and serves it until it is stopped, or nobody can send any more.
pub(super) async fn spawn(
    name: &str,
    queue: usize,
    open: impl FnOnce() -> Result<Connection, Failure> + Send + 'static,
    serve: impl Serve,
) -> Result<Thread, StoreError> {
    let (jobs, mut receiver) = mpsc::channel(queue);
    let (running, ended) = watch::channel(());
    let (opened, opening) = oneshot::channel();
    let failed = |detail: String| StoreError::new("sqlite", "open", Fault::Internal).detail(detail);
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        match open() {
            Ok(connection) => {
                if opened.send(Ok(())).is_ok() {
                    run(&mut Session::new(&connection), &mut receiver, &serve);
                }
            }
            Err(failure) => drop(opened.send(Err(failure))),
        }
        drop(running);
    });
    thread.map_err(|error| failed(format!("no thread: {error}")))?;
    match opening.await {
        Ok(Ok(())) => Ok(Thread { jobs, ended }),
        Ok(Err(failure)) => Err(failure.into_error("sqlite", "open")),
        Err(_) => Err(failed("the thread panicked".to_owned())),
    }
}

fn run(session: &mut Session<'_>, queue: &mut mpsc::Receiver<Message>, serve: &impl Serve) {
    let mut jobs: VecDeque<Box<dyn Job>> = VecDeque::new();
    let (mut over, mut looks) = (false, false);
    let alone = std::thread::available_parallelism().is_ok_and(|processors| processors.get() == 1);
    while !over {
        let mut next = Err(());
        if jobs.is_empty() {
            (next, looks) = receive(queue, looks && !alone);
        }
        over = jobs.is_empty() && next.is_err();
        let mut bytes = 0;
        loop {
            match next {
                Ok(Message::Job(job)) => {
                    bytes += job.bytes();
                    jobs.push_back(job);
                }
                // What was sent before is still received.
                Ok(Message::Stop) => queue.close(),
                Err(()) => {}
            }
            if jobs.len() >= GROUP.0 || bytes >= GROUP.1 {
                break;
            }
            next = match queue.try_recv() {
                Ok(message) => Ok(message),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            };
        }
        if !jobs.is_empty() {
            serve.serve(session, &mut jobs);
        }
    }
}

/// The next message, or an error if nobody can send one; and whether it is worth it to look for the one after it.
fn receive(queue: &mut mpsc::Receiver<Message>, looks: bool) -> (Result<Message, ()>, bool) {
    let start = Instant::now();
    while looks && start.elapsed() < LOOK {
        if let Ok(message) = queue.try_recv() {
            return (Ok(message), true);
        }
        std::hint::spin_loop();
    }
    let message = queue.blocking_recv().ok_or(());
    (message, !looks && start.elapsed() < SOON)
}

#[derive(Default)]
pub(super) struct Statistics {
    commands: AtomicU64,
    commits: AtomicU64,
}

impl Statistics {
    pub(super) fn read(&self) -> SqliteStatistics {
        let [commands, commits] =
            [&self.commands, &self.commits].map(|counter| counter.load(Ordering::Relaxed));
        SqliteStatistics { commands, commits }
    }
}

/// One transaction for all commands that are there.
pub(super) struct Writes {
    pub(super) clock: Arc<StoreClock>,
    pub(super) statistics: Arc<Statistics>,
}

impl Serve for Writes {
    fn serve(&self, session: &mut Session<'_>, jobs: &mut VecDeque<Box<dyn Job>>) {
        let (mut done, mut outcome) = (Vec::new(), begin(session));
        let connection = session.connection;
        if outcome.is_err() {
            done.extend(jobs.drain(..).map(|job| (job, Ok(()))));
        }
        // Read once the lock is held: nobody writes with a later time before this commit.
        let (now, before) = (self.clock.now(), connection.total_changes());
        let alone = jobs.len() == 1;
        while let Some(mut job) = jobs.pop_front() {
            let result = attempt(session, &mut *job, alone, now);
            // Some errors end the transaction of all.
            let broken = connection.is_autocommit();
            if broken {
                let failure = result.as_ref().err().map(Failure::again);
                outcome = Err(failure.unwrap_or_else(|| Failure::new(Fault::Internal, "no transaction")));
            }
            done.push((job, result));
            if broken {
                break;
            }
        }
        if outcome.is_ok() {
            let changed = connection.total_changes() != before;
            outcome = commit(session);
            self.statistics.commits.fetch_add(u64::from(changed && outcome.is_ok()), Ordering::Relaxed);
        }
        if outcome.is_err() {
            session.known.forget_all();
        }
        self.statistics.commands.fetch_add(done.len() as u64, Ordering::Relaxed);
        for (job, result) in done {
            let shared = outcome.as_ref().map_or_else(|failure| Err(failure.again()), |()| Ok(()));
            job.finish(result.and(shared));
        }
    }
}

/// One transaction for each command, which sees the file as it is at one moment.
pub(super) struct Reads {
    pub(super) clock: Arc<StoreClock>,
}

impl Serve for Reads {
    fn serve(&self, session: &mut Session<'_>, jobs: &mut VecDeque<Box<dyn Job>>) {
        for mut job in jobs.drain(..) {
            let connection = session.connection;
            let begun = session.execute("BEGIN").and_then(|()| schema::expect_known(connection));
            let result = begun.and_then(|()| job.run(session, self.clock.now()));
            let ended = if connection.is_autocommit() { Ok(()) } else { session.execute("ROLLBACK") };
            job.finish(result.and(ended));
        }
    }
}

fn begin(session: &mut Session<'_>) -> Result<(), Failure> {
    session.execute("BEGIN IMMEDIATE")?;
    let checked = session.check_known();
    checked.inspect_err(|_| drop(session.execute("ROLLBACK")))
}

/// Of a command that fails nothing is left; if it is `alone`, the transaction is its own.
fn attempt(session: &mut Session<'_>, job: &mut dyn Job, alone: bool, now: i64) -> Result<(), Failure> {
    let connection = session.connection;
    if !alone {
        session.execute("SAVEPOINT command")?;
    }
    let result = job.run(session, now);
    if connection.is_autocommit() {
        return result;
    }
    if result.is_err()
        && let Err(failure) = undo(session, alone)
    {
        // What it has begun must not be committed with what others did.
        let _ = session.execute("ROLLBACK");
        return Err(failure);
    }
    if !alone {
        session.execute("RELEASE command")?;
    }
    result
}

/// The transaction of a command that was alone is over then.
fn undo(session: &mut Session<'_>, alone: bool) -> Result<(), Failure> {
    session.execute(if alone { "ROLLBACK" } else { "ROLLBACK TO command" })
}

fn commit(session: &mut Session<'_>) -> Result<(), Failure> {
    let committed = session.kept("COMMIT").and_then(|commit| commit.execute([]));
    committed.map(|_| ()).map_err(|error| {
        if !session.connection.is_autocommit() {
            let _ = session.execute("ROLLBACK");
        }
        Failure::of_commit(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_command_that_failed_and_cannot_be_undone_alone_nothing_is_committed() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE t (x)").unwrap();
        let add = |x: i64, fails: bool| {
            Pending::job("test", 0, move |session: &mut Session<'_>, _| {
                let connection = session.connection;
                connection.execute("INSERT INTO t VALUES (?1)", [x])?;
                if fails {
                    // Without its savepoint it cannot be rolled back by itself.
                    connection.execute_batch("RELEASE command")?;
                    return Err(Failure::new(Fault::Internal, "it fails"));
                }
                Ok(())
            })
        };
        let (failing, mut failed) = add(1, true);
        let (working, mut worked) = add(2, false);
        let mut jobs = VecDeque::from([failing, working]);
        let writes = Writes {
            clock: Arc::new(StoreClock::new(None, buttress_core::clock::wall)),
            statistics: Arc::default(),
        };
        let mut session = Session::new(&connection);
        while !jobs.is_empty() {
            writes.serve(&mut session, &mut jobs);
        }
        assert!(failed.try_recv().unwrap().is_err());
        assert!(worked.try_recv().unwrap().is_ok());
        let sum: i64 = connection.query_row("SELECT sum(x) FROM t", [], |row| row.get(0)).unwrap();
        assert_eq!(sum, 2);
    }

    #[test]
    fn of_a_command_that_fails_by_itself_nothing_is_left_and_the_next_one_works() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE t (x)").unwrap();
        let writes = Writes {
            clock: Arc::new(StoreClock::new(None, buttress_core::clock::wall)),
            statistics: Arc::default(),
        };
        let mut session = Session::new(&connection);
        let answers = [true, false].map(|fails| {
            let (job, mut answer) = Pending::job("test", 0, move |session: &mut Session<'_>, _| {
                let connection = session.connection;
                connection.execute("INSERT INTO t VALUES (1)", [])?;
                if fails { Err(Failure::new(Fault::Unavailable, "it fails")) } else { Ok(()) }
            });
            writes.serve(&mut session, &mut VecDeque::from([job]));
            answer.try_recv().unwrap().map_err(|error| error.fault())
        });
        assert_eq!(answers, [Err(Fault::Unavailable), Ok(())]);
        let count: i64 = connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
        assert_eq!(count, 1);
        assert_eq!(writes.statistics.read(), SqliteStatistics { commands: 2, commits: 1 });
    }
}
