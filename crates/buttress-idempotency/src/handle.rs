use std::fmt;
use std::future::{Future, ready};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use buttress_core::{ConfigError, IdempotencyResult, Mode, ModeCell, Observe, Observer};
use buttress_store::{ClaimStore, Fingerprint, ScopedKey};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::config::Config;
use crate::engine::{Decision, Engine};
use crate::error::{Error, RunError};
use crate::flights::Flights;
use crate::future::Detachable;
use crate::key::Claim;
use crate::layer::IdempotencyLayer;
use crate::returns::Returns;
use crate::tasks::{Tasks, answered};
use crate::value::{Ran, Returned, named};

/// Carries out each call once; what all layers, services and functions over one store share.
///
/// Clones share everything.
///
/// ```
/// use buttress_idempotency::{Config, Hash, Idempotency, Ran};
/// use buttress_store::{Memory, ScopedKey};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), buttress_core::BoxError> {
/// let idempotency = Idempotency::new("charges", Memory::new(), Config::new())?;
/// let key = ScopedKey::try_new("tenant-7", "order-42")?;
/// let fingerprint = Hash::new().part("100 EUR").fingerprint();
/// let charge = |_claim| async { Ok::<_, std::io::Error>(String::from("ch_1")) };
/// let first = idempotency.run(key.clone(), fingerprint, charge).await?;
/// assert_eq!(first, Ran::Executed("ch_1".into()));
/// let second = idempotency.run(key, fingerprint, charge).await?;
/// assert_eq!(second, Ran::Replayed("ch_1".into()));
/// # Ok(())
/// # }
/// ```
pub struct Idempotency<St> {
    pub(crate) engine: Arc<Engine<St>>,
}

impl<St> Clone for Idempotency<St> {
    fn clone(&self) -> Self {
        Self { engine: Arc::clone(&self.engine) }
    }
}

impl<St> fmt::Debug for Idempotency<St> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.engine.fmt(f)
    }
}

impl<St> Idempotency<St> {
    /// Claims and answers are kept in `store`; `name` says what is guarded, in events and in the keys as the store has them: two
    /// that share a store share no key unless they have one name. Whoever changes it forgets what was answered before.
    ///
    /// # Errors
    ///
    /// If a time is zero that must not be, or the ceiling is shorter than the lease.
    pub fn new(name: impl Into<Arc<str>>, store: St, config: Config) -> Result<Self, ConfigError> {
        config.check()?;
        let engine = Engine {
            name: name.into(),
            store,
            config,
            mode: ModeCell::default(),
            observer: Observer::default(),
            flights: Arc::new(Flights::default()),
            tasks: Arc::new(Tasks::default()),
            returns: Returns::default(),
        };
        Ok(Self { engine: Arc::new(engine) })
    }

    /// A layer for the calls of this protocol.
    pub fn layer<P>(&self, protocol: P) -> IdempotencyLayer<St, P> {
        IdempotencyLayer::new(self, protocol)
    }

    /// Reports to this observer. The first one stays; a `Vec` of several is one.
    #[must_use]
    pub fn observe(self, observer: Arc<dyn Observe>) -> Self {
        self.engine.observer.set(observer);
        self
    }

    /// Where claims and answers are kept.
    pub fn store(&self) -> &St {
        &self.engine.store
    }

    /// The mode that calls obey.
    pub fn mode(&self) -> Mode {
        self.engine.mode.get()
    }

    /// Switches the mode for calls that start from now on. In [`Mode::Off`] nothing is asked of the store, and requests are shown
    /// no claim. In [`Mode::Observe`] every call is carried out, claims and answers are stored as they would be, and events tell
    /// which calls would have been answered from the store or refused. None waits for another: one that would have counts as
    /// refused.
    pub fn set_mode(&self, mode: Mode) {
        self.engine.mode.set(mode);
    }

    /// How many effects are being carried on for callers that went away.
    pub fn detached(&self) -> usize {
        self.engine.tasks.detached()
    }

    /// Lets no call begin any more, but where it only observes, and waits until all that have begun are answered and recorded,
    /// for `bound` at most. Returns how many were left; what of them nobody waits for is then dropped, and its claims end with their leases.
    pub async fn shutdown(&self, bound: Duration) -> usize {
        self.engine.tasks.shutdown(bound).await
    }
}

impl<St: ClaimStore> Idempotency<St> {
    /// Runs an effect once: the first time it is [`Executed`](Ran::Executed), then [`Replayed`](Ran::Replayed). An error of
    /// the effect is never stored: it leaves the key claimed until the lease ends, unless its
    /// [verdict](buttress_core::error_verdict) says that nothing was sent, which frees the key at once.
    ///
    /// Dropping the future before the effect has begun gives the key back; after that the effect is carried on in a task of
    /// its own.
    ///
    /// ```
    /// use buttress_idempotency::{Config, Hash, Idempotency, Ran};
    /// use buttress_store::{Memory, ScopedKey};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let idempotency = Idempotency::new("pages", Memory::new(), Config::new())?;
    /// for ran in [Ran::Executed(1), Ran::Replayed(1)] {
    ///     let key = ScopedKey::try_new("tenant-7", "incident-42")?;
    ///     let fingerprint = Hash::new().part("ann").fingerprint();
    ///     let page = async |_claim| Ok::<_, std::io::Error>(1);
    ///     assert_eq!(idempotency.run(key, fingerprint, page).await?, ran);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The effect's own, or [`Error`] if it was not run, or its answer cannot be given.
    pub async fn run<T, E, F>(
        &self,
        key: ScopedKey,
        fingerprint: Fingerprint,
        effect: impl FnOnce(Claim) -> F + Send + 'static,
    ) -> Result<Ran<T>, RunError<E>>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
        E: std::error::Error + Send + Sync + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let runtime = Handle::try_current().map_err(|_| RunError::Idempotency(Error::NoRuntime))?;
        let (sender, receiver) = oneshot::channel();
        let begun = Arc::new(AtomicBool::new(false));
        let (idempotency, flag, handle) = (self.clone(), Arc::clone(&begun), runtime.clone());
        let work = async move { idempotency.carry_out(handle, key, fingerprint, flag, effect, sender).await };
        let tasks = Arc::clone(&self.engine.tasks);
        Detachable::new(Box::pin(work), receiver, begun, tasks, (runtime, self.engine.config.ceiling)).await
    }

    /// The same without a task and without its bounds: dropping the future drops the effect, whose key then stays claimed
    /// until its lease ends. So does a store that fails to record the answer.
    ///
    /// # Errors
    ///
    /// As [`run`](Idempotency::run).
    pub async fn run_inline<T, E, F>(
        &self,
        key: ScopedKey,
        fingerprint: Fingerprint,
        effect: impl FnOnce(Claim) -> F,
    ) -> Result<Ran<T>, RunError<E>>
    where
        T: Serialize + DeserializeOwned,
        E: std::error::Error + Send + Sync + 'static,
        F: Future<Output = Result<T, E>>,
    {
        let runtime = Handle::try_current().map_err(|_| RunError::Idempotency(Error::NoRuntime))?;
        let (sender, receiver) = oneshot::channel();
        answered(self.carry_out(runtime, key, fingerprint, Arc::default(), effect, sender), receiver).await
    }

    async fn carry_out<T, E, F>(
        &self,
        runtime: Handle,
        key: ScopedKey,
        fingerprint: Fingerprint,
        begun: Arc<AtomicBool>,
        effect: impl FnOnce(Claim) -> F,
        reply: oneshot::Sender<Result<Ran<T>, RunError<E>>>,
    ) where
        T: Serialize + DeserializeOwned,
        E: std::error::Error + Send + Sync + 'static,
        F: Future<Output = Result<T, E>>,
    {
        let (protocol, engine) = (Returned, &self.engine);
        let key = named(&engine.name, &key);
        let decision = match engine.mode.get() {
            Mode::Off => Decision::Unprotected(engine.unprotected()),
            Mode::Enforce | Mode::Observe => engine.decide(&runtime, &key, fingerprint, || ()).await,
        };
        let answer = match decision {
            Decision::Run(held) => {
                let effect = |(), claim| effect(claim);
                return held.drive(begun, &protocol, ready(Ok(())), effect, reply).await;
            }
            Decision::Replay(record) => Returned::read(&record).map(Ran::Replayed),
            Decision::Refuse(error) => Err(error),
            Decision::Unprotected(_until_it_ends) => {
                let claim = Claim::unprotected(key, fingerprint);
                let answer = effect(claim).await;
                let _ = reply.send(answer.map(Ran::Executed).map_err(RunError::Effect));
                return;
            }
        };
        if let Err(Error::Unreadable(_)) = &answer {
            engine.report(IdempotencyResult::Unknown);
        }
        let _ = reply.send(answer.map_err(RunError::Idempotency));
    }
}
