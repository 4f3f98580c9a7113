//! What is still to be written to the store behind: pure.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::time::Instant;

use super::Entry;

/// So many keys, and so many bytes of answers, wait to be written.
pub(crate) const MOST: (usize, usize) = (1024, 16 * 1024 * 1024);

/// There is no room for a further answer.
#[derive(Debug)]
pub(crate) struct Full;

/// What is to be done with a key.
#[derive(Debug)]
pub(crate) enum Job<V> {
    /// An answer is kept: to a call that was made then, and of so many bytes.
    Put(Arc<Entry<V>>, Instant, usize),
    /// What there was then is forgotten.
    Forget(Instant),
}

impl<V> Clone for Job<V> {
    fn clone(&self) -> Self {
        match self {
            Self::Put(entry, born, size) => Self::Put(Arc::clone(entry), *born, *size),
            Self::Forget(at) => Self::Forget(*at),
        }
    }
}

impl<V> Job<V> {
    fn size(&self) -> usize {
        if let Self::Put(_, _, size) = self { *size } else { 0 }
    }

    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Put(one, ..), Self::Put(other, ..)) => Arc::ptr_eq(one, other),
            (Self::Forget(one), Self::Forget(other)) => one == other,
            _ => false,
        }
    }
}

/// The newest of each key, in the order in which the keys came.
#[derive(Debug)]
pub(crate) struct Pending<V> {
    jobs: HashMap<Arc<str>, Job<V>>,
    order: VecDeque<Arc<str>>,
    bytes: usize,
    /// All that there was then is forgotten.
    all: Option<Instant>,
}

impl<V> Default for Pending<V> {
    fn default() -> Self {
        Self { jobs: HashMap::new(), order: VecDeque::new(), bytes: 0, all: None }
    }
}

impl<V> Pending<V> {
    pub(crate) fn len(&self) -> usize {
        self.jobs.len() + usize::from(self.all.is_some())
    }

    /// Gives what goes for it; an error if there was no room for it. To drop what these methods give may run code of others.
    pub(crate) fn put(
        &mut self,
        key: &Arc<str>,
        entry: Arc<Entry<V>>,
        born: Instant,
        size: usize,
    ) -> Result<Option<Job<V>>, Full> {
        let before = self.jobs.get(key).map(Job::size);
        let bytes = self.bytes - before.unwrap_or(0);
        if before.is_none() && self.jobs.len() >= MOST.0 || size > MOST.1 - bytes {
            return Err(Full);
        }
        Ok(self.set(key, Job::Put(entry, born, size)))
    }

    /// Always has room: where there is none, all is forgotten.
    #[must_use]
    pub(crate) fn forget(&mut self, key: &str, at: Instant) -> Vec<Job<V>> {
        if self.jobs.len() >= MOST.0 && !self.jobs.contains_key(key) {
            return self.forget_all(at);
        }
        self.set(&key.into(), Job::Forget(at)).into_iter().collect()
    }

    #[must_use]
    pub(crate) fn forget_all(&mut self, at: Instant) -> Vec<Job<V>> {
        let before = std::mem::replace(self, Self { all: Some(at), ..Self::default() });
        before.jobs.into_values().collect()
    }

    /// Whether what the store has under this key counts for nothing.
    pub(crate) fn hides(&self, key: &str) -> bool {
        self.all.is_some() || self.jobs.contains_key(key)
    }

    pub(crate) fn all(&self) -> Option<Instant> {
        self.all
    }

    pub(crate) fn done_all(&mut self, at: Instant) {
        self.all = self.all.filter(|all| *all != at);
    }

    /// The first so many.
    pub(crate) fn first(&self, most: usize) -> Vec<(Arc<str>, Job<V>)> {
        let jobs = self.order.iter().filter_map(|key| Some((Arc::clone(key), self.jobs.get(key)?.clone())));
        jobs.take(most).collect()
    }

    /// It is done, unless there is something newer of its key by now.
    pub(crate) fn done(&mut self, key: &Arc<str>, job: &Job<V>) {
        if self.jobs.get(key).is_some_and(|current| current.is(job)) {
            self.bytes -= job.size();
            self.jobs.remove(key);
            // What is done was among the first.
            if let Some(at) = self.order.iter().position(|other| other == key) {
                self.order.remove(at);
            }
        }
    }

    fn set(&mut self, key: &Arc<str>, job: Job<V>) -> Option<Job<V>> {
        self.bytes += job.size();
        let old = self.jobs.insert(Arc::clone(key), job);
        match &old {
            Some(old) => self.bytes -= old.size(),
            None => self.order.push_back(Arc::clone(key)),
        }
        old
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Lifetime;

    fn entry() -> Arc<Entry<u32>> {
        Arc::new(Entry::new("a".into(), 0, Lifetime::default(), std::time::Duration::ZERO))
    }

    #[tokio::test(start_paused = true)]
    async fn the_newest_of_each_key_waits_and_what_was_overtaken_meanwhile_stays() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        assert!(pending.put(&a, entry(), now, 10).is_ok() && pending.put(&b, entry(), now, 20).is_ok());
        let written = pending.first(9);
        assert!(matches!(pending.put(&a, entry(), now, 30), Ok(Some(Job::Put(_, _, 10)))));
        assert_eq!((pending.len(), pending.bytes), (2, 50));
        written.iter().for_each(|(key, job)| pending.done(key, job));
        assert_eq!((pending.len(), pending.bytes), (1, 30), "of `a` there is something newer");
        assert!(pending.hides("a") && !pending.hides("b"));
        assert!(matches!(*pending.forget("a", now), [Job::Put(_, _, 30)]));
        assert_eq!((pending.len(), pending.bytes), (1, 0));
        for (key, job) in pending.first(9) {
            pending.done(&key, &job);
        }
        assert_eq!((pending.len(), pending.order.len()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_bounded_and_what_is_forgotten_beyond_that_is_all() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        for index in 0..2 * MOST.0 {
            let put = pending.put(&index.to_string().into(), entry(), now, 1);
            assert_eq!(put.is_ok(), index < MOST.0);
        }
        assert!(pending.put(&"7".into(), entry(), now, 2).is_ok(), "what waits may be replaced");
        assert!(pending.put(&"7".into(), entry(), now, MOST.1).is_err());
        drop(pending.forget("8", now));
        assert_eq!((pending.len(), pending.all()), (MOST.0, None));
        assert_eq!(pending.forget("another", now).len(), MOST.0);
        assert_eq!((pending.len(), pending.all(), pending.bytes), (1, Some(now), 0));
        assert!(pending.hides("anything"));
        pending.done_all(now);
        assert_eq!(pending.len(), 0);
    }
}
