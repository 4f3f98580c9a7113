use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Context;
use std::time::Duration;

use buttress_core::observe::{HealState, Health};
use buttress_core::{Mode, ModeCell, within};
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;

use crate::gate::Hub;
use crate::incident::Incident;
use crate::ladder::Fit;
use crate::ledger::Ledger;

/// So many incidents that are over are kept.
const KEPT: usize = 16;

/// How a supervised service is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// How well.
    pub health: Health,
    /// What its supervisor is at.
    pub state: HealState,
    /// The generation that calls use; 0 while there is none.
    pub generation: u64,
    /// The target that it talks to, from 0 on.
    pub target: usize,
    /// The key of the incident, if there is one.
    pub incident: Option<Arc<str>>,
    /// Whether an operator has paused all actions.
    pub paused: bool,
}

/// Watches a supervisor, and takes an operator's orders. All clones are one.
#[derive(Clone)]
pub struct SupervisorHandle {
    pub(crate) shared: Arc<Shared>,
    pub(crate) task: AbortHandle,
}

/// What the handles and the task share.
pub(crate) struct Shared {
    pub(crate) hub: Arc<Hub>,
    pub(crate) mode: ModeCell,
    inbox: Mutex<Inbox>,
    /// From the first incident, or the first look at it, on.
    record: OnceLock<Box<Mutex<Record>>>,
    shown: Mutex<Shown>,
}

/// How things are. Most supervisors are never watched, and a channel is large.
#[derive(Default)]
struct Shown {
    status: Status,
    watched: Option<watch::Sender<Status>>,
    /// The supervisor has ended.
    is_last: bool,
}

#[derive(Default)]
struct Inbox {
    commands: Vec<Command>,
    /// Nobody reads it any more: what comes is dropped.
    closed: bool,
}

/// What is known of incidents.
#[derive(Default)]
pub(crate) struct Record {
    pub(crate) current: Option<Box<Incident>>,
    past: VecDeque<Incident>,
    pub(crate) ledger: Ledger,
}

pub(crate) enum Command {
    Pause(bool),
    Force(String, oneshot::Sender<Result<(), NoSuchRung>>),
    Explain(oneshot::Sender<Explanation>),
    ModeChanged,
    Stop(Duration),
}

/// What the supervisor would do now, and why it would do nothing else.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Explanation {
    /// How things are.
    pub status: Status,
    /// The rung that runs next, if one can.
    pub next: Option<Arc<str>>,
    /// Each rung in its order, and whether it can run.
    pub rungs: Vec<(Arc<str>, Fit)>,
}

/// The ladder has no rung of this name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoSuchRung {
    pub(crate) asked: String,
    pub(crate) known: Vec<Arc<str>>,
}

impl SupervisorHandle {
    /// How the service is now.
    pub fn status(&self) -> Status {
        self.shared.status()
    }

    /// How well the service is now.
    pub fn health(&self) -> Health {
        self.shared.shown().status.health
    }

    /// Shows each change; closed when the supervisor ends.
    pub fn watch(&self) -> watch::Receiver<Status> {
        let mut shown = self.shared.shown();
        let Shown { status, watched, is_last } = &mut *shown;
        if *is_last {
            return watch::channel(status.clone()).1;
        }
        watched.get_or_insert_with(|| watch::channel(status.clone()).0).subscribe()
    }

    /// The incident under way.
    pub fn incident(&self) -> Option<Incident> {
        self.shared.record().current.as_deref().cloned()
    }

    /// The last 16 incidents that are over, and the one under way, oldest first.
    pub fn incidents(&self) -> Vec<Incident> {
        let record = self.shared.record();
        record.past.iter().chain(record.current.as_deref()).cloned().collect()
    }

    /// What has cured what.
    pub fn ledger(&self) -> Ledger {
        self.shared.record().ledger.clone()
    }

    /// Takes no action and calls nobody until it is [resumed](Self::resume); the checks go on. What runs is not cut off.
    pub fn pause(&self) {
        self.shared.send(Command::Pause(true));
    }

    /// Goes on where it was paused.
    pub fn resume(&self) {
        self.shared.send(Command::Pause(false));
    }

    /// Whether the supervisor acts.
    pub fn mode(&self) -> Mode {
        self.shared.mode.get()
    }

    /// [`Mode::Observe`]: it checks and decides, and reports what it would do and whom it would call, and does neither.
    /// [`Mode::Off`]: it does not even check. In all modes it builds the first service.
    pub fn set_mode(&self, mode: Mode) {
        self.shared.mode.set(mode);
        self.shared.send(Command::ModeChanged);
    }

    /// Tries the rung of this name as soon as no other action runs or is verified, whatever speaks against it. What was forced
    /// before goes first; a rung that already waits for its turn is tried once.
    ///
    /// # Errors
    ///
    /// If there is no such rung; the error names those that there are.
    pub async fn force(&self, rung: &str) -> Result<(), NoSuchRung> {
        let (answer, answered) = oneshot::channel();
        self.shared.send(Command::Force(rung.into(), answer));
        let gone = || Err(NoSuchRung { asked: rung.into(), known: Vec::new() });
        answered.await.unwrap_or_else(|_| gone())
    }

    /// A dry run: which rung runs next, and why the others do not. `None` once the supervisor has ended.
    pub async fn explain(&self) -> Option<Explanation> {
        let (answer, answered) = oneshot::channel();
        self.shared.send(Command::Explain(answer));
        answered.await.ok()
    }

    /// Ends the supervisor: what it does is dropped where it stands, calls under way may end, pages on their way are sent, all
    /// within this time, or within less if somebody else said so. Says whether it was enough; if not, what is left is cut off. Calls
    /// are refused from then on. Dropping the future takes nothing of that back.
    pub async fn shutdown(&self, limit: Duration) -> bool {
        self.shared.send(Command::Stop(limit));
        let mut status = self.watch();
        let ended = async { while status.changed().await.is_ok() {} };
        // A little longer, for what is cut off to notice.
        let ended = within(limit.saturating_add(Duration::from_secs(1)), ended).await.is_some();
        self.task.abort();
        ended
    }
}

impl SupervisorHandle {
    pub(crate) fn has_ended(&self) -> bool {
        self.task.is_finished()
    }
}

impl fmt::Debug for SupervisorHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("SupervisorHandle");
        debug.field("name", &self.shared.hub.name).field("status", &self.status()).finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn new(hub: Arc<Hub>, mode: Mode) -> Self {
        let (inbox, shown) = (Mutex::default(), Mutex::default());
        Self { hub, mode: ModeCell::new(mode), inbox, record: OnceLock::new(), shown }
    }

    pub(crate) fn status(&self) -> Status {
        self.shown().status.clone()
    }

    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows this. Says what was shown before, if that was something else.
    pub(crate) fn show(&self, status: &Status) -> Option<Status> {
        let (before, watched) = {
            let mut shown = self.shown();
            if shown.status == *status {
                return None;
            }
            (std::mem::replace(&mut shown.status, status.clone()), shown.watched.clone())
        };
        // Whoever is woken may ask for more.
        if let Some(watched) = watched {
            watched.send_replace(status.clone());
        }
        Some(before)
    }

    pub(crate) fn record(&self) -> MutexGuard<'_, Record> {
        let record = self.record.get_or_init(Box::default);
        record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, command: Command) {
        let mut inbox = self.inbox();
        if !inbox.closed {
            inbox.commands.push(command);
            drop(inbox);
            self.hub.bell.ring();
        }
    }

    /// What has come in; the task is woken by what comes next.
    pub(crate) fn receive(&self, cx: &Context<'_>) -> Vec<Command> {
        self.hub.bell.listen(cx);
        std::mem::take(&mut self.inbox().commands)
    }

    /// Within which time to end, if that was said. All else is dropped: nobody answers any more.
    pub(crate) fn told_to_stop(&self, cx: &Context<'_>) -> Option<Duration> {
        shortest(&self.receive(cx))
    }

    /// Nobody reads any more.
    pub(crate) fn close(&self) {
        let mut inbox = self.inbox();
        inbox.closed = true;
        inbox.commands.clear();
    }

    /// The supervisor has ended, or is gone.
    pub(crate) fn end(&self) {
        self.close();
        let watched = {
            let mut shown = self.shown();
            shown.is_last = true;
            shown.watched.take()
        };
        drop(watched);
    }
}

/// The least time of all that were given to end.
pub(crate) fn shortest(commands: &[Command]) -> Option<Duration> {
    let limits = commands.iter().filter_map(|command| match command {
        Command::Stop(limit) => Some(*limit),
        _ => None,
    });
    limits.min()
}

impl Record {
    pub(crate) fn close(&mut self) {
        let Some(incident) = self.current.take() else { return };
        if self.past.len() == KEPT {
            self.past.pop_front();
        }
        self.past.push_back(*incident);
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Status { health, state, paused, .. } = &self.status;
        write!(f, "{}, {}", health.as_str(), state.as_str())?;
        f.write_str(if *paused { ", paused by an operator" } else { "" })?;
        match &self.next {
            Some(next) => write!(f, "; next: {next}")?,
            None if *health == Health::Healthy => f.write_str("; nothing is to be done")?,
            None => f.write_str("; nothing can run now")?,
        }
        self.rungs.iter().try_for_each(|(rung, fit)| write!(f, "\n  {rung}: {fit}"))
    }
}

impl fmt::Display for NoSuchRung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { asked, known } = self;
        if known.is_empty() {
            return write!(f, "`{asked}` cannot be tried: the supervisor has ended");
        }
        write!(f, "there is no rung `{asked}`; there are: {}", known.join(", "))
    }
}

impl std::error::Error for NoSuchRung {}
