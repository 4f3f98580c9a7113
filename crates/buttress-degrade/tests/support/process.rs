//! Processes that have a store behind the memory in common.

use std::borrow::Cow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use buttress_degrade::{Backing, ByKey, Chain, DegradeLayer, Degraded, LastGood, Open, Recalling, Rung};
use buttress_store::{AnswerStore, Fault, Forgotten, Memory, NewAnswer, ScopedKey, StoreError, StoredAnswer};
use buttress_testkit::clock::settle;
use buttress_testkit::{Scripted, err};
use tower::{Layer, ServiceExt};

use crate::support::{Heard, secs};

/// What a store does from now on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mode {
    Works,
    Fails(Fault),
    Hangs,
    /// It is five seconds until what is put arrives.
    Slow,
    /// Reads give this in the place of what was written.
    Gives(&'static [u8]),
}

/// A store in memory that can be told to fail.
#[derive(Clone)]
pub(crate) struct Store {
    pub(crate) inner: Memory,
    mode: Arc<Mutex<Mode>>,
    reads: Arc<AtomicUsize>,
    puts: Arc<AtomicUsize>,
}

impl Store {
    pub(crate) fn new() -> Self {
        let mode = Arc::new(Mutex::new(Mode::Works));
        Self { inner: Memory::new(), mode, reads: Arc::default(), puts: Arc::default() }
    }

    pub(crate) fn set(&self, mode: Mode) {
        *self.mode.lock().unwrap() = mode;
    }

    pub(crate) fn reads(&self) -> usize {
        self.reads.load(Ordering::Relaxed)
    }

    pub(crate) fn puts(&self) -> usize {
        self.puts.load(Ordering::Relaxed)
    }

    pub(crate) async fn works(&self, verb: &'static str) -> Result<(), StoreError> {
        let mode = *self.mode.lock().unwrap();
        match mode {
            // Of the row that is read.
            Mode::Fails(Fault::Corrupt) if verb != "get" => Ok(()),
            Mode::Fails(fault) => Err(StoreError::new("test", verb, fault)),
            Mode::Hangs => std::future::pending().await,
            Mode::Slow if verb == "put" => {
                tokio::time::sleep(secs(5)).await;
                Ok(())
            }
            Mode::Works | Mode::Slow | Mode::Gives(_) => Ok(()),
        }
    }
}

impl AnswerStore for Store {
    async fn put(&self, answer: &NewAnswer) -> Result<bool, StoreError> {
        self.works("put").await?;
        self.puts.fetch_add(1, Ordering::Relaxed);
        self.inner.put(answer).await
    }

    async fn get(&self, key: &ScopedKey) -> Result<Option<StoredAnswer>, StoreError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.works("get").await?;
        let stored = self.inner.get(key).await?;
        let mode = *self.mode.lock().unwrap();
        Ok(match (stored, mode) {
            (Some(stored), Mode::Gives(body)) => Some(StoredAnswer { body: body.into(), ..stored }),
            (stored, _) => stored,
        })
    }

    async fn clock(&self) -> Result<SystemTime, StoreError> {
        self.works("clock").await?;
        self.inner.clock().await
    }

    async fn forget(&self, what: &Forgotten, age: Duration) -> Result<(), StoreError> {
        self.works("forget").await?;
        self.inner.forget(what, age).await
    }

    async fn trim(&self, scope: &str, bytes: u64, max: u32) -> Result<u64, StoreError> {
        self.works("trim").await?;
        self.inner.trim(scope, bytes, max).await
    }
}

pub(crate) type Answer = Degraded<u32>;
pub(crate) type Rules = ByKey<fn(&String) -> Option<Cow<'_, str>>, u32>;
pub(crate) type Layered = DegradeLayer<Recalling<Chain<String, Answer, Open>, Rules>>;

/// A process of its own, with the store in common: ten minutes fresh, one more while it is refreshed, twenty if the service fails.
pub(crate) struct Process {
    pub(crate) memory: LastGood<Rules>,
    pub(crate) layer: Layered,
    pub(crate) heard: Heard,
    pub(crate) service: Scripted<u32>,
}

impl Process {
    pub(crate) fn new(store: &Store, service: Scripted<u32>) -> Self {
        let backing = Backing::new(store.clone(), "prices").unwrap();
        let key: fn(&String) -> Option<Cow<'_, str>> = |request| Some(request.as_str().into());
        let memory = LastGood::new(ByKey::new(key)).ttl(secs(600)).while_revalidate(secs(60));
        let memory = memory.if_error(secs(1200)).negative_ttl(secs(0)).refresh_jitter(0).backed_by(backing);
        let chain = Chain::<String, Answer>::new().rung(Rung::answer("fixed", |_| Some(0)));
        let layer = DegradeLayer::new("prices", chain).unwrap().last_good(memory.clone()).unwrap();
        let heard = Heard::default();
        let layer = layer.observe(heard.observer());
        Self { memory, layer, heard, service }
    }

    pub(crate) async fn ask(&self, key: &str) -> Answer {
        let answer = self.layer.layer(self.service.clone()).oneshot(key.into()).await.unwrap();
        // What is to be written is, if the store works.
        settle().await;
        answer
    }

    /// Level, age in seconds, value.
    pub(crate) async fn seen(&self, key: &str) -> (u8, Option<u64>, u32) {
        let answer = self.ask(key).await;
        (answer.level().as_u8(), answer.age().map(|age| age.as_secs()), answer.into_inner())
    }

    /// What it said of the store.
    pub(crate) fn told(&self) -> Vec<String> {
        self.heard.take().into_iter().filter(|told| told.starts_with("StoreFailed")).collect()
    }
}

pub(crate) fn down() -> Scripted<u32> {
    Scripted::new([err("down")])
}
