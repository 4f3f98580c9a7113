//! The store behind the memory.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Poll;
use std::time::{Duration, SystemTime};

use buttress_core::{BoxError, Event, within};
use buttress_store::{Fault, Forgotten, NewAnswer, StoreError};
use bytes::Bytes;
use tokio::time::{Instant, sleep_until};

use super::clock::Clock;
use super::pending::{Full, Job, Pending};
use super::{Entry, Lifetime};
use crate::backing::{self, Backing, Writes};
use crate::shared::Told;

/// So many writes are under way at once, so that they share commits.
const AT_ONCE: usize = 16;

/// So many rows are trimmed at once.
const TRIMMED: u32 = 500;

/// For so long a batch of writes may take: a store of others may have no limit of its own.
const WRITING: Duration = Duration::from_secs(30);

/// For so long what the store's clock has read is good enough to count on from there: it may be set forward.
const READ: Duration = Duration::from_secs(60);

/// For so long a store that has failed is left alone: at first, and at most.
const REST: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

pub(crate) struct Behind<V> {
    backing: Backing,
    rules: Box<dyn Written<V>>,
    /// Who hears of its failures: the first layer that has asked it.
    told: OnceLock<Told>,
    state: Mutex<State<V>>,
}

struct State<V> {
    pending: Pending<V>,
    /// A task is there that writes.
    writing: bool,
    /// Something was not taken in since everything was written.
    overflowed: bool,
    /// How long it was left alone last, and until when.
    rest: Duration,
    rests_until: Option<Instant>,
    clock: Option<Clock>,
    /// Bytes since it was trimmed; `None` if it never was.
    untrimmed: Option<u64>,
}

/// [`Writes`], as an object.
trait Written<V>: Send + Sync {
    fn write(&self, record: &V) -> Option<Bytes>;
    fn read(&self, bytes: Bytes) -> Result<V, BoxError>;
}

impl<R: Writes> Written<R::Record> for R {
    fn write(&self, record: &R::Record) -> Option<Bytes> {
        Writes::write(self, record)
    }

    fn read(&self, bytes: Bytes) -> Result<R::Record, BoxError> {
        Writes::read(self, bytes)
    }
}

impl<V: Send + Sync + 'static> Behind<V> {
    pub(crate) fn new(backing: Backing, rules: impl Writes<Record = V>) -> Self {
        let state = State {
            pending: Pending::default(),
            writing: false,
            overflowed: false,
            rest: Duration::ZERO,
            rests_until: None,
            clock: None,
            untrimmed: None,
        };
        Self { backing, rules: Box::new(rules), told: OnceLock::new(), state: Mutex::new(state) }
    }

    /// How many keys are still to be written.
    pub(crate) fn pending(&self) -> usize {
        self.lock().pending.len()
    }

    /// To the call that was made then. Gives what goes for it, which is not to be dropped under a lock; nor is it to be told under one
    /// that [there was no room](Self::overflows).
    pub(crate) fn put(
        &self,
        key: &Arc<str>,
        entry: &Arc<Entry<V>>,
        born: Instant,
        size: usize,
    ) -> Result<Option<Job<V>>, Full> {
        self.lock().pending.put(key, Arc::clone(entry), born, size)
    }

    pub(crate) fn overflows(&self) {
        if !std::mem::replace(&mut self.lock().overflowed, true) {
            self.tell("too many answers wait to be written to the store: not all will be", false);
        }
    }

    pub(crate) fn forget(&self, key: &str) {
        let gone = self.lock().pending.forget(key, Instant::now());
        drop(gone);
    }

    pub(crate) fn forget_all(&self) {
        let gone = self.lock().pending.forget_all(Instant::now());
        drop(gone);
    }

    /// What is stored under a key, if the store works, and how old it is by now.
    pub(crate) async fn recall(&self, key: &str, told: &Told) -> Option<(V, Lifetime)> {
        self.told.get_or_init(|| told.clone());
        if !self.is_to_be_asked(key) {
            return None;
        }
        let (scoped, bound) = (self.backing.key(key), self.backing.read_timeout);
        let Some(got) = within(bound, self.backing.shelf.get(&scoped)).await else {
            self.failed(&format!("the store did not answer within {bound:?}"), false);
            return None;
        };
        let stored = match got {
            Ok(stored) => stored,
            // Of this row only.
            Err(error) if error.fault() == Fault::Corrupt => {
                self.tell(&error.to_string(), true);
                return None;
            }
            Err(error) => {
                self.store_failed(&error);
                return None;
            }
        };
        self.worked();
        // It may have been forgotten, or a newer one kept, while it was looked for.
        let stored = stored.filter(|_| !self.lock().pending.hides(key))?;
        let age = self.age(stored.born, stored.now);
        match self.read(stored.body) {
            Ok((record, lifetime)) => Some((record, aged(lifetime, age))),
            Err(error) => {
                self.tell(&format!("a stored answer cannot be read: {error}"), true);
                None
            }
        }
    }

    fn is_to_be_asked(&self, key: &str) -> bool {
        let state = self.lock();
        state.rests_until.is_none_or(|until| Instant::now() >= until) && !state.pending.hides(key)
    }

    fn read(&self, body: Bytes) -> Result<(V, Lifetime), BoxError> {
        let (lifetime, record) = backing::read(body)?;
        // What panics once would do so in each call.
        let read = catch_unwind(AssertUnwindSafe(|| self.rules.read(record)));
        Ok((read.unwrap_or_else(|_| Err("it panicked".into()))?, lifetime))
    }

    /// How long ago that was on the store's clock, which does not run backwards here; `None` if the clock was set back before.
    fn age(&self, born: SystemTime, now: SystemTime) -> Option<Duration> {
        let ahead = self.reads(now).ahead;
        now.duration_since(born).ok()?;
        ahead.duration_since(born).ok()
    }

    /// This is what the store's clock reads.
    fn reads(&self, now: SystemTime) -> Clock {
        let mut state = self.lock();
        let clock = Clock::read(now, Instant::now(), state.clock);
        *state.clock.insert(clock)
    }

    /// What the store's clock reads, if it has been read of late: it is, where that failed, before something is written.
    fn clock(&self) -> Option<Clock> {
        self.lock().clock.filter(|clock| clock.at.elapsed() < READ)
    }

    async fn read_clock(&self) {
        match self.backing.shelf.clock().await {
            Ok(now) => drop(self.reads(now)),
            Err(error) => self.store_failed(&error),
        }
    }

    /// Who writes, if there is something to be written and nobody does so.
    pub(crate) fn writer(self: &Arc<Self>) -> Option<Writer<V>> {
        let mut state = self.lock();
        let needed = state.pending.len() > 0 && !std::mem::replace(&mut state.writing, true);
        needed.then(|| Writer(Some(Arc::clone(self))))
    }

    /// Until nothing is to be written.
    async fn write(&self) {
        loop {
            let until = self.lock().rests_until;
            if let Some(until) = until.filter(|until| Instant::now() < *until) {
                sleep_until(until).await;
            }
            let (all, jobs) = {
                let mut state = self.lock();
                if state.pending.len() == 0 {
                    (state.writing, state.overflowed) = (false, false);
                    return;
                }
                (state.pending.all(), state.pending.first(AT_ONCE))
            };
            let batch = async {
                if let Some(at) = all {
                    return self.forgets_all(at).await;
                }
                if self.clock().is_none() {
                    self.read_clock().await;
                }
                let writes = jobs.iter().map(|(key, job)| Box::pin(self.work(key, job))).collect();
                for (done, (key, job)) in join(writes).await.into_iter().zip(&jobs) {
                    if done {
                        self.lock().pending.done(key, job);
                    }
                }
                while self.is_untrimmed() && self.trim().await {}
            };
            if within(WRITING, batch).await.is_none() {
                self.failed(&format!("the store did not answer within {WRITING:?}"), false);
            }
        }
    }

    async fn forgets_all(&self, at: Instant) {
        let scope = Forgotten::Scope(Arc::clone(&self.backing.scope));
        match self.backing.shelf.forget(&scope, at.elapsed()).await {
            Ok(()) => {
                self.worked();
                self.lock().pending.done_all(at);
            }
            Err(error) => self.store_failed(&error),
        }
    }

    /// Whether it is done.
    async fn work(&self, key: &Arc<str>, job: &Job<V>) -> bool {
        let key = self.backing.key(key);
        let (answer, at) = match job {
            Job::Put(entry, born, _) => {
                let left = Some(entry.left(Instant::now())).filter(|left| !left.is_zero());
                let write = || left.and_then(|_| self.rules.write(&entry.record));
                let record = catch_unwind(AssertUnwindSafe(write)).unwrap_or_else(|_| {
                    self.tell("an answer cannot be written to the store: it panicked", true);
                    None
                });
                let answer = record.zip(left).map(|(record, keep)| NewAnswer {
                    key: key.clone(),
                    body: backing::write(entry.lifetime, &record),
                    age: born.elapsed(),
                    asked: self.clock().and_then(|clock| clock.at(*born)),
                    keep,
                });
                (answer, *born)
            }
            Job::Forget(at) => (None, *at),
        };
        let written = match &answer {
            Some(answer) => self.backing.shelf.put(answer).await.map(|_| answer.body.len()),
            // What cannot be written is out of date there all the same.
            None => self.backing.shelf.forget(&Forgotten::Key(key.clone()), at.elapsed()).await.map(|()| 0),
        };
        match written {
            Ok(bytes) => {
                self.worked();
                let mut state = self.lock();
                state.untrimmed = state.untrimmed.map(|before| before + bytes as u64);
                true
            }
            Err(error) if matches!(error.fault(), Fault::TooLarge | Fault::Invalid) => {
                self.tell(&error.to_string(), true);
                let forgotten = self.backing.shelf.forget(&Forgotten::Key(key), at.elapsed()).await;
                forgotten.map_err(|error| self.store_failed(&error)).is_ok()
            }
            Err(error) => {
                self.store_failed(&error);
                false
            }
        }
    }

    fn is_untrimmed(&self) -> bool {
        self.lock().untrimmed.is_none_or(|bytes| bytes > self.backing.max_bytes / 16)
    }

    /// Whether it was able to.
    async fn trim(&self) -> bool {
        let Backing { shelf, scope, max_bytes, .. } = &self.backing;
        let trimmed = shelf.trim(scope, *max_bytes, TRIMMED).await;
        if trimmed.as_ref().is_ok_and(|trimmed| *trimmed < TRIMMED.into()) {
            self.lock().untrimmed = Some(0);
        }
        trimmed.map_err(|error| self.store_failed(&error)).is_ok()
    }

    fn store_failed(&self, error: &StoreError) {
        self.failed(&error.to_string(), !error.is_transient());
    }

    /// It is left alone for a while. What fails at the same time is told once.
    fn failed(&self, error: &str, lasts: bool) {
        let (mut state, now) = (self.lock(), Instant::now());
        if state.rests_until.is_some_and(|until| now < until) {
            return;
        }
        state.rest = (state.rest * 2).clamp(REST.0, REST.1);
        state.rests_until = Some(now + state.rest);
        drop(state);
        self.tell(error, lasts);
    }

    fn worked(&self) {
        self.lock().rest = Duration::ZERO;
    }

    fn tell(&self, error: &str, lasts: bool) {
        if let Some(told) = self.told.get() {
            told.emit(|| Event::StoreFailed { error: error.into(), lasts });
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<V>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of what nobody knows how old it is, it is known that it is not to be taken for fresh.
fn aged(lifetime: Lifetime, age: Option<Duration>) -> Lifetime {
    let Lifetime { age: before, fresh, while_revalidate, .. } = lifetime;
    let age = match age {
        Some(age) => before.saturating_add(age),
        None => before.max(fresh.saturating_add(while_revalidate)),
    };
    Lifetime { age, ..lifetime }
}

/// Whoever writes. Dropped before its end, it lets another one do so.
pub(crate) struct Writer<V: Send + Sync + 'static>(Option<Arc<Behind<V>>>);

impl<V: Send + Sync + 'static> Writer<V> {
    pub(crate) async fn write(mut self) {
        if let Some(behind) = &self.0 {
            behind.write().await;
        }
        // There may be another one by now.
        self.0 = None;
    }
}

impl<V: Send + Sync + 'static> Drop for Writer<V> {
    fn drop(&mut self) {
        if let Some(behind) = &self.0 {
            behind.lock().writing = false;
        }
    }
}

/// All of these at once.
async fn join<F: Future + Unpin>(mut futures: Vec<F>) -> Vec<F::Output> {
    let mut outputs: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|cx| {
        let mut left = false;
        for (future, output) in futures.iter_mut().zip(&mut outputs) {
            if output.is_none() {
                match std::pin::Pin::new(future).poll(cx) {
                    Poll::Ready(done) => *output = Some(done),
                    Poll::Pending => left = true,
                }
            }
        }
        if left { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    outputs.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests;
