//! Stacks from a TOML file, and the file read again while they run.
//!
//! ```
//! use buttress::Stacks;
//! use buttress::config::Config;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path().join("buttress.toml");
//! std::fs::write(&path, r#"
//!     [http.datadog]
//!     preset = "datadog"
//!     total = "20s"
//!
//!     [http.datadog.retry]
//!     max_retries = 4
//! "#)?;
//! let config = Config::load(&path)?;
//! let layer = config.http("datadog")?.build()?;
//! let stacks = Stacks::new();
//! stacks.add(layer.handle())?;
//!
//! std::fs::write(&path, "[http.datadog]\npreset = \"datadog\"\ntotal = \"15s\"")?;
//! for change in stacks.reload(&path)?.changes {
//!     println!("{change}");
//! }
//! assert_eq!(layer.total().limit().as_secs(), 15);
//! # Ok(())
//! # }
//! ```
//!
//! # The rule
//!
//! What the file does not say is as the builder has it. Code may add to the builder that the file gives, and override it; on a
//! reload the file speaks for all that a file can say.
//!
//! A reload puts all of the file in force, or nothing of it. No call is lost, and no state: circuits stay as they are, budgets
//! keep what they hold (see [`CircuitBreakerHandle::set_config`] and [`RetryLayer::set_config`]). What belongs to how a stack is
//! built (the vendor, which requests may be repeated, what a status means) is not changed in place: a file that changes it is
//! refused, and says which keys those are.
//!
//! Nothing watches the file. A process that is told to read it again with `SIGHUP`:
//!
//! ```no_run
//! # #[cfg(unix)]
//! # async fn watch(stacks: buttress::Stacks) -> std::io::Result<()> {
//! use tokio::signal::unix::{SignalKind, signal};
//!
//! let mut hangups = signal(SignalKind::hangup())?;
//! while hangups.recv().await.is_some() {
//!     match stacks.reload("buttress.toml") {
//!         Ok(reload) => println!("{reload}"),
//!         Err(error) => eprintln!("the settings stay as they are: {error}"),
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! All keys with their defaults and units are in `docs/configuration.md`.
//!
//! [`CircuitBreakerHandle::set_config`]: buttress_circuit_breaker::CircuitBreakerHandle::set_config
//! [`RetryLayer::set_config`]: buttress_retry::RetryLayer::set_config

mod error;
mod keys;
mod reader;
mod reload;
mod stacks;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::de::DeTable;

pub use error::FileError;
pub use reload::{Change, Reload, ReloadError};

#[cfg(feature = "grpc")]
use crate::GrpcBuilder;
use crate::HttpBuilder;
use crate::live::Written;
use reader::{Source, Table};

/// What a file says.
#[derive(Clone, Debug, Default)]
pub struct Config {
    path: Option<PathBuf>,
    http: BTreeMap<String, HttpBuilder>,
    #[cfg(feature = "grpc")]
    grpc: BTreeMap<String, GrpcBuilder>,
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// If it cannot be read, is not TOML, has a key that is not known, or a value that breaks a rule.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, FileError> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(|error| FileError::unreadable(path, error))?;
        Self::read(&text, Some(path))
    }

    /// Reads text that is no file.
    ///
    /// # Errors
    ///
    /// As [`load`](Config::load).
    pub fn parse(text: &str) -> Result<Self, FileError> {
        Self::read(text, None)
    }

    /// The builder of the HTTP stack `[http.NAME]`.
    ///
    /// # Errors
    ///
    /// If there is no such table.
    pub fn http(&self, name: &str) -> Result<HttpBuilder, FileError> {
        self.http.get(name).cloned().ok_or_else(|| self.missing("http", name))
    }

    /// The builder of the gRPC stack `[grpc.NAME]`.
    ///
    /// # Errors
    ///
    /// If there is no such table.
    #[cfg(feature = "grpc")]
    pub fn grpc(&self, name: &str) -> Result<GrpcBuilder, FileError> {
        self.grpc.get(name).cloned().ok_or_else(|| self.missing("grpc", name))
    }

    /// The names of all stacks: `http.datadog`, `grpc.billing`.
    pub fn names(&self) -> Vec<String> {
        let names = self.http.keys().map(|name| format!("http.{name}"));
        #[cfg(feature = "grpc")]
        let names = names.chain(self.grpc.keys().map(|name| format!("grpc.{name}")));
        names.collect()
    }

    fn missing(&self, protocol: &str, name: &str) -> FileError {
        let says = match &*self.names() {
            [] => "is not there: no stack is".to_owned(),
            names => format!("is not there; the stacks are {}", names.join(", ")),
        };
        FileError::whole(self.path.as_deref(), format!("{protocol}.{name}"), says)
    }

    fn read(text: &str, path: Option<&Path>) -> Result<Self, FileError> {
        let source = Source { path, text, facts: RefCell::default() };
        let parsed = DeTable::parse(text).map_err(|error| source.syntax(&error))?;
        let file = Table::new(&source, String::new(), 0, parsed.get_ref());
        let mut config = Self { path: path.map(Path::to_owned), ..Self::default() };
        if let Some(http) = file.get("http") {
            for stack in http.table()?.tables() {
                let (name, table) = stack?;
                let builder = stacks::http(name, table)?;
                let written = source.written_of("http", name);
                config.http.insert(name.to_owned(), builder.written(written));
            }
        }
        #[cfg(feature = "grpc")]
        if let Some(grpc) = file.get("grpc") {
            for stack in grpc.table()?.tables() {
                let (name, table) = stack?;
                let builder = stacks::grpc(name, table)?;
                let written = source.written_of("grpc", name);
                config.grpc.insert(name.to_owned(), builder.written(written));
            }
        }
        #[cfg(not(feature = "grpc"))]
        if let Some(grpc) = file.get("grpc") {
            return Err(grpc.wrong("must be left out, since the feature `grpc` of the crate is off"));
        }
        file.finish()?;
        Ok(config)
    }
}

impl Source<'_> {
    /// What is set for this stack.
    fn written_of(&self, protocol: &str, name: &str) -> Arc<Written> {
        let stack = format!("{protocol}.{name}.");
        let facts = self.facts.borrow();
        let of_stack = facts.iter().filter_map(|(key, value)| Some((key.strip_prefix(&*stack)?, value)));
        Arc::new(of_stack.map(|(key, value)| (key.to_owned(), value.clone())).collect())
    }
}
