//! Why a verb failed, in the backends with rows; each of them knows what its client's errors mean.

use std::time::Duration;

use buttress_core::{BoxError, Effect};

use crate::error::{Fault, StoreError};

#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) fault: Fault,
    pub(crate) effect: Effect,
    pub(crate) detail: Option<String>,
    pub(crate) source: Option<BoxError>,
}

/// Verbs that write nothing.
const READS: [&str; 6] = ["get", "clock", "wait", "load", "peek", "list"];

impl Failure {
    pub(crate) fn new(fault: Fault, detail: impl Into<String>) -> Self {
        Self { fault, effect: Effect::NotSent, detail: Some(detail.into()), source: None }
    }

    pub(crate) fn damaged(what: &str) -> Self {
        Self::new(Fault::Corrupt, format!("{what} has another checksum than it was written with"))
    }

    pub(crate) fn late(limit: Duration, sent: bool) -> Self {
        let effect = if sent { Effect::Unknown } else { Effect::NotSent };
        Self { effect, ..Self::new(Fault::Timeout, format!("the limit is {limit:?}")) }
    }

    /// Before anything was sent that could have an effect.
    pub(crate) fn before(error: impl Into<Self>) -> Self {
        Self { effect: Effect::NotSent, ..error.into() }
    }

    pub(crate) fn into_error(self, store: &'static str, verb: &'static str) -> StoreError {
        let mut error = StoreError::new(store, verb, self.fault);
        if self.effect == Effect::Unknown && !READS.contains(&verb) {
            error = error.may_have_been_applied();
        }
        if let Some(detail) = self.detail {
            error = error.detail(detail);
        }
        match self.source {
            Some(source) => error.caused_by(source),
            None => error,
        }
    }
}
