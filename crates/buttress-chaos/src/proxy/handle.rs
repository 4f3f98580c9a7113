use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use buttress_core::ConfigError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::effects::{Added, Toxics};
use crate::toxic::{Stream, Toxic};

/// Reads and controls one toxic proxy while connections are open. Toxics act on those that are open already, too.
#[derive(Clone, Debug)]
pub struct ProxyHandle {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) seed: u64,
    pub(super) address: SocketAddr,
    pub(super) toxics: watch::Sender<Toxics>,
    pub(super) counters: Counters,
    upstream: Mutex<Arc<String>>,
    commands: mpsc::UnboundedSender<Command>,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) accepted: AtomicU64,
    pub(super) open: AtomicU64,
    upstream: AtomicU64,
    downstream: AtomicU64,
}

/// What the task that accepts is asked to do.
#[derive(Debug)]
pub(super) enum Command {
    Down(oneshot::Sender<()>),
    Up(oneshot::Sender<io::Result<()>>),
    IsUp(oneshot::Sender<bool>),
    Shutdown(Duration, oneshot::Sender<()>),
}

/// What has gone through a proxy so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProxyCounts {
    /// Connections that were accepted.
    pub accepted: u64,
    /// Connections that are open now.
    pub open: u64,
    /// Bytes that were forwarded to the server.
    pub upstream_bytes: u64,
    /// Bytes that were forwarded to the client.
    pub downstream_bytes: u64,
}

/// Toxics cannot be changed like this.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ToxicError {
    /// There is a toxic of this name already.
    Exists(String),
    /// There is no toxic of this name.
    NotFound(String),
    /// The toxic breaks a rule.
    Invalid(ConfigError),
}

impl fmt::Display for ToxicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exists(name) => {
                write!(f, "there is a toxic `{name}` already; update or remove it, or use another name")
            }
            Self::NotFound(name) => write!(f, "there is no toxic `{name}`; add it first"),
            Self::Invalid(error) => error.fmt(f),
        }
    }
}

impl Error for ToxicError {}

impl From<ConfigError> for ToxicError {
    fn from(error: ConfigError) -> Self {
        Self::Invalid(error)
    }
}

impl Shared {
    pub(super) fn new(
        address: SocketAddr,
        upstream: String,
        seed: u64,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<Command>) {
        let (commands, receiver) = mpsc::unbounded_channel();
        let toxics = watch::Sender::new(Toxics::default());
        let upstream = Mutex::new(Arc::new(upstream));
        let counters = Counters::default();
        (Arc::new(Self { seed, address, toxics, counters, upstream, commands }), receiver)
    }

    pub(super) fn upstream(&self) -> Arc<String> {
        Arc::clone(&self.upstream.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn count(&self, stream: Option<Stream>, bytes: u64) {
        let counter = match stream {
            Some(Stream::Upstream) => &self.counters.upstream,
            Some(Stream::Downstream) => &self.counters.downstream,
            None => return,
        };
        counter.fetch_add(bytes, Relaxed);
    }
}

impl ProxyHandle {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Where clients connect.
    pub fn local_addr(&self) -> SocketAddr {
        self.shared.address
    }

    /// Where connections are forwarded.
    pub fn upstream(&self) -> String {
        self.shared.upstream().as_str().to_owned()
    }

    /// Forwards further connections to this host and port.
    pub fn set_upstream(&self, upstream: impl Into<String>) {
        *self.shared.upstream.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(upstream.into());
    }

    /// Adds a toxic after those that are there.
    ///
    /// # Errors
    ///
    /// If it breaks a rule, or if there is one of its name.
    pub fn add(&self, toxic: Toxic) -> Result<(), ToxicError> {
        toxic.check()?;
        self.change(|toxics| {
            let name = toxic.name();
            if toxics.iter().any(|added| added.toxic.name() == name) {
                return Err(ToxicError::Exists(name));
            }
            toxics.push(Added { toxic, at: Instant::now() });
            Ok(())
        })
    }

    /// Puts a toxic in the place of the one of its name.
    ///
    /// # Errors
    ///
    /// If it breaks a rule, or if there is none of its name.
    pub fn update(&self, toxic: Toxic) -> Result<(), ToxicError> {
        toxic.check()?;
        self.change(|toxics| {
            let name = toxic.name();
            let Some(added) = toxics.iter_mut().find(|added| added.toxic.name() == name) else {
                return Err(ToxicError::NotFound(name));
            };
            *added = Added { toxic, at: Instant::now() };
            Ok(())
        })
    }

    /// Removes the toxic of this name; connections recover.
    ///
    /// # Errors
    ///
    /// If there is none of this name.
    pub fn remove(&self, name: &str) -> Result<(), ToxicError> {
        self.change(|toxics| {
            let place = toxics.iter().position(|added| added.toxic.name() == name);
            toxics.remove(place.ok_or_else(|| ToxicError::NotFound(name.to_owned()))?);
            Ok(())
        })
    }

    /// Puts these in the place of all that are there, at once: windows are counted from now.
    ///
    /// # Errors
    ///
    /// If one breaks a rule, or if two have one name; nothing is then changed.
    pub fn replace(&self, toxics: impl IntoIterator<Item = Toxic>) -> Result<(), ToxicError> {
        let at = Instant::now();
        let new: Vec<_> = toxics.into_iter().map(|toxic| Added { toxic, at }).collect();
        for (place, added) in new.iter().enumerate() {
            added.toxic.check()?;
            let name = added.toxic.name();
            if new[..place].iter().any(|other| other.toxic.name() == name) {
                return Err(ToxicError::Exists(name));
            }
        }
        self.change(|toxics| {
            *toxics = new;
            Ok(())
        })
    }

    /// Removes every toxic.
    pub fn clear(&self) {
        self.shared.toxics.send_replace(Toxics::default());
    }

    /// The toxics, in the order in which they were added.
    pub fn toxics(&self) -> Vec<Toxic> {
        self.shared.toxics.borrow().iter().map(|added| added.toxic.clone()).collect()
    }

    fn change(
        &self,
        change: impl FnOnce(&mut Vec<Added>) -> Result<(), ToxicError>,
    ) -> Result<(), ToxicError> {
        let mut result = Ok(());
        self.shared.toxics.send_if_modified(|toxics| {
            let mut changed = toxics.to_vec();
            result = change(&mut changed);
            if result.is_ok() {
                *toxics = Arc::new(changed);
            }
            result.is_ok()
        });
        result
    }

    /// Cuts every connection and refuses new ones: the port is closed when this returns. Does nothing if it is down.
    ///
    /// # Errors
    ///
    /// If the proxy has been shut down.
    pub async fn down(&self) -> io::Result<()> {
        self.ask(Command::Down).await
    }

    /// Listens on the same port again. Does nothing if it is up.
    ///
    /// # Errors
    ///
    /// If another process has taken the port, or if the proxy has been shut down.
    pub async fn up(&self) -> io::Result<()> {
        self.ask(Command::Up).await?
    }

    /// Whether it listens.
    pub async fn is_up(&self) -> bool {
        self.ask(Command::IsUp).await.unwrap_or(false)
    }

    /// What has gone through so far.
    pub fn counts(&self) -> ProxyCounts {
        let Counters { accepted, open, upstream, downstream } = &self.shared.counters;
        ProxyCounts {
            accepted: accepted.load(Relaxed),
            open: open.load(Relaxed),
            upstream_bytes: upstream.load(Relaxed),
            downstream_bytes: downstream.load(Relaxed),
        }
    }

    pub(super) async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> io::Result<T> {
        let gone = || io::Error::new(io::ErrorKind::NotConnected, "the toxic proxy has been shut down");
        let (reply, answer) = oneshot::channel();
        self.shared.commands.send(command(reply)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }
}
