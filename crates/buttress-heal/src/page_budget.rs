use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use buttress_core::clock::{Seconds, after, wall};
use buttress_core::observe::Health;
use buttress_core::{BoxError, ConfigError};
use tokio::time::Instant;

use crate::BoxFuture;
use crate::check::Symptom;
use crate::incident::Incident;
use crate::pager::Pager;

/// A pager that calls a human only so often, over all incidents of all supervisors that share it.
///
/// Beyond the limit a trigger is held back: it is an error that says until when, the supervisor tries again, and it gets
/// through when there is room, if it is still needed by then. The human is told once that pages are held back, and that
/// none is any more. A trigger that is repeated before it is resolved counts once, however long that takes; updates and resolves of
/// what the human was called for are never held back.
///
/// Clones share the budget. The default is 10 pages in an hour.
///
/// ```
/// use std::time::{Duration, UNIX_EPOCH};
/// use buttress_heal::{LogPager, PageBudget};
///
/// # fn main() -> Result<(), buttress_core::ConfigError> {
/// let pager = PageBudget::new(LogPager).at_most(3, Duration::from_secs(600))?;
/// // One for all supervisors of the process.
/// let shared = pager.clone();
/// # Ok(())
/// # }
/// ```
pub struct PageBudget<P> {
    limit: usize,
    within: Duration,
    shared: Arc<Shared<P>>,
}

struct Shared<P> {
    pager: P,
    pages: Mutex<Pages>,
}

/// Which pages went out, and which are held back.
#[derive(Default)]
struct Pages {
    out: VecDeque<(Instant, Arc<str>)>,
    /// For which the human was called, or may have been, and which are not resolved: the oldest first, a bounded number.
    open: VecDeque<Arc<str>>,
    /// When each was asked for last.
    held: HashMap<Arc<str>, Instant>,
    /// What the human is told meanwhile.
    notice: Option<Notice>,
}

struct Notice {
    incident: Incident,
    told: Told,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    No,
    /// Whether it got through is not clear.
    Tried,
    Yes,
}

impl<P> PageBudget<P> {
    /// Limits this pager.
    pub fn new(pager: P) -> Self {
        let shared = Shared { pager, pages: Mutex::default() };
        Self { limit: 10, within: Duration::from_secs(3600), shared: Arc::new(shared) }
    }

    /// So many pages within this time, whenever it begins. Clones that exist already keep their limit.
    ///
    /// # Errors
    ///
    /// If one of them is zero.
    pub fn at_most(self, pages: usize, within: Duration) -> Result<Self, ConfigError> {
        if pages == 0 {
            return Err(ConfigError::new("pages", pages, "must be at least 1, or nobody is ever called"));
        }
        if within.is_zero() {
            return Err(ConfigError::new(
                "within",
                within,
                "must be longer than zero, or nothing is limited",
            ));
        }
        Ok(Self { limit: pages, within, ..self })
    }

    /// How many incidents are held back now.
    pub fn held(&self) -> usize {
        self.lock().held.len()
    }

    fn lock(&self) -> MutexGuard<'_, Pages> {
        self.shared.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this page may go out; if not, when there will be room.
    fn admit(&self, incident: &Incident) -> Result<(), Duration> {
        let (now, mut pages) = (Instant::now(), self.lock());
        pages.forget(now, self.within);
        let key: Arc<str> = incident.key().into();
        if pages.open.contains(&key) || pages.out.iter().any(|(_, out)| *out == key) {
            pages.open(key);
            return Ok(());
        }
        if pages.out.len() < self.limit {
            pages.held.remove(&key);
            pages.out.push_back((now, Arc::clone(&key)));
            pages.open(key);
            return Ok(());
        }
        pages.held.insert(key, now);
        let room = pages.out.front().map_or(now, |(at, _)| after(*at, self.within));
        let held = pages.held.len();
        let notice = pages.notice.get_or_insert_with(|| Notice { incident: notice(), told: Told::No });
        if notice.told != Told::Yes {
            let Self { limit, within, .. } = self;
            let evidence = format!("{limit} pages in {} are used up; held back: {held}", Seconds(*within));
            notice.incident.symptoms = vec![("page budget".into(), symptom(), evidence.into())];
        }
        Err(room.saturating_duration_since(now))
    }
}

/// Of more incidents than this that are never resolved, the oldest is forgotten.
const MOST_OPEN: usize = 1024;

impl Pages {
    fn open(&mut self, key: Arc<str>) {
        if self.open.contains(&key) {
            return;
        }
        if self.open.len() >= MOST_OPEN {
            self.open.pop_front();
        }
        self.open.push_back(key);
    }

    fn forget(&mut self, now: Instant, within: Duration) {
        while self.out.front().is_some_and(|(at, _)| after(*at, within) <= now) {
            self.out.pop_front();
        }
        // Their supervisors are gone: they would have asked again.
        self.held.retain(|_, asked| after(*asked, within) > now);
    }

    /// What the human is to be told now about pages that are held back: that there are some, or no more.
    fn news(&mut self) -> Option<Incident> {
        let notice = self.notice.as_mut()?;
        match (notice.told, self.held.is_empty()) {
            (Told::No | Told::Tried, false) => {
                notice.told = Told::Tried;
                Some(notice.incident.clone())
            }
            (Told::Tried | Told::Yes, true) => Some(notice.incident.clone().ended(Duration::ZERO)),
            (Told::Yes, false) | (Told::No, true) => None,
        }
    }

    fn told(&mut self, incident: &Incident) {
        if incident.is_over() {
            // If some are held back by now, there will be another one.
            self.notice = None;
        } else if let Some(notice) = &mut self.notice {
            notice.told = Told::Yes;
        }
    }
}

fn symptom() -> Symptom {
    Symptom::Other("pages held back".into())
}

/// Of this process and this time only, so that no other one is added to it.
fn notice() -> Incident {
    let since_1970 = wall().duration_since(UNIX_EPOCH).unwrap_or_default();
    let key = format!("page-budget-{}-{}", since_1970.as_nanos(), std::process::id());
    Incident::new(key, "page budget", Health::Critical)
}

impl<P: Pager> PageBudget<P> {
    /// Tells the human about pages that are held back, if there is something new.
    async fn tell(&self) -> Result<(), BoxError> {
        let news = {
            let mut pages = self.lock();
            pages.forget(Instant::now(), self.within);
            pages.news()
        };
        let Some(incident) = news else { return Ok(()) };
        if incident.is_over() {
            self.shared.pager.resolve(&incident).await?;
        } else {
            self.shared.pager.trigger(&incident).await?;
        }
        self.lock().told(&incident);
        Ok(())
    }
}

impl<P: Pager> Pager for PageBudget<P> {
    fn trigger<'a>(&'a self, incident: &'a Incident) -> BoxFuture<'a, Result<(), BoxError>> {
        Box::pin(async move {
            let Err(room) = self.admit(incident) else {
                self.shared.pager.trigger(incident).await?;
                // The page is out; the notice is tried again with the next one.
                let _ = self.tell().await;
                return Ok(());
            };
            self.tell().await?;
            let (limit, within) = (self.limit, Seconds(self.within));
            Err(format!("{limit} pages in {within} are used up; there is room in {}", Seconds(room)).into())
        })
    }

    fn update<'a>(&'a self, incident: &'a Incident) -> BoxFuture<'a, Result<(), BoxError>> {
        Box::pin(async move {
            // Whoever has not been called needs no update: the page will say it.
            if self.lock().held.contains_key(incident.key()) {
                return Ok(());
            }
            self.shared.pager.update(incident).await
        })
    }

    fn resolve<'a>(&'a self, incident: &'a Incident) -> BoxFuture<'a, Result<(), BoxError>> {
        Box::pin(async move {
            if self.lock().held.remove(incident.key()).is_none() {
                self.shared.pager.resolve(incident).await?;
                self.lock().open.retain(|open| **open != *incident.key());
            }
            self.tell().await
        })
    }
}

impl<P> Clone for PageBudget<P> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), ..*self }
    }
}

impl<P> fmt::Debug for PageBudget<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("PageBudget");
        debug.field("limit", &self.limit).field("within", &self.within).field("held", &self.held());
        debug.finish_non_exhaustive()
    }
}
