use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::time::Instant;

use crate::entry::{Body, Kind};
use crate::error::{Misplaced, StepId, StepKind};
use crate::replay::{self, Marks};
use crate::run::Core;

/// A durable sleep; made by [`Cx::sleep`](crate::Cx::sleep).
#[must_use = "a sleep does nothing unless it is awaited"]
pub struct Sleep {
    core: Arc<Core>,
    id: Option<StepId>,
    marks: Marks,
    mark: Mark,
    phase: Phase,
}

/// For how long, in microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mark {
    For(u64),
    Until(u64),
    /// Not at all: only recorded.
    Patch,
}

enum Phase {
    New,
    Marking,
    Asleep(Pin<Box<tokio::time::Sleep>>),
    Over,
}

impl Sleep {
    pub(crate) fn new(core: &Arc<Core>, name: &Arc<str>, mark: Mark) -> Self {
        let built = core.build(StepKind::Sleep, name);
        let (id, marks) = built.map_or((None, Marks::default()), |built| (Some(built.id), built.marks));
        Self { core: Arc::clone(core), id, marks, mark, phase: Phase::New }
    }

    /// What records that the code is the patched one.
    pub(crate) fn patch(core: &Arc<Core>, id: StepId, is_recorded: bool) -> Self {
        let phase = if is_recorded { Phase::Over } else { Phase::New };
        Self { core: Arc::clone(core), id: Some(id), marks: Marks::default(), mark: Mark::Patch, phase }
    }

    fn body(&self, n: u32) -> Body {
        match self.mark {
            Mark::For(wait) => Body { n, wait: Some(wait), ..Body::default() },
            Mark::Until(until) => Body { n, until: Some(until), ..Body::default() },
            Mark::Patch => Body { n, ..Body::default() },
        }
    }

    fn asleep(&self, ordinal: u32, until: Instant) -> Phase {
        self.core.sleeping(ordinal, Some(until));
        Phase::Asleep(Box::pin(tokio::time::sleep_until(until)))
    }
}

impl Future for Sleep {
    type Output = Result<(), Misplaced>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let Some(id) = this.id.clone().filter(|_| this.core.misplaced().is_none()) else {
            return Poll::Ready(Err(Misplaced));
        };
        if this.core.is_probed() {
            return Poll::Pending;
        }
        loop {
            if this.core.take(id.ordinal, cx.waker()).is_some() {
                return Poll::Ready(Ok(()));
            }
            match &mut this.phase {
                Phase::New if !this.core.may_start() => return Poll::Pending,
                Phase::New => match (this.marks.until, this.mark) {
                    (Some(until), _) => this.phase = this.asleep(id.ordinal, this.core.instant(until)),
                    (None, Mark::Patch) => {
                        this.core.send(Kind::Patch, &id, this.body(id.ordinal));
                        this.phase = Phase::Over;
                    }
                    (None, _) => {
                        this.core.send(Kind::Sleep, &id, this.body(id.ordinal));
                        this.phase = Phase::Marking;
                    }
                },
                Phase::Marking => {
                    let Some(at) = this.core.acked(id.ordinal) else { return Poll::Pending };
                    let until = replay::wake(at, &this.body(id.ordinal)).unwrap_or(at);
                    this.phase = this.asleep(id.ordinal, this.core.instant(until));
                }
                Phase::Asleep(sleep) => {
                    ready!(sleep.as_mut().poll(cx));
                    if !this.core.may_start() {
                        return Poll::Pending;
                    }
                    this.core.sleeping(id.ordinal, None);
                    this.core.send(Kind::Woken, &id, Body { n: id.ordinal, ..Body::default() });
                    this.phase = Phase::Over;
                }
                Phase::Over => return Poll::Pending,
            }
        }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(id) = &self.id {
            self.core.forget(id.ordinal);
        }
    }
}

impl fmt::Debug for Sleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sleep").field("id", &self.id).finish_non_exhaustive()
    }
}
