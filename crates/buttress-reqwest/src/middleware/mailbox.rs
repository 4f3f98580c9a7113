//! The way from the innermost service of a stack to the task that drives it, where both are the same task.

use std::cell::{Cell, RefCell};
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};
use std::{iter, mem, thread};

use buttress::BoxError;

use super::answer::InPlaceBody;
use super::asked::Asked;
use super::error::from_middleware;

/// The attempts of one call: with the task that made it, and while that polls the call, with the thread. Dropping it ends
/// the call: whoever waits elsewhere hears of it.
pub(crate) struct Mailbox(Option<Box<Attempts>>);

struct Attempts {
    /// Of this call alone.
    call: u64,
    /// `None` while no call has it.
    asked: Option<Asked>,
    /// Mostly there is one at a time.
    first: Attempt,
    more: Vec<Attempt>,
    /// Something was asked or given up since all were looked through.
    news: bool,
    /// Who polls the call, by what its waker is made of.
    polled_by: (usize, usize),
}

#[derive(Default)]
struct Attempt {
    stage: Stage,
    /// Of whoever waits for it, unless that is polled with the call anyway.
    waker: Option<Waker>,
}

#[derive(Default)]
#[expect(clippy::large_enum_variant, reason = "it is in a box already")]
enum Stage {
    /// The place is for another one.
    #[default]
    Free,
    Asked(Request),
    UnderWay,
    GivenUp,
    Answered(Reply),
}

/// What is to be sent, unless it could not be made.
pub(crate) type Request = Result<reqwest::Request, reqwest::Error>;

/// What the task that made the call has to do.
pub(crate) enum Job {
    /// The attempt with this number.
    Make(usize),
    /// Nobody waits for this one any longer.
    Drop(usize),
}

/// What became of an attempt; a panic is passed on to the service that asked.
pub(crate) type Reply = thread::Result<reqwest_middleware::Result<reqwest::Response>>;

/// An attempt that somebody waits for. Dropping it ends the attempt.
#[derive(Debug)]
pub(crate) struct Waiting {
    call: u64,
    number: usize,
    over: bool,
}

thread_local! {
    /// Of the call that this thread polls.
    static OPEN: RefCell<Option<Box<Attempts>>> = const { RefCell::new(None) };
    /// Of a call that is over, for the next one.
    static SPARE: Cell<Option<Box<Attempts>>> = const { Cell::new(None) };
    /// Numbers of calls that this thread may still give away: from the first to before the second.
    static NUMBERS: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

/// Threads take numbers by so many, so that calls seldom write what all threads share.
const NUMBERS_AT_ONCE: u64 = 1 << 16;

fn number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let (mut next, mut end) = NUMBERS.get();
    if next == end {
        next = NEXT.fetch_add(NUMBERS_AT_ONCE, Relaxed);
        end = next + NUMBERS_AT_ONCE;
    }
    NUMBERS.set((next + 1, end));
    next
}

/// Works with the mailbox of the call that is polled, if it is this one or any will do.
fn with_open<R>(call: Option<u64>, work: impl FnOnce(&mut Attempts) -> R) -> Option<R> {
    let open = OPEN.try_with(|open| {
        let mut open = open.try_borrow_mut().ok()?;
        let attempts = open.as_deref_mut()?;
        (call.is_none_or(|call| call == attempts.call)).then(|| work(attempts))
    });
    open.ok().flatten()
}

/// What a waker is: two that are alike wake the same task, as long as one of them lives.
fn who(cx: &Context<'_>) -> (usize, usize) {
    (cx.waker().data() as usize, std::ptr::from_ref(cx.waker().vtable()) as usize)
}

impl Mailbox {
    pub(crate) fn new(asked: Asked) -> Self {
        let mut attempts = SPARE.take().unwrap_or_else(Attempts::new);
        attempts.call = number();
        attempts.asked = Some(asked);
        attempts.polled_by = (0, 0);
        Self(Some(attempts))
    }

    /// Lends this mailbox to the innermost service of a stack, as long as the stack is called or polled.
    #[inline]
    pub(crate) fn lend(&mut self) -> Lent<'_> {
        let before = OPEN.replace(self.0.take());
        Lent { mailbox: &mut self.0, before }
    }

    /// Says who polls the call, so that whoever is polled with it needs no waker of its own.
    #[inline]
    pub(crate) fn polled_by(&mut self, cx: &Context<'_>) {
        if let Some(attempts) = &mut self.0 {
            attempts.polled_by = who(cx);
        }
    }

    /// What is to be done next.
    #[inline]
    pub(crate) fn next(&mut self) -> Option<Job> {
        let attempts = self.0.as_deref_mut()?;
        if attempts.news { attempts.next() } else { None }
    }

    /// What the attempt with this number is to send: it is under way.
    #[inline]
    pub(crate) fn take(&mut self, number: usize) -> Option<Request> {
        match mem::replace(&mut self.0.as_deref_mut()?.get(number).stage, Stage::UnderWay) {
            Stage::Asked(request) => Some(request),
            _ => None,
        }
    }

    /// An attempt is over. The call is to be polled after that by whoever polls this: only others are woken.
    #[inline]
    pub(crate) fn answer(&mut self, number: usize, reply: Reply) {
        let Some(attempts) = self.0.as_deref_mut() else { return };
        let attempt = attempts.get(number);
        if let Stage::UnderWay = attempt.stage {
            attempt.stage = Stage::Answered(reply);
            if let Some(waker) = attempt.waker.take() {
                waker.wake();
            }
        }
    }

    /// What the call asks for.
    pub(crate) fn asked(&self) -> Option<&Asked> {
        self.0.as_deref()?.asked.as_ref()
    }
}

impl Drop for Mailbox {
    #[inline]
    fn drop(&mut self) {
        let Some(mut attempts) = self.0.take() else { return };
        if attempts.more.is_empty() {
            attempts.clear();
            // Without a thread's own data there is no next call either.
            let _ = SPARE.try_with(|spare| spare.set(Some(attempts)));
        } else {
            attempts.end();
        }
    }
}

impl Attempts {
    #[cold]
    fn new() -> Box<Self> {
        let (first, more) = (Attempt::default(), Vec::new());
        Box::new(Self { call: 0, asked: None, first, more, news: false, polled_by: (0, 0) })
    }

    #[inline]
    fn get(&mut self, number: usize) -> &mut Attempt {
        if number == 0 { &mut self.first } else { &mut self.more[number - 1] }
    }

    fn find(&self, wanted: impl Fn(&Stage) -> bool) -> Option<usize> {
        iter::once(&self.first).chain(&self.more).position(|attempt| wanted(&attempt.stage))
    }

    #[inline]
    fn ask(&mut self, request: http::Request<reqwest::Body>) -> Waiting {
        let number = if let Stage::Free = self.first.stage { 0 } else { self.another() };
        let request = match &self.asked {
            Some(asked) => asked.to_reqwest(request),
            None => request.try_into(),
        };
        self.get(number).stage = Stage::Asked(request);
        self.news = true;
        Waiting { call: self.call, number, over: false }
    }

    /// A place that is free, besides the first.
    #[cold]
    fn another(&mut self) -> usize {
        self.find(|stage| matches!(stage, Stage::Free)).unwrap_or_else(|| {
            self.more.push(Attempt::default());
            self.more.len()
        })
    }

    fn next(&mut self) -> Option<Job> {
        let Some(number) = self.find(|stage| matches!(stage, Stage::Asked(_) | Stage::GivenUp)) else {
            self.news = false;
            return None;
        };
        let stage = &mut self.get(number).stage;
        if let Stage::GivenUp = stage {
            *stage = Stage::Free;
            return Some(Job::Drop(number));
        }
        Some(Job::Make(number))
    }

    /// As they were at first.
    #[inline]
    fn clear(&mut self) {
        self.asked = None;
        if !matches!(self.first.stage, Stage::Free) || self.first.waker.is_some() {
            self.end();
        }
        self.news = false;
    }

    #[cold]
    fn end(&mut self) {
        let all = iter::once(&mut self.first).chain(&mut self.more);
        all.map(mem::take).filter_map(|attempt| attempt.waker).for_each(Waker::wake);
    }
}

/// Takes the mailbox back when it is dropped, also when the stack panics.
pub(crate) struct Lent<'a> {
    mailbox: &'a mut Option<Box<Attempts>>,
    /// Of the call within which this one is polled.
    before: Option<Box<Attempts>>,
}

impl Drop for Lent<'_> {
    #[inline]
    fn drop(&mut self) {
        *self.mailbox = OPEN.replace(self.before.take());
    }
}

impl Waiting {
    /// Asks the task that polls this call for an attempt. `None` if no call is polled here.
    #[inline]
    pub(crate) fn new(request: http::Request<reqwest::Body>) -> Option<Self> {
        with_open(None, |attempts| attempts.ask(request))
    }

    /// `None` if it is another call that is polled here, or none.
    #[inline]
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Option<Poll<Result<http::Response<InPlaceBody>, BoxError>>> {
        with_open(Some(self.call), |attempts| {
            let polled_by_call = attempts.polled_by == who(cx);
            let attempt = attempts.get(self.number);
            if let Stage::Answered(_) = attempt.stage {
                self.over = true;
                return match mem::take(&mut attempt.stage) {
                    Stage::Answered(Ok(Ok(response))) => Poll::Ready(Ok(InPlaceBody::of(response))),
                    stage => Poll::Ready(Err(failed(stage))),
                };
            }
            if !polled_by_call {
                attempt.wait(cx);
            }
            Poll::Pending
        })
    }
}

/// What the service that asked says of an attempt that has not become a response.
#[cold]
fn failed(stage: Stage) -> BoxError {
    match stage {
        Stage::Answered(Ok(Err(error))) => from_middleware(error),
        Stage::Answered(Err(panic)) => resume_unwind(panic),
        _ => unreachable!("it was answered"),
    }
}

impl Attempt {
    #[cold]
    fn wait(&mut self, cx: &Context<'_>) {
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
    }
}

impl Drop for Waiting {
    #[inline]
    fn drop(&mut self) {
        if !self.over {
            self.give_up();
        }
    }
}

impl Waiting {
    #[cold]
    fn give_up(&mut self) {
        // What is left is dropped when nobody looks at the mailbox.
        let _left = with_open(Some(self.call), |attempts| {
            let left = mem::take(attempts.get(self.number));
            if let Stage::UnderWay = left.stage {
                attempts.get(self.number).stage = Stage::GivenUp;
                attempts.news = true;
            }
            left
        });
    }
}
