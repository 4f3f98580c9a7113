//! The `buttress` command, as a library: lists, shows, resumes, cancels and prunes the runs of workflows in any store.
//!
//! ```sh
//! buttress --store sqlite:workflows.db runs list
//! ```

mod any;
mod args;
mod runs;
mod show;

pub use any::AnyStore;

use std::fmt;

/// Why a command failed.
#[derive(Debug)]
pub struct Failure {
    message: String,
    /// Whether the command line is to blame.
    usage: bool,
}

impl Failure {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), usage: false }
    }

    fn usage(message: impl Into<String>) -> Self {
        Self { message: message.into(), usage: true }
    }

    /// Whether the command line is to blame.
    pub fn is_usage(&self) -> bool {
        self.usage
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// An error with all its causes.
impl<E: std::error::Error> From<&E> for Failure {
    fn from(error: &E) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            // Many an error ends with what its cause says.
            let cause_text = cause.to_string();
            if !message.ends_with(&cause_text) {
                message = format!("{message}: {cause_text}");
            }
            source = cause.source();
        }
        Self::new(show::plain(&message))
    }
}

/// Runs a command line, without the program's name, and gives what it prints.
///
/// # Errors
///
/// If the command line is wrong, or the command failed.
pub async fn run(arguments: impl IntoIterator<Item = std::ffi::OsString>) -> Result<String, Failure> {
    let (store, json, command) = match args::parse(arguments)? {
        args::Parsed::Help => return Ok(args::HELP.to_owned()),
        args::Parsed::Version => return Ok(format!("buttress {}\n", env!("CARGO_PKG_VERSION"))),
        args::Parsed::Run { store, json, command } => (store, json, command),
    };
    let store = AnyStore::open(&store.ok_or_else(|| {
        Failure::usage("which store? `--store sqlite:PATH`, `postgres://…` or `redis://…`, or the variable BUTTRESS_STORE")
    })?)
    .await?;
    let printed = runs::run(&store, json, command).await;
    store.close().await;
    printed
}
