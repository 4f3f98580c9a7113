use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;

use buttress_core::{BoxError, Judged, Verdict};

use crate::fault::FaultKind;

/// An error that was injected. [`find`](buttress_core::find) finds it anywhere in an error's chain, so that a test can tell
/// it from a real one; classifiers are told what it stands for by what is wrapped around it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Injected {
    name: Arc<str>,
    kind: FaultKind,
}

impl Injected {
    pub(crate) fn new(name: Arc<str>, kind: FaultKind) -> Self {
        Self { name, kind }
    }

    /// The name that the layer was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The kind of the fault.
    pub fn kind(&self) -> FaultKind {
        self.kind
    }

    /// Judged by classifiers like this.
    pub(crate) fn judged(self, verdict: Verdict) -> BoxError {
        Judged::new(verdict, self).into()
    }

    /// As a transport's own error.
    pub(crate) fn io(self, kind: io::ErrorKind) -> BoxError {
        io::Error::new(kind, self).into()
    }
}

impl fmt::Display for Injected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "chaos `{}` injected this fault: {}", self.name, self.kind.as_str())
    }
}

impl Error for Injected {}
