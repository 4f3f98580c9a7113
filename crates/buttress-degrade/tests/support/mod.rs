#![allow(dead_code, reason = "each test uses a part of it")]

pub(crate) mod kept;
pub(crate) mod numbers;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress_core::observe::{Event, Observe};
use buttress_core::observe_fn;

pub(crate) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(crate) fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// Hears of everything.
#[derive(Clone, Default)]
pub(crate) struct Heard(Arc<Mutex<Vec<Event>>>);

impl Heard {
    pub(crate) fn observer(&self) -> Arc<dyn Observe> {
        let heard = Arc::clone(&self.0);
        observe_fn(move |_, event| heard.lock().unwrap().push(event.clone()))
    }

    /// What was heard since the last time: `replica: did not answer in time`, `2 of last good answer`.
    pub(crate) fn take(&self) -> Vec<String> {
        let events = std::mem::take(&mut *self.0.lock().unwrap());
        let text = |event| match event {
            Event::Rung { rung, cause } => format!("{rung}: {cause}"),
            Event::Degraded { level, source } => format!("{} of {source}", level.as_u8()),
            Event::Refreshed { success } => format!("refreshed: {success}"),
            other => format!("{other:?}"),
        };
        events.into_iter().map(text).collect()
    }
}
