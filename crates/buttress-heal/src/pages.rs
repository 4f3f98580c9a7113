use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use buttress_core::clock::after;
use buttress_core::observe::PageKind;
use buttress_core::{Backoff, Delays, Jitter, Timer, within};
use tokio::time::Instant;
use tracing::{Instrument, Span};

use crate::BoxFuture;
use crate::incident::Incident;
use crate::pager::Pager;
use crate::unwind::caught;

/// How long a pager may take.
const SEND_WITHIN: Duration = Duration::from_secs(10);

/// What a pager still has to be told, in order, each until it gets through.
pub(crate) struct Pages {
    pager: Arc<dyn Pager>,
    queue: VecDeque<Page>,
    /// The first of the queue is being sent.
    sending: Option<BoxFuture<'static, bool>>,
    pause: Option<Timer>,
    delays: Option<Box<Delays>>,
}

struct Page {
    kind: PageKind,
    incident: Arc<Incident>,
    span: Span,
    tried: bool,
}

/// A pager was told something, or could not be.
pub(crate) struct Sent {
    pub(crate) key: Arc<str>,
    pub(crate) kind: PageKind,
    pub(crate) success: bool,
}

impl Pages {
    pub(crate) fn new(pager: Arc<dyn Pager>) -> Self {
        Self { pager, queue: VecDeque::new(), sending: None, pause: None, delays: None }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Tells the pager, after all that it has to be told before. What is over need not be told that it began.
    pub(crate) fn push(&mut self, kind: PageKind, incident: Incident, span: Span) {
        let incident = Arc::new(incident);
        let first_is_sent = usize::from(self.sending.is_some());
        let of_this = |page: &Page| page.incident.key() == incident.key();
        let mut never_tried = false;
        if kind != PageKind::Trigger {
            let mut at = 0;
            self.queue.retain(|page| {
                at += 1;
                let superseded = at > first_is_sent
                    && of_this(page)
                    && (kind == PageKind::Resolve || page.kind == PageKind::Update);
                never_tried |= superseded && page.kind == PageKind::Trigger && !page.tried;
                !superseded
            });
        }
        if kind == PageKind::Resolve && never_tried {
            return;
        }
        self.queue.push_back(Page { kind, incident, span, tried: false });
    }

    /// What has come of the next page.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Sent> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.poll(cx));
            self.pause = None;
        }
        let Some(page) = self.queue.front_mut() else { return Poll::Pending };
        let pager = &self.pager;
        let sending = self.sending.get_or_insert_with(|| {
            page.tried = true;
            send(Arc::clone(pager), page.kind, Arc::clone(&page.incident), page.span.clone())
        });
        let success = ready!(sending.as_mut().poll(cx));
        self.sending = None;
        let sent = Sent { key: Arc::clone(&page.incident.key), kind: page.kind, success };
        self.settle(success);
        Poll::Ready(sent)
    }

    fn settle(&mut self, success: bool) {
        if success {
            self.queue.pop_front();
            self.delays = None;
            return;
        }
        let delays = self.delays.get_or_insert_with(|| Box::new(retries().delays()));
        let delay = delays.next().unwrap_or(SEND_WITHIN);
        self.pause = Timer::at(after(Instant::now(), delay)).ok();
        let is_over = |key: &str, page: &Page| page.kind == PageKind::Resolve && page.incident.key() == key;
        let Some(first) = self.queue.front() else { return };
        let key = first.incident.key();
        if first.kind != PageKind::Resolve && self.queue.iter().any(|page| is_over(key, page)) {
            self.queue.pop_front();
        }
    }
}

/// 1 s, doubled up to a minute.
fn retries() -> Backoff {
    let [base, cap] = [1, 60].map(Duration::from_secs);
    let backoff = Backoff::exponential(base, 2.0, cap).unwrap_or_default();
    backoff.jitter(Jitter::Above { percent: 20 })
}

fn send(
    pager: Arc<dyn Pager>,
    kind: PageKind,
    incident: Arc<Incident>,
    span: Span,
) -> BoxFuture<'static, bool> {
    let send = async move {
        let send = || match kind {
            PageKind::Update => pager.update(&incident),
            PageKind::Resolve => pager.resolve(&incident),
            _ => pager.trigger(&incident),
        };
        match within(SEND_WITHIN, caught(send)).await {
            Some(Ok(Ok(()))) => true,
            Some(Ok(Err(error))) => {
                let error = &*error as &(dyn std::error::Error + 'static);
                tracing::warn!(target: "buttress", incident = incident.key(), error, "the pager failed; it is tried again");
                false
            }
            None => {
                tracing::warn!(target: "buttress", incident = incident.key(), "the pager took too long; it is tried again");
                false
            }
            Some(Err(_)) => {
                tracing::error!(target: "buttress", incident = incident.key(), "the pager panicked; it is tried again");
                false
            }
        }
    };
    Box::pin(send.instrument(span))
}
