//! The simulated server and the network before it.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, VecDeque};
use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use buttress_core::clock::nanos;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tower::Service;

use crate::draw::Draw;
use crate::tally::Series;

/// What is wrong with the server while something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Everything is answered with an error at once.
    Reject,
    /// No work is begun; what arrives waits.
    Stall,
    /// Three workers out of ten.
    Brownout,
}

/// A server with one queue, and what happens to it. Times count from the start of the simulation.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many requests are worked on at once.
    pub workers: usize,
    /// The mean of the exponential time that one takes.
    pub service: Duration,
    /// How many wait at most; what comes on top is answered with an error at once.
    pub queue: usize,
    /// What goes wrong.
    pub trouble: Trouble,
    /// When.
    pub during: Range<Duration>,
}

/// The server's one error.
#[derive(Debug)]
pub struct Overloaded;

impl fmt::Display for Overloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the server takes no more requests")
    }
}

impl std::error::Error for Overloaded {}

/// A server; clones are the same one.
///
/// It keeps its events exactly in a queue of its own and is driven millisecond by millisecond, which is as exact as
/// tokio's timer: only what reaches a client is rounded up to the next one.
#[derive(Clone, Debug)]
pub struct Server {
    start: Instant,
    world: Arc<Mutex<World>>,
}

impl Server {
    /// A server that begins now.
    pub fn start(plan: Plan, seed: u64) -> Self {
        Self { start: Instant::now(), world: Arc::new(Mutex::new(World::new(plan, seed))) }
    }

    /// Lives through everything up to the present moment.
    pub fn advance(&self) {
        let now = nanos(self.start.elapsed());
        self.world().advance(now);
    }

    /// Requests that clients have sent so far.
    pub fn attempts(&self) -> Series {
        self.world().attempts.clone()
    }

    /// Work that was done so far, and the part of it whose caller had gone.
    pub fn work(&self) -> (Duration, Duration) {
        let world = self.world();
        (world.work, world.wasted)
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("the server does not panic")
    }
}

impl Service<()> for Server {
    type Response = ();
    type Error = Overloaded;
    type Future = Reply;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Overloaded>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Reply {
        let now = nanos(self.start.elapsed());
        Reply(self.world().send(now))
    }
}

/// The answer, on its way. Dropping it is giving up, which the server does not notice.
#[derive(Debug)]
pub struct Reply(oneshot::Receiver<Result<(), Overloaded>>);

impl Future for Reply {
    type Output = Result<(), Overloaded>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|reply| reply.unwrap_or(Err(Overloaded)))
    }
}

type Caller = oneshot::Sender<Result<(), Overloaded>>;

#[derive(Debug)]
enum What {
    Arrives(Caller),
    IsDone(Caller, Duration),
    IsAnswered(Caller, Result<(), Overloaded>),
    TroubleEnds,
}

#[derive(Debug)]
struct Event {
    at: u64,
    /// Keeps events of the same moment in order.
    number: u64,
    what: What,
}

#[derive(Debug)]
struct World {
    plan: Plan,
    draw: Draw,
    events: BinaryHeap<Event>,
    numbered: u64,
    queue: VecDeque<Caller>,
    busy: usize,
    attempts: Series,
    work: Duration,
    wasted: Duration,
}

impl World {
    fn new(plan: Plan, seed: u64) -> Self {
        let end = nanos(plan.during.end);
        let mut world = Self {
            plan,
            draw: Draw::seeded(seed),
            events: BinaryHeap::new(),
            numbered: 0,
            queue: VecDeque::new(),
            busy: 0,
            attempts: Series::default(),
            work: Duration::ZERO,
            wasted: Duration::ZERO,
        };
        world.schedule(end, What::TroubleEnds);
        world
    }

    fn send(&mut self, now: u64) -> oneshot::Receiver<Result<(), Overloaded>> {
        let (caller, receiver) = oneshot::channel();
        self.attempts.count(now);
        let arrival = now + self.hop();
        self.schedule(arrival, What::Arrives(caller));
        receiver
    }

    fn advance(&mut self, now: u64) {
        while self.events.peek().is_some_and(|event| event.at <= now) {
            let Some(Event { at, what, .. }) = self.events.pop() else { return };
            match what {
                What::Arrives(caller) => self.arrives(at, caller),
                What::IsDone(caller, took) => {
                    self.busy -= 1;
                    self.work += took;
                    self.wasted += if caller.is_closed() { took } else { Duration::ZERO };
                    self.answer(at, caller, Ok(()));
                }
                // Whoever has given up does not hear it.
                What::IsAnswered(caller, answer) => drop(caller.send(answer)),
                What::TroubleEnds => {}
            }
            self.work_on(at);
        }
    }

    fn arrives(&mut self, at: u64, caller: Caller) {
        let rejects = self.trouble(at) == Some(Trouble::Reject);
        if rejects || self.queue.len() >= self.plan.queue && self.busy >= self.workers(at) {
            self.answer(at, caller, Err(Overloaded));
        } else {
            self.queue.push_back(caller);
        }
    }

    fn work_on(&mut self, at: u64) {
        while self.busy < self.workers(at) {
            let Some(caller) = self.queue.pop_front() else { return };
            self.busy += 1;
            let takes = self.draw.exponential(self.plan.service);
            self.schedule(at + nanos(takes), What::IsDone(caller, takes));
        }
    }

    fn answer(&mut self, at: u64, caller: Caller, answer: Result<(), Overloaded>) {
        let arrival = at + self.hop();
        self.schedule(arrival, What::IsAnswered(caller, answer));
    }

    /// One way over the network.
    fn hop(&mut self) -> u64 {
        nanos(Duration::from_millis(4) + self.draw.exponential(Duration::from_millis(1)))
    }

    fn trouble(&self, at: u64) -> Option<Trouble> {
        self.plan.during.contains(&Duration::from_nanos(at)).then_some(self.plan.trouble)
    }

    fn workers(&self, at: u64) -> usize {
        match self.trouble(at) {
            Some(Trouble::Stall) => 0,
            Some(Trouble::Brownout) => self.plan.workers * 3 / 10,
            Some(Trouble::Reject) | None => self.plan.workers,
        }
    }

    fn schedule(&mut self, at: u64, what: What) {
        self.numbered += 1;
        self.events.push(Event { at, number: self.numbered, what });
    }
}

impl Ord for Event {
    /// The earliest is the greatest, for the heap.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Event {}
