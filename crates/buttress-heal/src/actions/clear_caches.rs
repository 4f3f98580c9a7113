use std::borrow::Cow;
use std::fmt;

use buttress_core::{BoxError, Trim};

use crate::BoxFuture;
use crate::action::{Action, Attempt, Fixes, Limits, Then};
use crate::check::Symptom;

/// Gives memory back: clears the caches that are listed, and trims stores of last good answers.
///
/// What an outage needs is not cleared. A store of last good answers is given to [`trim`](Self::trim), which at the first
/// attempt forgets only what can no longer be served, and at each further one also what has not been used for longest,
/// until half is left. There is no way to have it cleared, but to do so in a closure of one's own: do not.
///
/// It helps against [`Symptom::Memory`] only: a dependency that cannot be reached is no reason to forget what it has said.
/// 1 s, verified for 5 s, 60 s apart, twice.
///
/// ```
/// use std::collections::HashMap;
/// use std::sync::{Arc, Mutex};
/// use buttress_heal::ClearCaches;
///
/// let prices = Arc::new(Mutex::new(HashMap::<String, u64>::new()));
/// let action = ClearCaches::new().cache(move || prices.lock().unwrap().clear());
/// ```
#[derive(Default)]
pub struct ClearCaches {
    caches: Vec<Box<dyn Fn() + Send + Sync>>,
    stores: Vec<Box<dyn Trim>>,
}

impl ClearCaches {
    /// Nothing is listed yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Clears a cache by this closure, which is called on the supervisor's task and must not block.
    #[must_use]
    pub fn cache(mut self, clear: impl Fn() + Send + Sync + 'static) -> Self {
        self.caches.push(Box::new(clear));
        self
    }

    /// Trims this store of last good answers (`buttress_degrade::LastGood`) too.
    #[must_use]
    pub fn trim(mut self, store: impl Trim + 'static) -> Self {
        self.stores.push(Box::new(store));
        self
    }
}

impl fmt::Debug for ClearCaches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { caches, stores } = self;
        f.debug_struct("ClearCaches").field("caches", &caches.len()).field("stores", &stores.len()).finish()
    }
}

impl Action for ClearCaches {
    fn name(&self) -> &str {
        "clear caches"
    }

    fn fixes(&self) -> Fixes {
        Fixes::Only(Cow::Borrowed(&[Symptom::Memory]))
    }

    fn limits(&self) -> Limits {
        Limits::seconds(1, 5, 60, 2)
    }

    fn heal<'a>(&'a self, attempt: &'a Attempt) -> BoxFuture<'a, Result<Then, BoxError>> {
        Box::pin(async move {
            for clear in &self.caches {
                clear();
            }
            for store in &self.stores {
                store.purge();
                if attempt.number > 1 {
                    store.shrink_to(store.bytes() / 2);
                }
            }
            Ok(Then::Nothing)
        })
    }
}
