use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{Memory, lock};
use crate::answer::{AnswerStore, Forgotten, NewAnswer, StoredAnswer};
use crate::answer_row::{self, AnswerRow};
use crate::error::{Fault, StoreError};
use crate::key::ScopedKey;
use crate::time;

/// The rows of each scope.
pub(super) struct Answers {
    scopes: HashMap<Arc<str>, Scope>,
    rows: usize,
    max: usize,
}

#[derive(Default)]
struct Scope {
    rows: HashMap<Arc<str>, AnswerRow>,
    /// When all of it was forgotten.
    forgotten: Option<i64>,
}

impl Answers {
    pub(super) fn new(max: usize) -> Self {
        Self { scopes: HashMap::new(), rows: 0, max }
    }

    fn put(&mut self, key: &ScopedKey, row: AnswerRow, now: i64) -> bool {
        if self.rows >= self.max {
            self.sweep(now);
        }
        let scope = self.scopes.entry(key.scope().into()).or_default();
        if let Some(old) = scope.rows.get_mut(key.key()) {
            *old = row;
            return true;
        }
        let fits = self.rows < self.max;
        if fits {
            scope.rows.insert(key.key().into(), row);
            self.rows += 1;
        }
        fits
    }

    fn sweep(&mut self, now: i64) {
        for scope in self.scopes.values_mut() {
            scope.rows.retain(|_, row| row.expires > now);
        }
        self.rows = self.scopes.values().map(|scope| scope.rows.len()).sum();
    }
}

impl AnswerStore for Memory {
    async fn put(&self, answer: &NewAnswer) -> Result<bool, StoreError> {
        self.inner.limits.answer(answer)?;
        let now = self.now();
        let mut answers = lock(&self.inner.answers);
        let born = answer_row::born(answer, now);
        let scope = answers.scopes.get(answer.key.scope());
        let row = scope.and_then(|scope| scope.rows.get(answer.key.key()));
        if !answer_row::admits(row, scope.and_then(|scope| scope.forgotten), born, now) {
            return Ok(false);
        }
        let row = AnswerRow { born, expires: time::after(now, answer.keep), body: Some(answer.body.clone()) };
        if answers.put(&answer.key, row, now) { Ok(true) } else { Err(full("put", answers.max)) }
    }

    async fn get(&self, key: &ScopedKey) -> Result<Option<StoredAnswer>, StoreError> {
        let now = self.now();
        let answers = lock(&self.inner.answers);
        let Some(scope) = answers.scopes.get(key.scope()) else { return Ok(None) };
        let row = scope.rows.get(key.key()).filter(|row| answer_row::gives(row, scope.forgotten, now));
        Ok(row.and_then(|row| {
            let (born, now) = (time::to_system(row.born), time::to_system(now));
            Some(StoredAnswer { body: row.body.clone()?, born, now })
        }))
    }

    async fn clock(&self) -> Result<SystemTime, StoreError> {
        Ok(time::to_system(self.now()))
    }

    async fn forget(&self, what: &Forgotten, age: Duration) -> Result<(), StoreError> {
        self.inner.limits.forgotten(what)?;
        let now = self.now();
        let at = now.saturating_sub(time::micros(age));
        let mut answers = lock(&self.inner.answers);
        let key = match what {
            Forgotten::Scope(scope) => {
                let scope = answers.scopes.entry(Arc::clone(scope)).or_default();
                scope.forgotten = scope.forgotten.max(Some(at));
                return Ok(());
            }
            Forgotten::Key(key) => key,
        };
        let row = answers.scopes.get(key.scope()).and_then(|scope| scope.rows.get(key.key()));
        if answer_row::forgets(row, at, now) && !answers.put(key, AnswerRow::forgotten(at, now), now) {
            return Err(full("forget", answers.max));
        }
        Ok(())
    }

    async fn trim(&self, scope: &str, bytes: u64, max: u32) -> Result<u64, StoreError> {
        let now = self.now();
        let mut answers = lock(&self.inner.answers);
        let Some(scope) = answers.scopes.get_mut(scope) else { return Ok(0) };
        let mut rows: Vec<_> = scope.rows.iter().collect();
        rows.sort_unstable_by_key(|(_, row)| std::cmp::Reverse(row.born));
        let (mut total, mut gone) = (0, Vec::new());
        for (key, row) in rows {
            total += row.bytes(key.as_bytes()) as u64;
            let forgotten = scope.forgotten.is_some_and(|at| row.born <= at);
            if total > bytes || row.expires <= now || forgotten {
                gone.push(Arc::clone(key));
            }
        }
        // The oldest first.
        let gone = gone.into_iter().rev().take(max as usize);
        let trimmed = gone.filter(|key| scope.rows.remove(key).is_some()).count();
        answers.rows -= trimmed;
        Ok(trimmed as u64)
    }
}

fn full(verb: &'static str, max: usize) -> StoreError {
    StoreError::new("memory", verb, Fault::Full).detail(format!("all of {max} answers are alive"))
}
