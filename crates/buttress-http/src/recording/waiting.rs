//! Who is woken when a body can go on.

use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};

use super::lock;

/// Who waits for the source.
#[derive(Debug)]
pub(super) enum Waiting {
    /// The only reader that has come to the front so far, if any has, which the source wakes itself; and its waker, for the
    /// time when it is no longer alone.
    One { reader: Option<u32>, waker: Option<Waker> },
    /// All of them, since the one who asked the source last may not be the one to go on.
    All(Arc<Wakers>),
}

impl Default for Waiting {
    fn default() -> Self {
        Self::One { reader: None, waker: None }
    }
}

impl Waiting {
    /// What wakes all readers, if this one is not the only one that asks.
    pub(super) fn shared(&mut self, number: u32, cx: &Context<'_>) -> Option<Waker> {
        if let Self::One { reader, waker } = self {
            if *reader.get_or_insert(number) == number {
                return None;
            }
            let first = waker.take().into_iter().collect();
            *self = Self::All(Arc::new(Wakers(Mutex::new(first))));
        }
        let Self::All(wakers) = self else { return None };
        wakers.add(cx.waker());
        Some(Waker::from(Arc::clone(wakers)))
    }

    /// The only reader has to wait.
    pub(super) fn waits_alone(&mut self, cx: &Context<'_>) {
        match self {
            Self::One { waker: Some(waker), .. } => waker.clone_from(cx.waker()),
            Self::One { waker, .. } => *waker = Some(cx.waker().clone()),
            Self::All(_) => {}
        }
    }

    /// Who waits beside this reader, and is to be woken.
    pub(super) fn others(&self, cx: &Context<'_>) -> Vec<Waker> {
        let Self::All(wakers) = self else { return Vec::new() };
        let mut wakers = std::mem::take(&mut *lock(&wakers.0));
        wakers.retain(|waker| !waker.will_wake(cx.waker()));
        wakers
    }

    pub(super) fn wake(self) {
        match self {
            Self::One { waker, .. } => waker.into_iter().for_each(Waker::wake),
            Self::All(wakers) => wakers.wake(),
        }
    }
}

/// Wakes all readers of a body: any of them may go on when the source does.
#[derive(Debug, Default)]
pub(super) struct Wakers(Mutex<Vec<Waker>>);

impl Wakers {
    fn add(&self, waker: &Waker) {
        let mut wakers = lock(&self.0);
        if !wakers.iter().any(|known| known.will_wake(waker)) {
            wakers.push(waker.clone());
        }
    }
}

impl Wake for Wakers {
    fn wake(self: Arc<Self>) {
        let wakers = std::mem::take(&mut *lock(&self.0));
        wakers.into_iter().for_each(Waker::wake);
    }
}
