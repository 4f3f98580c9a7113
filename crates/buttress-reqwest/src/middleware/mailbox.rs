//! The way from the innermost service of a stack to the task that drives it, where both are the same task.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};
use std::{iter, mem, thread};

use buttress::BoxError;

/// The attempts of one call: with the task that made it, and while that polls the call, with the thread.
pub(crate) struct Mailbox {
    /// Of this call alone.
    call: u64,
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
    /// What was asked, or what is left of it.
    request: Option<http::Request<reqwest::Body>>,
    /// Of whoever waits for it, unless that is polled with the call anyway.
    waker: Option<Waker>,
}

#[derive(Default)]
enum Stage {
    /// The place is for another one.
    #[default]
    Free,
    Asked,
    UnderWay,
    GivenUp,
    Answered(Reply),
}

/// What the task that made the call has to do.
pub(crate) enum Job<'a> {
    /// An attempt with this number. The request is lent, since it is large.
    Make(usize, &'a mut http::Request<reqwest::Body>),
    /// Nobody waits for this one any longer.
    Drop(usize),
}

/// What became of an attempt; a panic is passed on to the service that asked.
pub(crate) type Reply = thread::Result<Result<reqwest::Response, BoxError>>;

/// An attempt that somebody waits for. Dropping it ends the attempt.
#[derive(Debug)]
pub(crate) struct Waiting {
    call: u64,
    number: usize,
    over: bool,
}

thread_local! {
    /// Of the call that this thread polls.
    static OPEN: RefCell<Option<Box<Mailbox>>> = const { RefCell::new(None) };
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
fn with_open<R>(call: Option<u64>, work: impl FnOnce(&mut Mailbox) -> R) -> Option<R> {
    let open = OPEN.try_with(|open| {
        let mut open = open.try_borrow_mut().ok()?;
        let mailbox = open.as_deref_mut()?;
        (call.is_none_or(|call| call == mailbox.call)).then(|| work(mailbox))
    });
    open.ok().flatten()
}

/// What a waker is: two that are alike wake the same task, as long as one of them lives.
fn who(cx: &Context<'_>) -> (usize, usize) {
    (cx.waker().data() as usize, std::ptr::from_ref(cx.waker().vtable()) as usize)
}

impl Mailbox {
    pub(crate) fn new() -> Box<Self> {
        let (first, more) = (Attempt::default(), Vec::new());
        Box::new(Self { call: number(), first, more, news: false, polled_by: (0, 0) })
    }

    fn get(&mut self, number: usize) -> &mut Attempt {
        if number == 0 { &mut self.first } else { &mut self.more[number - 1] }
    }

    fn find(&self, wanted: impl Fn(&Stage) -> bool) -> Option<usize> {
        iter::once(&self.first).chain(&self.more).position(|attempt| wanted(&attempt.stage))
    }

    fn ask(&mut self, request: &mut Option<http::Request<reqwest::Body>>) -> Waiting {
        let number = self.find(|stage| matches!(stage, Stage::Free)).unwrap_or_else(|| {
            self.more.push(Attempt::default());
            self.more.len()
        });
        let attempt = self.get(number);
        attempt.request = request.take();
        attempt.stage = Stage::Asked;
        self.news = true;
        Waiting { call: self.call, number, over: false }
    }

    /// What is to be done next.
    pub(crate) fn next(&mut self) -> Option<Job<'_>> {
        if !self.news {
            return None;
        }
        let Some(number) = self.find(|stage| matches!(stage, Stage::Asked | Stage::GivenUp)) else {
            self.news = false;
            return None;
        };
        let attempt = self.get(number);
        if let Stage::GivenUp = attempt.stage {
            attempt.stage = Stage::Free;
            return Some(Job::Drop(number));
        }
        attempt.stage = Stage::UnderWay;
        attempt.request.as_mut().map(|request| Job::Make(number, request))
    }

    /// An attempt is over. The call is to be polled after that by whoever polls this: only others are woken.
    pub(crate) fn answer(&mut self, number: usize, reply: Reply) {
        let attempt = self.get(number);
        if let Stage::UnderWay = attempt.stage {
            attempt.stage = Stage::Answered(reply);
            attempt.waker.take().into_iter().for_each(Waker::wake);
        }
    }

    /// Lends this mailbox to the innermost service of a stack, as long as the stack is called or polled.
    pub(crate) fn lend<'a>(mailbox: &'a mut Option<Box<Self>>, cx: &Context<'_>) -> Lent<'a> {
        if let Some(mailbox) = mailbox {
            mailbox.polled_by = who(cx);
        }
        let before = OPEN.replace(mailbox.take());
        Lent { mailbox, before }
    }
}

/// The call is over: whoever waits elsewhere hears of it.
impl Drop for Mailbox {
    fn drop(&mut self) {
        let all = iter::once(&mut self.first).chain(&mut self.more);
        all.filter_map(|attempt| attempt.waker.take()).for_each(Waker::wake);
    }
}

/// Takes the mailbox back when it is dropped, also when the stack panics.
pub(crate) struct Lent<'a> {
    mailbox: &'a mut Option<Box<Mailbox>>,
    /// Of the call within which this one is polled.
    before: Option<Box<Mailbox>>,
}

impl Drop for Lent<'_> {
    #[inline]
    fn drop(&mut self) {
        *self.mailbox = OPEN.replace(self.before.take());
    }
}

impl Waiting {
    /// Asks the task that polls this call for an attempt. `None` if no call is polled here.
    pub(crate) fn new(request: &mut Option<http::Request<reqwest::Body>>) -> Option<Self> {
        with_open(None, |mailbox| mailbox.ask(request))
    }

    /// `None` if it is another call that is polled here, or none.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Reply>> {
        let polled = with_open(Some(self.call), |mailbox| {
            let polled_by_call = mailbox.polled_by == who(cx);
            let attempt = mailbox.get(self.number);
            if let Stage::Answered(_) = attempt.stage {
                let Stage::Answered(reply) = mem::take(&mut attempt.stage) else { unreachable!() };
                return Poll::Ready(Some(reply));
            }
            if !polled_by_call && !attempt.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                attempt.waker = Some(cx.waker().clone());
            }
            Poll::Pending
        });
        let polled = polled.unwrap_or(Poll::Ready(None));
        self.over |= matches!(polled, Poll::Ready(Some(_)));
        polled
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        // What is left is dropped when nobody looks at the mailbox.
        let _left = with_open(Some(self.call), |mailbox| {
            let left = mem::take(mailbox.get(self.number));
            if let Stage::UnderWay = left.stage {
                mailbox.get(self.number).stage = Stage::GivenUp;
                mailbox.news = true;
            }
            left
        });
    }
}
