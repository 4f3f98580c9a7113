//! What a store refuses before it sends or writes anything.

use crate::answer::{Forgotten, NewAnswer};
use crate::claim::Record;
use crate::error::{Fault, StoreError};
use crate::journal::{NewEntry, NewRun, Next, Wanted};
use crate::key::MAX_NAME;

/// The largest record, input or entry by default: 16 MiB.
pub(crate) const MAX_VALUE: usize = 16 << 20;

/// So many entries are deleted in one step, and no more runs after them.
pub(crate) const PRUNED_ENTRIES: u64 = 10_000;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) store: &'static str,
    pub(crate) value: usize,
}

impl Limits {
    pub(crate) const fn new(store: &'static str) -> Self {
        Self { store, value: MAX_VALUE }
    }

    pub(crate) fn record(&self, record: &Record) -> Result<(), StoreError> {
        match record {
            Record::Value(value) => self.check("complete", value.len(), self.value),
            Record::TooLarge | Record::Unknown => Ok(()),
        }
    }

    pub(crate) fn answer(&self, answer: &NewAnswer) -> Result<(), StoreError> {
        self.check("put", answer.body.len(), self.value)
    }

    pub(crate) fn forgotten(&self, what: &Forgotten) -> Result<(), StoreError> {
        match what {
            Forgotten::Key(_) => Ok(()),
            Forgotten::Scope(scope) => self.scope("forget", scope),
        }
    }

    pub(crate) fn scope(&self, verb: &'static str, scope: &str) -> Result<(), StoreError> {
        self.check(verb, scope.len(), MAX_NAME)
    }

    pub(crate) fn run(&self, run: &NewRun) -> Result<(), StoreError> {
        self.check("create", run.input.len(), self.value)?;
        self.name("create", &run.name)?;
        self.name("create", &run.worker)
    }

    pub(crate) fn wanted(&self, wanted: &Wanted) -> Result<(), StoreError> {
        self.name("acquire", &wanted.worker)
    }

    pub(crate) fn append(&self, entries: &[NewEntry], next: &Next) -> Result<(), StoreError> {
        for entry in entries {
            self.check("append", entry.payload.len(), self.value)?;
            self.name("append", &entry.name)?;
        }
        match next {
            Next::Pause(reason) | Next::Park(reason) => self.name("append", reason),
            _ => Ok(()),
        }
    }

    fn name(&self, verb: &'static str, name: &str) -> Result<(), StoreError> {
        self.check(verb, name.len(), MAX_NAME)?;
        if !name.contains('\0') {
            return Ok(());
        }
        // PostgreSQL has no such text, and what one store takes all must take.
        Err(StoreError::new(self.store, verb, Fault::Invalid)
            .detail("a name or reason holds a NUL character"))
    }

    fn check(&self, verb: &'static str, bytes: usize, limit: usize) -> Result<(), StoreError> {
        if bytes <= limit {
            return Ok(());
        }
        let error = StoreError::new(self.store, verb, Fault::TooLarge);
        Err(error.detail(format!("{bytes} bytes, and the bound is {limit}")))
    }
}
