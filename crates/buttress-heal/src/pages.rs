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

/// So many ends of incidents wait; beyond that the oldest is given up.
const MOST_RESOLVES: usize = 64;

/// What a pager still has to be told, in order, each until it gets through. What fails lets those of other incidents go first.
pub(crate) struct Pages {
    pager: Arc<dyn Pager>,
    /// Seldom is there anything: none is empty.
    queue: Option<Box<Queue>>,
}

#[derive(Default)]
struct Queue {
    pages: VecDeque<Page>,
    /// The first one is being sent.
    sending: Option<BoxFuture<'static, bool>>,
    pause: Option<Timer>,
    delays: Option<Delays>,
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
        Self { pager, queue: None }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_none()
    }

    /// Tells the pager, after all that it has to be told before.
    pub(crate) fn push(&mut self, kind: PageKind, incident: Incident, span: Span) {
        let queue = self.queue.get_or_insert_default();
        if queue.supersede(kind, &incident) {
            queue.make_room(kind);
            let page = Page { kind, incident: Arc::new(incident), span, tried: false };
            // A call for a human does not wait until another page is tried again.
            if kind == PageKind::Trigger && queue.pause.take().is_some() {
                queue.pages.push_front(page);
            } else {
                queue.pages.push_back(page);
            }
        }
        if queue.pages.is_empty() {
            self.queue = None;
        }
    }

    /// What has come of the next page.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Sent> {
        let Some(queue) = &mut self.queue else { return Poll::Pending };
        if let Some(pause) = &mut queue.pause {
            ready!(pause.poll(cx));
            queue.pause = None;
        }
        let Some(page) = queue.pages.front_mut() else { return Poll::Pending };
        let pager = &self.pager;
        let sending = queue.sending.get_or_insert_with(|| {
            page.tried = true;
            send(Arc::clone(pager), page.kind, Arc::clone(&page.incident), page.span.clone())
        });
        let success = ready!(sending.as_mut().poll(cx));
        let sent = Sent { key: Arc::clone(&page.incident.key), kind: page.kind, success };
        queue.settle(success);
        if queue.pages.is_empty() {
            self.queue = None;
        }
        Poll::Ready(sent)
    }
}

impl Queue {
    /// Drops what need not be said any more. Whether this need be: what is over need not, if nobody was told that it began.
    fn supersede(&mut self, kind: PageKind, incident: &Incident) -> bool {
        if kind == PageKind::Trigger {
            return true;
        }
        let mut on_its_way = usize::from(self.sending.is_some());
        let mut never_tried = false;
        self.pages.retain(|page| {
            let is_sent = std::mem::replace(&mut on_its_way, 0) > 0;
            let is_moot = kind == PageKind::Resolve || page.kind == PageKind::Update;
            let superseded = !is_sent && is_moot && page.incident.key() == incident.key();
            never_tried |= superseded && page.kind == PageKind::Trigger && !page.tried;
            !superseded
        });
        kind != PageKind::Resolve || !never_tried
    }

    fn settle(&mut self, success: bool) {
        self.sending = None;
        if success {
            self.pages.pop_front();
            self.delays = None;
            return;
        }
        let delay = self.delays.get_or_insert_with(|| retries().delays()).next();
        self.pause = Timer::at(after(Instant::now(), delay.unwrap_or(SEND_WITHIN))).ok();
        // It was over while it was sent.
        let first = self.pages.front();
        let is_over = first.is_some_and(|first| {
            let ends =
                |page: &Page| page.kind == PageKind::Resolve && page.incident.key() == first.incident.key();
            first.kind != PageKind::Resolve && self.pages.iter().any(ends)
        });
        if is_over {
            self.pages.pop_front();
        } else {
            self.give_way();
        }
    }

    /// The order matters within an incident only: those of the first one go to the end, and whoever is not called yet is next.
    fn give_way(&mut self) {
        let Some(key) = self.pages.front().map(|first| Arc::clone(&first.incident.key)) else { return };
        let (first, mut others): (VecDeque<_>, VecDeque<_>) =
            self.pages.drain(..).partition(|page| page.incident.key == key);
        let is_new = |page: &Page| page.kind == PageKind::Trigger && !page.tried;
        if let Some(new) = others.iter().position(is_new).and_then(|at| others.remove(at)) {
            others.push_front(new);
        }
        self.pages = others;
        self.pages.extend(first);
    }

    /// A pager that takes no resolves does not fill the memory.
    fn make_room(&mut self, kind: PageKind) {
        let resolves = self.pages.iter().filter(|page| page.kind == PageKind::Resolve).count();
        if kind != PageKind::Resolve || resolves < MOST_RESOLVES {
            return;
        }
        let skip = usize::from(self.sending.is_some());
        let mut waiting = self.pages.iter().enumerate().skip(skip);
        let oldest = waiting.find(|(_, page)| page.kind == PageKind::Resolve);
        if let Some(at) = oldest.map(|(at, _)| at) {
            self.pages.remove(at);
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

#[cfg(test)]
mod tests {
    use std::future::{poll_fn, ready};
    use std::sync::Mutex;

    use buttress_core::BoxError;
    use buttress_core::observe::Health;

    use super::*;

    /// It rejects every resolve of `a`.
    #[derive(Default)]
    struct Picky(Mutex<Vec<String>>);

    impl Pager for Picky {
        fn trigger<'a>(&'a self, incident: &'a Incident) -> BoxFuture<'a, Result<(), BoxError>> {
            self.0.lock().unwrap().push(format!("trigger {}", incident.key()));
            Box::pin(ready(Ok(())))
        }

        fn resolve<'a>(&'a self, incident: &'a Incident) -> BoxFuture<'a, Result<(), BoxError>> {
            if incident.key() == "a" {
                return Box::pin(ready(Err("no such incident".into())));
            }
            self.0.lock().unwrap().push(format!("resolve {}", incident.key()));
            Box::pin(ready(Ok(())))
        }
    }

    fn push(pages: &mut Pages, kind: PageKind, key: &str) {
        pages.push(kind, Incident::new(key, "db", Health::Critical), Span::none());
    }

    async fn next(pages: &mut Pages) -> (PageKind, String, bool) {
        let sent = poll_fn(|cx| pages.poll(cx)).await;
        (sent.kind, sent.key.to_string(), sent.success)
    }

    #[tokio::test(start_paused = true)]
    async fn a_page_that_is_rejected_for_good_keeps_no_other_from_being_sent() {
        let pager = Arc::new(Picky::default());
        let mut pages = Pages::new(Arc::clone(&pager) as Arc<dyn Pager>);
        push(&mut pages, PageKind::Trigger, "a");
        next(&mut pages).await;
        push(&mut pages, PageKind::Resolve, "a");
        assert_eq!(next(&mut pages).await, (PageKind::Resolve, "a".into(), false));
        push(&mut pages, PageKind::Resolve, "b");
        push(&mut pages, PageKind::Trigger, "c");
        assert_eq!(next(&mut pages).await, (PageKind::Trigger, "c".into(), true), "at once");
        for _ in 0..3 {
            next(&mut pages).await;
        }
        assert_eq!(*pager.0.lock().unwrap(), ["trigger a", "trigger c", "resolve b"]);
        for key in 0..1000 {
            push(&mut pages, PageKind::Resolve, &key.to_string());
        }
        assert_eq!(pages.queue.unwrap().pages.len(), MOST_RESOLVES);
    }

    #[test]
    fn where_nothing_is_left_to_be_said_there_is_nothing_to_wait_for() {
        let mut pages = Pages::new(Arc::new(Picky::default()));
        push(&mut pages, PageKind::Trigger, "b");
        push(&mut pages, PageKind::Resolve, "b");
        assert!(pages.is_empty());
    }
}
