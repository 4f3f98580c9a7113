//! The commands.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use buttress::core::Observe;
use buttress::degrade::{Component, DegradationRegistry, Need};
use buttress::store::{self, JournalStore, StoreError};

use crate::agent::{Agent, Hands, Plan, Stepped};
use crate::args::{Args, Command};
use crate::console::Console;
use crate::database::{Change, Database, Direction, Settings, State};
use crate::fault::Fault;
use crate::files::{self, Migration};
use crate::history::{History, Read};
use crate::monitor::{Monitor, Notice};
use crate::problem::{Exit, Problem};
use crate::report::{Changed, Report};
use crate::sql::{Dialect, short};
use crate::stack::Stack;
use crate::tally::Tally;
use crate::{heal, plan, postgres, sqlite};

/// All that a command needs.
pub(crate) struct App {
    args: Args,
    target: Target,
    migrations: Vec<Arc<Migration>>,
    stack: Stack,
    history: History,
    monitor: Arc<Monitor>,
    tally: Arc<Tally>,
    console: Arc<Console>,
    registry: DegradationRegistry,
    reading: Component,
}

/// What the database's URL says.
#[derive(Clone, Debug)]
enum Target {
    Sqlite(PathBuf),
    Postgres(Box<postgres::Server>),
}

impl Target {
    fn parse(url: &str) -> Result<Self, Problem> {
        if let Some(path) = url.strip_prefix("sqlite:") {
            return Ok(Self::Sqlite(path.strip_prefix("//").unwrap_or(path).into()));
        }
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            return Ok(Self::Postgres(Box::new(postgres::Server::parse(url)?)));
        }
        // It may hold a password.
        Err(Problem::input("the database's URL is none").fix("it is sqlite:PATH or postgres://…"))
    }

    /// As people are told of it: without a password.
    fn shown(&self) -> String {
        match self {
            Self::Sqlite(path) => format!("sqlite:{}", path.display()),
            Self::Postgres(server) => {
                let config = &server.config;
                let host = match config.get_hosts().first() {
                    Some(tokio_postgres::config::Host::Tcp(host)) => host.clone(),
                    _ => "localhost".to_owned(),
                };
                let port = config.get_ports().first().copied().unwrap_or(5432);
                let database = config.get_dbname().or(config.get_user()).unwrap_or_default();
                format!("postgres://{host}:{port}/{database}")
            }
        }
    }

    fn copy(&self) -> PathBuf {
        match self {
            Self::Sqlite(path) => beside(path, "history.json"),
            Self::Postgres(_) => "migration-history.json".into(),
        }
    }
}

/// A file that belongs to another one.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

impl App {
    pub(crate) fn new(args: Args, console: Arc<Console>) -> Result<Self, Problem> {
        let target = Target::parse(&args.database)?;
        let dialect = match target {
            Target::Sqlite(_) => Dialect::Sqlite,
            Target::Postgres(_) => Dialect::Postgres,
        };
        let migrations = files::load(&args.migrations, dialect)?;
        let migrations: Vec<_> = migrations.into_iter().map(Arc::new).collect();
        args.crash.of().map(|id| plan::find(&migrations, "--crash-at", id)).transpose()?;
        let registry = DegradationRegistry::new("migration-agent");
        let monitoring = registry.component("monitoring", Need::Weight(1));
        let reading = registry.component("history", Need::Required);
        let monitor = Arc::new(Monitor::start(args.statsd.as_deref(), args.notify.as_deref(), &monitoring)?);
        let tally = Arc::new(Tally::new(Arc::clone(&console)));
        let settings = Settings { lock: args.lock_timeout, statement: args.statement_timeout };
        let database = match &target {
            Target::Sqlite(path) => Database::Sqlite(Arc::new(sqlite::Sqlite::new(path, settings))),
            Target::Postgres(server) => {
                let pool = heal::supervised(server.as_ref().clone(), &tally, &monitor)
                    .map_err(|error| Problem::new(Exit::Stuck, error.to_string()))?;
                Database::Postgres(Arc::new(postgres::Postgres::new(pool, settings)))
            }
        };
        let observer: Arc<dyn Observe> = Arc::clone(&tally) as _;
        let stack = Stack::new(database, args.retries, &observer)
            .map_err(|error| Problem::input(error.to_string()))?;
        let copy = args.history_copy.clone().unwrap_or_else(|| target.copy());
        let history = History::new(stack.clone(), copy, target.shown());
        Ok(Self { args, target, migrations, stack, history, monitor, tally, console, registry, reading })
    }

    /// Does it, and says what came of it.
    pub(crate) async fn run(&self) -> (Report, Result<(), Problem>) {
        let (command, database) = (self.args.command.as_str(), self.target.shown());
        let mut report = Report { command, database, ..Report::default() };
        let result = match self.args.command {
            Command::Plan => self.plan(&mut report).await,
            Command::Up | Command::Down(_) => self.migrate(&mut report).await,
            Command::Status => self.status(&mut report).await,
            Command::Verify => self.verify(&mut report).await,
        };
        self.console.end();
        let result = result.map_err(|problem| self.judged(problem));
        let event = if result.is_ok() { "finished" } else { "stopped" };
        let detail = result.as_ref().err().map(ToString::to_string);
        self.monitor.tell(&Notice { detail, ..Notice::new(event) });
        (report.notices_sent, report.notices_lost) = self.monitor.end().await;
        report.counts = self.tally.counts();
        report.level = if result.is_ok() { self.registry.levels().instant.as_u8() } else { 4 };
        report.end(&result);
        (report, result)
    }

    /// What healing did not help is no longer for the next attempt, but for a person.
    fn judged(&self, problem: Problem) -> Problem {
        let escalated = problem.exit == Exit::Unavailable && self.tally.counts().escalated;
        if escalated { problem.exiting(Exit::Stuck) } else { problem }
    }

    /// What is to be done next: by the truth, and by nothing else.
    async fn next(&self) -> Result<Plan, Problem> {
        let records = self.history.truth().await?;
        match self.args.command {
            Command::Down(count) => plan::down(&self.migrations, &records, count),
            _ => plan::up(&self.migrations, &records, self.args.to.as_deref()),
        }
    }

    async fn plan(&self, report: &mut Report) -> Result<(), Problem> {
        let plan = self.next().await?;
        self.console.line(&format!("{} to apply to {}", plan.steps.len(), self.target.shown()));
        let mut changes = Vec::new();
        for planned in &plan.steps {
            let Some(migration) = self.migrations.iter().find(|it| *it.id == *planned.id) else { continue };
            let script = &migration.up.script;
            let kind = if script.bare { "each statement by itself" } else { "one transaction" };
            let more = match script.statements.len() {
                0 | 1 => String::new(),
                n => format!(" and {} more", n - 1),
            };
            let first = script.statements.first().map(|it| short(&it.text)).unwrap_or_default();
            self.console.line(&format!("  {}: {kind}: {first}{more}", planned.id));
            if let Some(doubt) = script.doubt() {
                let finding = format!("{}: not understood here, the database decides: {doubt}", planned.id);
                self.console.line(&format!("    {finding}"));
                report.findings.push(finding);
            }
            report.pending.push(planned.id.clone());
            let (migration, run) = (Arc::clone(migration), Arc::from("rehearsal"));
            let (others, crash) = (Vec::new(), crate::crash::Crash::default());
            changes.push(Change { migration, direction: Direction::Up, others, run, crash });
        }
        self.rehearse(changes, report).await
    }

    async fn rehearse(&self, changes: Vec<Change>, report: &mut Report) -> Result<(), Problem> {
        if changes.is_empty() || self.stack.database.dialect() == Dialect::Sqlite {
            return Ok(());
        }
        let settings = Settings { lock: self.args.lock_timeout, statement: self.args.statement_timeout };
        let limit = changes.iter().map(|change| change.limit(settings)).sum();
        let asked = self.stack.ask(limit, |database| {
            let changes = changes.clone();
            async move { database.rehearse(changes).await }
        });
        match asked.await? {
            None => {
                self.console.line("rehearsed in a transaction, and rolled back: all of it works");
                Ok(())
            }
            Some((id, fault)) => {
                report.findings.push(format!("{id} fails in a rehearsal: {fault}"));
                Err(fault.problem.of(&format!("{id} (rehearsed, and rolled back)")))
            }
        }
    }

    async fn status(&self, report: &mut Report) -> Result<(), Problem> {
        let read = self.history.look(self.reading.clone()).await?;
        let level = read.level();
        let Read { records, age } = read.into_inner();
        if let Some(age) = age {
            let age = age.as_secs();
            self.console.line(&format!(
                "the database does not answer: the last good copy, {age} s old (level {})",
                level.as_u8()
            ));
            report.history_age = Some(age);
        }
        for record in &records {
            let how = match record.state {
                State::Applied => format!("applied at {} in {} ms", record.at, record.ms),
                state => format!("{}, statement {} has begun", state.as_str(), record.statement + 1),
            };
            self.console.line(&format!("  {}: {how}", record.id));
        }
        report.pending = self.pending(&records);
        for id in &report.pending {
            self.console.line(&format!("  {id}: pending"));
        }
        for difference in plan::differences(&self.migrations, &records) {
            self.console.line(&format!("  {difference}"));
            report.findings.push(difference.to_string());
        }
        report.history = Some(records);
        Ok(())
    }

    fn pending(&self, records: &[crate::database::Record]) -> Vec<String> {
        let ids = self.migrations.iter().map(|it| it.id.to_string());
        ids.filter(|id| !records.iter().any(|record| record.id == *id)).collect()
    }

    async fn verify(&self, report: &mut Report) -> Result<(), Problem> {
        let records = self.history.truth().await?;
        let mut differences = plan::differences(&self.migrations, &records);
        let halfway = records.iter().filter(|record| record.state != State::Applied);
        differences.extend(halfway.map(|record| {
            let what = format!("{} is half done: {}", record.id, record.state.as_str());
            Problem::new(Exit::Changed, what)
                .fix("run `up` or `down`, whichever it was, and it is gone on with")
        }));
        report.findings = differences.iter().map(ToString::to_string).collect();
        report.pending = self.pending(&records);
        let (applied, found) = (records.len(), differences.len());
        report.history = Some(records);
        self.console.line(&format!(
            "{applied} applied, {} pending, {found} that are not as they should be",
            report.pending.len()
        ));
        let mut texts = differences.into_iter();
        match texts.next() {
            None => Ok(()),
            Some(first) => {
                texts.for_each(|difference| self.console.line(&format!("  {difference}")));
                Err(first)
            }
        }
    }

    /// `up` and `down`: opens the journal, which for PostgreSQL is in the same database.
    async fn migrate(&self, report: &mut Report) -> Result<(), Problem> {
        let limit = Duration::from_secs(30);
        let install = self.stack.ask(limit, async |database| database.install().await);
        install.await?;
        match &self.target {
            Target::Sqlite(path) => {
                let path = beside(path, "runs");
                let open = self
                    .stack
                    .ask(limit, async |_| store::Sqlite::open(&path).await.map_err(|error| of_store(&error)));
                let store = open.await?;
                let result = self.migrate_by(store.clone(), report).await;
                store.shutdown().await;
                result
            }
            Target::Postgres(server) => {
                let open = self.stack.ask(limit, async |_| {
                    let options = store::Postgres::at(server.config.clone()).connections(2);
                    options.open(server.tls.clone()).await.map_err(|error| of_store(&error))
                });
                let store = open.await?;
                let result = self.migrate_by(store.clone(), report).await;
                store.close();
                result
            }
        }
    }

    async fn migrate_by<S: JournalStore>(&self, store: S, report: &mut Report) -> Result<(), Problem> {
        let hands = Arc::new(Hands {
            stack: self.stack.clone(),
            migrations: self.migrations.iter().map(|it| (it.id.to_string(), Arc::clone(it))).collect(),
            settings: Settings { lock: self.args.lock_timeout, statement: self.args.statement_timeout },
            console: Arc::clone(&self.console),
            monitor: Arc::clone(&self.monitor),
            crash: self.args.crash.clone(),
        });
        let observer: Arc<dyn Observe> = Arc::clone(&self.tally) as _;
        let agent = Agent::new(store, &hands, self.args.lease, observer, (self.args.wait, self.args.resume))?;
        let wanted = if self.args.command == Command::Up { Direction::Up } else { Direction::Down };
        loop {
            let open = agent.open().await?;
            let (direction, run) = match open {
                Some(open) => open,
                None => {
                    let plan = self.next().await?;
                    if plan.steps.is_empty() {
                        self.console.line("nothing is left to do");
                        return Ok(());
                    }
                    let (direction, steps) = (plan.direction, plan.steps.len());
                    let Some(run) = agent.start(plan).await? else { continue };
                    self.console.line(&format!(
                        "{}: {} {steps} on {}",
                        run.id(),
                        direction.verb(),
                        self.target.shown()
                    ));
                    (direction, run)
                }
            };
            let id = run.id().to_string();
            report.runs.push(id.clone());
            let stepped = agent.drive(&run).await;
            self.console.end();
            let stepped = stepped?;
            let stale = note(report, &id, stepped);
            if direction != wanted {
                let (verb, wanted) = (direction.verb(), wanted.verb());
                self.console.line(&format!("{id} was there before, to {verb}, and is over; now to {wanted}"));
            } else if wanted == Direction::Down && !stale {
                // However it began: to undo so many once more is another command.
                break;
            }
        }
        // The copy is of what is true now.
        self.history.truth().await.map(drop)
    }
}

/// Adds what a run has done, and says whether its plan was no longer what the files say.
fn note(report: &mut Report, run: &str, stepped: Vec<Stepped>) -> bool {
    let mut stale = false;
    for Stepped { id, done } in stepped {
        match done {
            Some(done) => report.changes.push(Changed { id, run: run.to_owned(), done: done.into() }),
            None => stale = true,
        }
    }
    stale
}

fn of_store(error: &StoreError) -> Fault {
    let text =
        std::error::Error::source(error).map_or(error.to_string(), |cause| format!("{error}: {cause}"));
    let what = format!("the journal: {text}");
    if error.is_transient() {
        Fault::unsure(what)
    } else {
        Fault::refused(Problem::new(Exit::Unavailable, what))
    }
}
