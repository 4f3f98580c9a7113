//! Which run a task is in, and whether it is in one of its steps.

use std::cell::Cell;
use std::sync::Arc;

use super::Core;
use crate::error::StepId;

tokio::task_local! {
    static CURRENT: Arc<Core>;
}

thread_local! {
    /// Whether there is a current run: what is asked where there is none has to be cheap.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Where no operation can be built or awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    InsideStep,
    /// In another workflow, or in a spawned task.
    Elsewhere,
}

impl Core {
    /// The run that this task is in, if it is in one.
    #[inline]
    pub(crate) fn here<T>(f: impl FnOnce(&Arc<Self>) -> T) -> Option<T> {
        if INSIDE.get() { CURRENT.try_with(f).ok() } else { None }
    }

    /// Polls the run's code.
    pub(crate) fn scope<T>(self: &Arc<Self>, f: impl FnOnce() -> T) -> T {
        struct Leave(bool);
        impl Drop for Leave {
            fn drop(&mut self) {
                INSIDE.set(self.0);
            }
        }
        let _leave = Leave(INSIDE.replace(true));
        CURRENT.sync_scope(Arc::clone(self), f)
    }

    /// Whether an operation of this run may be polled here.
    pub(crate) fn is_here(self: &Arc<Self>) -> bool {
        CURRENT.try_with(|current| Arc::ptr_eq(current, self)).unwrap_or(false)
    }

    /// Whether this task is in a run, and not in one of its steps.
    #[inline]
    pub(crate) fn is_in_run() -> bool {
        Self::here(|core| !core.is_in_step()).unwrap_or(false)
    }

    /// Whether the body of a step is being polled.
    pub(crate) fn is_in_step(&self) -> bool {
        self.lock().current.is_some()
    }

    /// Why no operation can be built or awaited here, if it cannot.
    pub(crate) fn misplaced(self: &Arc<Self>) -> Option<Place> {
        match self.is_here() {
            false => Some(Place::Elsewhere),
            true => self.is_in_step().then_some(Place::InsideStep),
        }
    }

    /// The step in whose body the code has panicked, if it was in one.
    pub(crate) fn panicking(&self) -> Option<StepId> {
        self.lock().panicking.take()
    }

    /// Polls the body of a step. A step cannot be in another.
    pub(crate) fn in_step<T>(&self, id: &StepId, f: impl FnOnce() -> T) -> T {
        struct Leave<'a>(&'a Core);
        impl Drop for Leave<'_> {
            fn drop(&mut self) {
                let mut state = self.0.lock();
                let step = state.current.take();
                if std::thread::panicking() {
                    state.panicking = step;
                }
            }
        }
        let mut state = self.lock();
        (state.current, state.panicking) = (Some(id.clone()), None);
        drop(state);
        let _leave = Leave(self);
        f()
    }
}
