//! The way from the innermost service of a stack to the task that drives it, where both are the same task.

use std::cell::Cell;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};
use std::{iter, mem, thread};

use buttress::core::Judged;
use buttress::{BoxError, Verdict};
use http::{Extensions, Uri};
use reqwest::Url;

use super::answer::InPlaceBody;
use super::asked::{self, Asked};
use super::error::{Detached, from_middleware};
use super::extend;

/// The attempts of one call: with the task that made it, and while that polls the call, with the thread. Dropping it ends
/// the call: whoever waits elsewhere hears of it.
pub(crate) struct Mailbox(Option<Box<Attempts>>);

struct Attempts {
    /// Of this call alone.
    call: u64,
    /// What the call asks for, or the one before it did: mostly they ask for the same.
    asked: Option<Asked>,
    /// Of that, as long as it is not in a request.
    uri: Option<Uri>,
    /// The call's own, for its first attempt.
    url: Option<Url>,
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
    /// What it is to send, as long as it is only asked for; else a blank one.
    request: http::Request<reqwest::Body>,
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

/// An attempt that somebody waits for. Dropping it ends the attempt.
#[derive(Debug)]
pub(crate) struct Waiting {
    call: u64,
    number: usize,
    over: bool,
}

thread_local! {
    /// Of the call that this thread polls.
    static OPEN: Cell<Option<Box<Attempts>>> = const { Cell::new(None) };
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

/// What a waker is: two that are alike wake the same task, as long as one of them lives.
fn who(cx: &Context<'_>) -> (usize, usize) {
    (cx.waker().data() as usize, std::ptr::from_ref(cx.waker().vtable()) as usize)
}

impl Mailbox {
    /// Of a call that asks for this.
    #[inline]
    pub(crate) fn new(
        mut request: reqwest::Request,
        extensions: &Extensions,
    ) -> Result<Self, reqwest::Error> {
        let mut attempts = SPARE.take().unwrap_or_else(Attempts::new);
        let uri = attempts.uri.take();
        match (uri, &attempts.asked) {
            (Some(uri), Some(asked)) if asked.is_for(request.url()) => {
                // What is known needs not be parsed.
                attempts.url = Some(mem::replace(request.url_mut(), asked::nowhere()));
                attempts.first.set(http::Request::try_from(request)?);
                *attempts.first.request.uri_mut() = uri;
            }
            _ => {
                attempts.asked = Some(Asked::new(request.url().clone()));
                attempts.first.set(http::Request::try_from(request)?);
            }
        }
        extend(&mut attempts.first.request, extensions);
        attempts.call = number();
        attempts.polled_by = (0, 0);
        Ok(Self(Some(attempts)))
    }

    /// The call's own request, before the stack is called.
    #[inline]
    pub(crate) fn request(&mut self) -> http::Request<reqwest::Body> {
        match &mut self.0 {
            Some(attempts) => {
                attempts.first.stage = Stage::Free;
                mem::take(&mut attempts.first.request)
            }
            None => http::Request::default(),
        }
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

    /// Hands on what an attempt is to send, if it can be made.
    #[inline]
    pub(crate) fn send<T>(
        &mut self,
        number: usize,
        send: impl FnOnce(reqwest::Request) -> T,
    ) -> Option<Result<T, reqwest::Error>> {
        let attempts = self.0.as_deref_mut()?;
        let Attempts { asked: Some(asked), uri, url, first, more, .. } = attempts else { return None };
        let request = &mut at(number, first, more).request;
        if asked.is_of(request) {
            *uri = Some(mem::take(request.uri_mut()));
            let url = url.take().unwrap_or_else(|| asked.url().clone());
            return Some(Ok(send(asked::to_reqwest(request, url))));
        }
        Some(asked.converted(mem::take(request)).map(send))
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
        let Attempts { asked: Some(asked), first, more, .. } = attempts else { return };
        let attempt = at(number, first, more);
        if let Some(Ok(Ok(response))) = &mut attempt.reply {
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
        self.0.as_deref()?.asked.as_ref()
    }
}

impl Drop for Mailbox {
    #[inline]
    fn drop(&mut self) {
        let Some(mut attempts) = self.0.take() else { return };
        attempts.url = None;
        if attempts.first.stage != Stage::Free || !attempts.more.is_empty() {
            attempts.end();
        }
        attempts.news = false;
        // Without a thread's own data there is no next call either.
        let _ = SPARE.try_with(|spare| spare.set(Some(attempts)));
    }
}

impl Attempts {
    #[cold]
    fn new() -> Box<Self> {
        let (first, more) = (Attempt::default(), Vec::new());
        let (asked, uri, url) = (None, None, None);
        Box::new(Self { call: 0, asked, uri, url, news: false, polled_by: (0, 0), first, more })
    }

    #[inline]
    fn get(&mut self, number: usize) -> &mut Attempt {
        at(number, &mut self.first, &mut self.more)
    }

    fn find(&self, wanted: impl Fn(Stage) -> bool) -> Option<usize> {
        iter::once(&self.first).chain(&self.more).position(|attempt| wanted(attempt.stage))
    }

    #[inline(always)]
    fn ask(&mut self, request: http::Request<reqwest::Body>) -> Waiting {
        let number = if self.first.stage == Stage::Free { 0 } else { self.another() };
        self.get(number).set(request);
        self.news = true;
        Waiting { call: self.call, number, over: false }
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

    #[cold]
    fn end(&mut self) {
        let first = mem::take(&mut self.first);
        let all = iter::once(first).chain(mem::take(&mut self.more));
        all.filter_map(|attempt| attempt.waker).for_each(Waker::wake);
    }
}

#[inline]
fn at<'a>(number: usize, first: &'a mut Attempt, more: &'a mut [Attempt]) -> &'a mut Attempt {
    if number == 0 { first } else { &mut more[number - 1] }
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

/// Of the call that this thread polls, out of reach for whatever is called before they are put back.
struct Open(Option<Box<Attempts>>);

impl Open {
    #[inline]
    fn take() -> Self {
        Self(OPEN.try_with(Cell::take).ok().flatten())
    }

    /// Of this call.
    #[inline]
    fn of(&mut self, call: u64) -> Option<&mut Attempts> {
        self.0.as_deref_mut().filter(|attempts| attempts.call == call)
    }
}

impl Drop for Open {
    #[inline]
    fn drop(&mut self) {
        if let Some(attempts) = self.0.take() {
            OPEN.set(Some(attempts));
        }
    }
}

impl Waiting {
    /// Asks the task that polls this call for an attempt. `None` if no call is polled here.
    #[inline(always)]
    pub(crate) fn new(request: http::Request<reqwest::Body>) -> Option<Self> {
        let mut open = Open::take();
        Some(open.0.as_deref_mut()?.ask(request))
    }

    /// Fails if it is another call that is polled here, or none.
    #[inline]
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<http::Response<InPlaceBody>, BoxError>> {
        let mut open = Open::take();
        // Of one that is over, the place may be another one's by now.
        let Some(attempts) = open.of(self.call).filter(|_| !self.over) else {
            return Poll::Ready(Err(detached()));
        };
        let polled_by_call = attempts.polled_by == who(cx);
        let attempt = attempts.get(self.number);
        if attempt.stage == Stage::Answered {
            attempt.stage = Stage::Free;
            self.over = true;
            return Poll::Ready(match attempt.reply.take() {
                Some(Ok(Ok(response))) => Ok(InPlaceBody::of(response)),
                reply => Err(failed(reply)),
            });
        }
        let before = if polled_by_call { None } else { attempt.wait(cx) };
        // What a waker owns may be anything, which may look for the call.
        drop(open);
        drop(before);
        Poll::Pending
    }

    #[cold]
    fn give_up(&mut self) {
        let mut open = Open::take();
        let Some(attempts) = open.of(self.call) else { return };
        let left = mem::take(attempts.get(self.number));
        if left.stage == Stage::UnderWay {
            attempts.get(self.number).stage = Stage::GivenUp;
            attempts.news = true;
        }
        // What is left may be anything, which may look for the call.
        drop(open);
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

/// What a service says whose call is not polled where it asks.
#[cold]
pub(crate) fn detached() -> BoxError {
    Judged::new(Verdict::Ignored, Detached::new()).into()
}

/// What the service that asked says of an attempt that has not become a response.
#[cold]
fn failed(reply: Option<Reply>) -> BoxError {
    match reply {
        Some(Ok(Err(error))) => from_middleware(error),
        Some(Err(panic)) => resume_unwind(panic),
        _ => unreachable!("it was answered"),
    }
}

impl Attempt {
    /// To be called where it is free.
    #[inline(always)]
    fn set(&mut self, request: http::Request<reqwest::Body>) {
        // A blank one owns nothing, and whoever drops it has to find that out.
        mem::forget(mem::replace(&mut self.request, request));
        self.stage = Stage::Asked;
    }

    /// The waker that was there before.
    #[cold]
    fn wait(&mut self, cx: &Context<'_>) -> Option<Waker> {
        if self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            return None;
        }
        self.waker.replace(cx.waker().clone())
    }
}
