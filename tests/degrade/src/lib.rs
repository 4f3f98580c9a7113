//! What the tests of last good answers over real stores share: an origin, and processes that ask it.

mod origin;
mod process;

use std::borrow::Cow;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress_core::observe::Event;
use buttress_core::{BoxError, observe_fn};
use buttress_degrade::{Backing, ByKey, Chain, DegradeLayer, Degraded, LastGood};
use buttress_store::{Postgres, Redis, Sqlite};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tower::{Layer, ServiceExt, service_fn};

pub use origin::Origin;
pub use process::{Process, Seen};

type Rules = ByKey<fn(&String) -> Option<Cow<'_, str>>, String>;

/// A store that was opened from `sqlite PATH`, `postgres CONFIG` or `redis URL`, for answers.
///
/// # Errors
///
/// If it cannot be opened.
pub async fn backing(place: &str) -> Result<Backing, BoxError> {
    let (kind, at) = place.split_once(' ').ok_or("no place")?;
    let backing = match kind {
        "sqlite" => Backing::new(Sqlite::open(at).await?, "prices")?,
        "postgres" => Backing::new(Postgres::open(at.parse()?).await?, "prices")?,
        "redis" => Backing::new(Redis::at(at)?.open().await?, "prices")?,
        other => return Err(format!("no store is named {other}").into()),
    };
    // A machine that tests is busy.
    Ok(backing.read_timeout(Duration::from_secs(4))?)
}

/// Somebody who asks an origin for prices, and keeps them.
#[derive(Clone, Debug)]
pub struct Asker {
    /// What it keeps.
    pub memory: LastGood<Rules>,
    origin: String,
    told: Arc<Mutex<Vec<String>>>,
}

impl Asker {
    /// Asks the origin at this address. Answers are fresh for so long, and served for an hour after that if it fails.
    pub fn new(origin: &str, backing: Backing, ttl: Duration) -> Self {
        let key: fn(&String) -> Option<Cow<'_, str>> = |request| Some(request.as_str().into());
        let memory = LastGood::new(ByKey::new(key)).ttl(ttl).while_revalidate(Duration::ZERO);
        let memory = memory.if_error(Duration::from_secs(3600)).negative_ttl(Duration::ZERO);
        Self { memory: memory.backed_by(backing), origin: origin.to_owned(), told: Arc::default() }
    }

    /// The price of this, as good as it can be had.
    ///
    /// # Errors
    ///
    /// If it cannot.
    pub async fn ask(&self, key: &str) -> Result<Degraded<String>, BoxError> {
        let (origin, told) = (self.origin.clone(), Arc::clone(&self.told));
        let service = service_fn(move |key: String| fetch(origin.clone(), key));
        let observer = observe_fn(move |_, event| {
            if let Event::StoreFailed { error, .. } = event {
                told.lock().expect("nobody panics with it").push(error.to_string());
            }
        });
        let layer = DegradeLayer::new("prices", Chain::<String, Degraded<String>>::new())?;
        let layer = layer.last_good(self.memory.clone())?.observe(observer);
        layer.layer(service).oneshot(key.to_owned()).await
    }

    /// What was said of the store since the last time.
    ///
    /// # Panics
    ///
    /// If an observer has.
    pub fn told(&self) -> Vec<String> {
        std::mem::take(&mut *self.told.lock().expect("nobody panics with it"))
    }

    /// Returns once all is kept, and written.
    pub async fn written(&self) {
        while self.memory.in_flight() + self.memory.unwritten() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn fetch(origin: String, key: String) -> Result<String, BoxError> {
    let mut stream = TcpStream::connect(origin).await?;
    stream.write_all(format!("{key}\n").as_bytes()).await?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).await?;
    if line.is_empty() { Err("the origin is down".into()) } else { Ok(line.trim_end().to_owned()) }
}
