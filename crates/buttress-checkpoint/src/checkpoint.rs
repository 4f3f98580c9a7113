use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use buttress_store::{
    Appended, Created, Flow, Hold, JournalStore, NewEntry, NewRun, Next, Owner, Peek, RunId, Status,
    StoreError, Wanted,
};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::to_raw_value;
use tokio::time::Instant;

use crate::entry::{self, Body, Kind};
use crate::key;
use crate::lease::Lease;

/// The state of a piece of work, saved now and then, for code that does not want to be a workflow: a struct with the number of
/// the next step, say.
///
/// One process at a time has it: its lease of 30 seconds is renewed until it is dropped. Each save is one durable write, and
/// is kept; work with very many of them is better off as several.
///
/// ```
/// use buttress_checkpoint::Checkpoint;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Clone, Default, Serialize, Deserialize)]
/// struct Migration { step: u32, rows: u64 }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let store = buttress_store::Memory::new();
/// let mut checkpoint = Checkpoint::load(&store, "migrate-42").await?;
/// let mut state: Migration = checkpoint.state().cloned().unwrap_or_default();
/// while state.step < 3 {
///     state.rows += 100;
///     state.step += 1;
///     checkpoint.save(&state).await?;
/// }
/// checkpoint.done().await?;
/// # Ok(()) }
/// ```
pub struct Checkpoint<S, T> {
    store: S,
    state: Option<T>,
    /// `None` once it is done.
    held: Option<(Hold, Lease)>,
    seq: u64,
    /// A save failed or was dropped, and may be stored.
    unsure: bool,
}

/// Why a checkpoint could not be loaded or saved.
#[derive(Debug)]
#[non_exhaustive]
pub enum CheckpointError {
    /// Somebody else has it, for so long at least.
    Busy {
        /// Who.
        worker: Arc<str>,
        /// The rest of its lease.
        lease: Duration,
    },
    /// It was lost: its lease ended, and somebody else may have it. Nothing was saved. Load it again.
    Lost,
    /// Somebody cancelled it: it is over, with what was saved last, the state of a save that answers so included.
    Cancelled,
    /// It is done already, and takes nothing more; or it is no checkpoint but a workflow's run.
    Over,
    /// What is saved is not of this type, or the state cannot be encoded.
    Encoding(String),
    /// The identity is empty or too long.
    Id(buttress_core::ConfigError),
    /// The store failed.
    Store(StoreError),
}

impl fmt::Display for CheckpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy { worker, lease } => {
                write!(f, "`{worker}` has the checkpoint, for {lease:?} at least")
            }
            Self::Lost => f.write_str("the checkpoint was lost, and nothing was saved; load it again"),
            Self::Cancelled => f.write_str("the checkpoint was cancelled; stop the work"),
            Self::Over => {
                f.write_str("the checkpoint is done already, or no checkpoint; choose another identity")
            }
            Self::Encoding(reason) => write!(f, "the state does not fit: {reason}"),
            Self::Id(_) => f.write_str("the checkpoint cannot have this identity"),
            Self::Store(_) => f.write_str("the checkpoint could not be read or written"),
        }
    }
}

impl Error for CheckpointError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Id(error) => Some(error),
            Self::Store(error) => Some(error),
            _ => None,
        }
    }
}

const LEASE: Duration = Duration::from_secs(30);
const MARGIN: Duration = Duration::from_secs(5);
const NAME: &str = "buttress checkpoint";

impl<S, T> Checkpoint<S, T>
where
    S: JournalStore,
    T: Serialize + DeserializeOwned,
{
    /// Takes hold of a checkpoint, which is made if there is none, and reads what was saved last.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Busy`] while another process has it, [`CheckpointError::Over`] once it is done,
    /// [`CheckpointError::Cancelled`] if somebody wants it cancelled: it is over then.
    pub async fn load(store: &S, id: impl Into<Arc<str>>) -> Result<Self, CheckpointError> {
        let id = RunId::try_new(id).map_err(CheckpointError::Id)?;
        let (owner, asked) = (Owner::random(), Instant::now());
        let worker: Arc<str> = format!("pid {}", std::process::id()).into();
        let run = NewRun {
            id: id.clone(),
            name: NAME.into(),
            version: 1,
            fingerprint: key::fingerprint(b""),
            input: Bytes::new(),
            parent: None,
            owner,
            worker: worker.clone(),
        };
        let hold = match store.create(&run, Some(LEASE)).await.map_err(CheckpointError::Store)? {
            Created::Held(hold) => hold,
            Created::Conflict(_) => return Err(CheckpointError::Over),
            Created::Queued | Created::Exists(_) => {
                let flows = vec![Flow { name: NAME.into(), versions: 1..=1 }];
                let wanted = Wanted { flows, id: Some(id.clone()), owner, worker, lease: LEASE, max: 1 };
                let mut acquired = store.acquire(&wanted).await.map_err(CheckpointError::Store)?;
                match acquired.pop() {
                    Some(acquired) => acquired.hold,
                    None => return Err(unavailable(store, &id).await),
                }
            }
        };
        let lease = Lease::keep(store.clone(), hold.clone(), asked, LEASE, MARGIN);
        let run = store.load(&id).await.map_err(CheckpointError::Store)?.ok_or(CheckpointError::Lost)?;
        let saved = run.entries.last().map(entry::read).transpose();
        let saved = saved.map_err(|mismatch| CheckpointError::Encoding(mismatch.to_string()))?;
        let state =
            saved.and_then(|(_, body)| body.ok).map(|raw| serde_json::from_str(raw.get())).transpose();
        let state = state.map_err(|error| CheckpointError::Encoding(error.to_string()))?;
        let (held, seq) = (Some((hold, lease)), run.entries.len() as u64);
        let mut loaded = Self { store: store.clone(), state, held, seq, unsure: false };
        if run.info.cancel_requested {
            loaded.append(&[], &Next::Cancel).await?;
            return Err(CheckpointError::Cancelled);
        }
        Ok(loaded)
    }

    /// What was saved last, as far as is known; `None` at the first time.
    pub fn state(&self) -> Option<&T> {
        self.state.as_ref()
    }

    /// Saves the state. When this returns, it is durable. If it fails, or is dropped, either the old or the new state is
    /// saved, and this state or another one can be saved next.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Lost`] if somebody else may have it by now, [`CheckpointError::Cancelled`] if somebody wants it
    /// cancelled: the state is saved, and the checkpoint over.
    pub async fn save(&mut self, state: &T) -> Result<(), CheckpointError> {
        let raw = to_raw_value(state).map_err(|error| CheckpointError::Encoding(error.to_string()))?;
        let saved =
            serde_json::from_str(raw.get()).map_err(|error| CheckpointError::Encoding(error.to_string()))?;
        let body = Body { ok: Some(raw), ..Body::default() };
        let entry = entry::write(Kind::Saved, &"".into(), 0, &body);
        let cancelled = self.append(&[entry], &Next::Go).await?;
        self.state = Some(saved);
        if cancelled {
            // Whoever loads it next repeats what fails here.
            let _ = self.append(&[], &Next::Cancel).await;
            self.held = None;
            return Err(CheckpointError::Cancelled);
        }
        Ok(())
    }

    /// The work is done: the checkpoint is over, and goes when it is pruned.
    ///
    /// # Errors
    ///
    /// See [`save`](Checkpoint::save).
    pub async fn done(mut self) -> Result<(), CheckpointError> {
        self.append(&[], &Next::Done).await.map(drop)
    }

    /// Gives the checkpoint back, so that another process can load it at once; one that is dropped takes a lease's time.
    ///
    /// # Errors
    ///
    /// See [`save`](Checkpoint::save).
    pub async fn release(mut self) -> Result<(), CheckpointError> {
        self.append(&[], &Next::Yield).await.map(drop)
    }

    /// Gives whether it is to be cancelled.
    async fn append(&mut self, entries: &[NewEntry], next: &Next) -> Result<bool, CheckpointError> {
        loop {
            let Some((hold, lease)) = &self.held else { return Err(CheckpointError::Lost) };
            let unsure = std::mem::replace(&mut self.unsure, true);
            let appended = tokio::select! {
                biased;
                _ = lease.lost() => None,
                appended = self.store.append(hold, self.seq, entries, next) => Some(appended),
            };
            match appended {
                Some(Ok(Appended::Applied { next, cancel_requested, .. })) => {
                    (self.seq, self.unsure) = (next, false);
                    return Ok(cancel_requested);
                }
                // What nobody was told of is stored: nobody else writes while this holds it.
                Some(Ok(Appended::Conflict { next })) if unsure && next == self.seq + 1 => self.seq = next,
                Some(Err(error)) => return Err(CheckpointError::Store(error)),
                None | Some(Ok(Appended::Fenced | Appended::Conflict { .. })) => {
                    self.held = None;
                    return Err(CheckpointError::Lost);
                }
            }
        }
    }
}

/// Why a checkpoint that there is could not be had.
async fn unavailable<S: JournalStore>(store: &S, id: &RunId) -> CheckpointError {
    match store.peek(id).await {
        Ok(Some(Peek { info, .. })) if info.status.kind().is_open() => {
            CheckpointError::Busy { worker: info.worker, lease: info.lease.unwrap_or_default() }
        }
        Ok(Some(Peek { info, .. })) if info.status == Status::Cancelled => CheckpointError::Cancelled,
        Ok(_) => CheckpointError::Over,
        Err(error) => CheckpointError::Store(error),
    }
}

impl<S, T> fmt::Debug for Checkpoint<S, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpoint").field("saves", &self.seq).finish_non_exhaustive()
    }
}
