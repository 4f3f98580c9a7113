//! The way from the innermost service of a stack to the task that drives it, where both are the same task.

use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Waker};
use std::{iter, mem, thread};

use http::Extensions;
use reqwest::Request;

use super::asked::Asked;
use super::extend;
use super::kept::Kept;

/// Tells the stacks of a process from each other.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Stack(u64);

impl Stack {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Relaxed))
    }
}

/// The attempts of one call: with the task that made it, and while that polls the call, with the thread. Dropping it ends
/// the call: whoever waits elsewhere hears of it.
pub(crate) struct Mailbox(Option<Box<Attempts>>);

pub(crate) struct Attempts {
    pub(crate) stack: Stack,
    /// Of this call alone.
    pub(crate) call: u64,
    /// Of the call within which this one is polled.
    pub(crate) outer: Option<Box<Attempts>>,
    kept: Kept,
    /// Something was asked or given up since all were looked through.
    news: bool,
    /// Who polls the call, by what its waker is made of.
    polled_by: (usize, usize),
    /// Mostly there is one at a time.
    first: Attempt,
    more: Vec<Attempt>,
}

#[derive(Default)]
struct Attempt {
    stage: Stage,
    /// What it is to send, as long as it is only asked for. Before that, what layers do not see of the call's own.
    request: Option<Request>,
    /// What has become of it, until somebody asks.
    reply: Option<Reply>,
    /// Of whoever waits for it, unless that is polled with the call anyway.
    waker: Option<Waker>,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Stage {
    /// The place is for another one.
    #[default]
    Free,
    Asked,
    UnderWay,
    GivenUp,
    Answered,
}

/// What the task that made the call has to do.
pub(crate) enum Job {
    /// An attempt with this number.
    Make(usize),
    /// Nobody waits for this one any longer.
    Drop(usize),
}

/// What became of an attempt; a panic is passed on to the service that asked.
pub(crate) type Reply = thread::Result<reqwest_middleware::Result<reqwest::Response>>;

/// How it stands with an attempt, for whoever waits for it.
pub(crate) enum Standing {
    Answered(Option<Reply>),
    /// The waker that was there before.
    UnderWay(Option<Waker>),
}

thread_local! {
    /// Of the call that this thread polls. A thread that ends polls none, so that this needs not be dropped, and is at hand
    /// without a look whether it has been.
    static OPEN: Cell<ManuallyDrop<Option<Box<Attempts>>>> = const { Cell::new(ManuallyDrop::new(None)) };
    /// Of a call that is over, for the next one.
    static SPARE: Cell<Option<Box<Attempts>>> = const { Cell::new(None) };
}

#[inline]
fn replace_open(attempts: Option<Box<Attempts>>) -> Option<Box<Attempts>> {
    ManuallyDrop::into_inner(OPEN.replace(ManuallyDrop::new(attempts)))
}

/// What a waker is: two that are alike wake the same task, as long as one of them lives.
fn who(cx: &Context<'_>) -> (usize, usize) {
    (cx.waker().data() as usize, std::ptr::from_ref(cx.waker().vtable()) as usize)
}

impl Mailbox {
    /// Of a call of this stack that asks for nothing yet.
    #[inline]
    pub(crate) fn new(stack: Stack) -> Self {
        let mut attempts = SPARE.take().unwrap_or_else(|| Attempts::new(stack));
        attempts.stack = stack;
        attempts.call = attempts.next_call();
        attempts.polled_by = (0, 0);
        Self(Some(attempts))
    }

    /// The call's own request as layers see it.
    #[inline(always)]
    pub(crate) fn request(
        &mut self,
        request: Request,
        extensions: &Extensions,
    ) -> Result<http::Request<reqwest::Body>, reqwest::Error> {
        let attempts = self.0.as_deref_mut().expect("it is lent to nobody");
        let mut request = attempts.kept.seen_by_layers(request, &mut attempts.first.request);
        if let Ok(request) = &mut request {
            extend(request, extensions);
        }
        request
    }

    /// Lends this mailbox to the innermost service of a stack, as long as the stack is called or polled.
    #[inline]
    pub(crate) fn lend(&mut self) -> Lent<'_> {
        if let Some(mut attempts) = self.0.take() {
            attempts.outer = replace_open(None);
            replace_open(Some(attempts));
        }
        Lent { mailbox: &mut self.0 }
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

    /// Hands on what an attempt is to send.
    #[inline(always)]
    pub(crate) fn send(&mut self, number: usize) -> Option<Request> {
        self.0.as_deref_mut()?.get(number).request.take()
    }

    /// Where the reply of an attempt goes; `answered` is to be told of it.
    #[inline]
    pub(crate) fn reply(&mut self, number: usize) -> Option<&mut Option<Reply>> {
        Some(&mut self.0.as_deref_mut()?.get(number).reply)
    }

    /// An attempt is over. The call is to be polled after that by whoever polls this: only others are woken.
    #[inline]
    pub(crate) fn answered(&mut self, number: usize) {
        let Some(attempts) = self.0.as_deref_mut() else { return };
        let Attempts { kept, first, more, .. } = attempts;
        let attempt = at(number, first, more);
        if let (Some(asked), Some(Ok(Ok(response)))) = (kept.asked(), &mut attempt.reply) {
            asked.note(response);
        }
        if attempt.stage == Stage::UnderWay {
            attempt.stage = Stage::Answered;
            if let Some(waker) = attempt.waker.take() {
                waker.wake();
            }
        } else {
            // Nobody waits for it any longer, as is yet to be said.
            attempt.reply = None;
        }
    }

    /// What the call asks for.
    pub(crate) fn asked(&self) -> Option<&Asked> {
        self.0.as_deref()?.kept.asked()
    }
}

impl Drop for Mailbox {
    #[inline]
    fn drop(&mut self) {
        let Some(mut attempts) = self.0.take() else { return };
        let first = &attempts.first;
        if first.stage != Stage::Free || first.request.is_some() || !attempts.more.is_empty() {
            attempts.end();
        }
        attempts.kept.end();
        attempts.news = false;
        // Without a thread's own data there is no next call either.
        let _ = SPARE.try_with(|spare| spare.set(Some(attempts)));
    }
}

impl Attempts {
    #[cold]
    fn new(stack: Stack) -> Box<Self> {
        let (call, kept, polled_by) = (some_calls(), Kept::default(), (0, 0));
        let (first, more) = (Attempt::default(), Vec::new());
        Box::new(Self { stack, call, outer: None, kept, news: false, polled_by, first, more })
    }

    #[inline]
    fn next_call(&self) -> u64 {
        if (self.call + 1) % CALLS_AT_ONCE == 0 { some_calls() } else { self.call + 1 }
    }

    #[inline]
    fn get(&mut self, number: usize) -> &mut Attempt {
        at(number, &mut self.first, &mut self.more)
    }

    fn find(&self, wanted: impl Fn(Stage) -> bool) -> Option<usize> {
        iter::once(&self.first).chain(&self.more).position(|attempt| wanted(attempt.stage))
    }

    /// Asks for an attempt that sends this, and says its number. The request is a blank one then.
    #[inline(always)]
    pub(crate) fn ask(&mut self, request: &mut http::Request<reqwest::Body>) -> usize {
        let number = if self.first.stage == Stage::Free { 0 } else { self.another() };
        let Self { kept, first, more, .. } = self;
        let attempt = at(number, first, more);
        attempt.stage = match kept.put_back(request, &mut attempt.request) {
            Ok(()) => Stage::Asked,
            Err(error) => {
                attempt.reply = Some(Ok(Err(error.into())));
                Stage::Answered
            }
        };
        self.news = true;
        number
    }

    /// A place that is free, besides the first.
    #[cold]
    fn another(&mut self) -> usize {
        self.find(|stage| stage == Stage::Free).unwrap_or_else(|| {
            self.more.push(Attempt::default());
            self.more.len()
        })
    }

    fn next(&mut self) -> Option<Job> {
        let Some(number) = self.find(|stage| matches!(stage, Stage::Asked | Stage::GivenUp)) else {
            self.news = false;
            return None;
        };
        let stage = &mut self.get(number).stage;
        if *stage == Stage::GivenUp {
            *stage = Stage::Free;
            return Some(Job::Drop(number));
        }
        *stage = Stage::UnderWay;
        Some(Job::Make(number))
    }

    /// How it stands with an attempt. If it is under way, whoever asks is woken, unless it is polled with the call anyway.
    #[inline(always)]
    pub(crate) fn standing(&mut self, number: usize, cx: &Context<'_>) -> Standing {
        let polled_by_call = self.polled_by == who(cx);
        let attempt = self.get(number);
        if attempt.stage == Stage::Answered {
            attempt.stage = Stage::Free;
            return Standing::Answered(attempt.reply.take());
        }
        Standing::UnderWay(if polled_by_call { None } else { attempt.wait(cx) })
    }

    /// Nobody waits for an attempt any longer. What is left of it may be anything, and is to be dropped elsewhere.
    pub(crate) fn give_up(&mut self, number: usize) -> impl Sized + use<> {
        let left = mem::take(self.get(number));
        if left.stage == Stage::UnderWay {
            self.get(number).stage = Stage::GivenUp;
            self.news = true;
        }
        left
    }

    #[cold]
    fn end(&mut self) {
        let first = mem::take(&mut self.first);
        let all = iter::once(first).chain(mem::take(&mut self.more));
        all.filter_map(|attempt| attempt.waker).for_each(Waker::wake);
    }
}

/// A mailbox takes numbers of calls by so many, so that calls seldom write what all threads share.
const CALLS_AT_ONCE: u64 = 1 << 16;

#[cold]
fn some_calls() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(CALLS_AT_ONCE, Relaxed)
}

#[inline]
fn at<'a>(number: usize, first: &'a mut Attempt, more: &'a mut [Attempt]) -> &'a mut Attempt {
    if number == 0 { first } else { &mut more[number - 1] }
}

impl Attempt {
    /// The waker that was there before.
    #[cold]
    fn wait(&mut self, cx: &Context<'_>) -> Option<Waker> {
        if self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            return None;
        }
        self.waker.replace(cx.waker().clone())
    }
}

/// Takes the mailbox back when it is dropped, also when the stack panics.
pub(crate) struct Lent<'a> {
    mailbox: &'a mut Option<Box<Attempts>>,
}

impl Drop for Lent<'_> {
    #[inline]
    fn drop(&mut self) {
        let mut attempts = replace_open(None);
        if let Some(outer) = attempts.as_mut().and_then(|attempts| attempts.outer.take()) {
            replace_open(Some(outer));
        }
        *self.mailbox = attempts;
    }
}

/// Of the call that this thread polls, out of reach for whatever is called before they are put back.
pub(crate) struct Open(Option<Box<Attempts>>);

impl Open {
    #[inline]
    pub(crate) fn take() -> Self {
        Self(replace_open(None))
    }

    /// Of the innermost call of those that this thread polls of which this is true.
    #[inline]
    pub(crate) fn find(&mut self, wanted: impl Fn(&Attempts) -> bool) -> Option<&mut Attempts> {
        let mut attempts = self.0.as_deref_mut()?;
        while !wanted(attempts) {
            attempts = attempts.outer.as_deref_mut()?;
        }
        Some(attempts)
    }
}

impl Drop for Open {
    #[inline]
    fn drop(&mut self) {
        if let Some(attempts) = self.0.take() {
            replace_open(Some(attempts));
        }
    }
}
