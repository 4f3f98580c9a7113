//! What an operation of the code means, given what is recorded: without async, lock or clock.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use buttress_store::Entry;

use crate::entry::{self, Body, Kind};
use crate::error::{Mismatch, StepId, StepKind};

/// A journal, and how far the code has come in it.
///
/// The rule: recorded results are handed over one at a time, **in the order in which they were recorded**, and nothing new
/// begins before they all are. Code that does the same things after the same results then builds the same operations in
/// the same order, also with `join!` and `select!`, and each can be compared with the record of its number. Results of
/// operations that are new are handed over by the same rule, so that the next replay sees what this one saw.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    recorded: HashMap<u32, Recorded>,
    /// Where each (name, occurrence) is recorded, to tell what was moved.
    places: HashMap<(Arc<str>, u32), u32>,
    /// What is to be handed over, in order.
    queue: VecDeque<Delivery>,
    /// How many of the queue were there when the run was loaded.
    old: usize,
    occurrences: HashMap<Arc<str>, u32>,
    next: u32,
    /// The number after the last recorded one.
    end: u32,
    patches: HashMap<Arc<str>, bool>,
    pub(crate) unwind: Option<Body>,
    /// How often the code has panicked since something else was recorded, or since an operator was told.
    pub(crate) panics: u32,
    pub(crate) compensated: HashSet<(Arc<str>, u32)>,
    /// The failed attempts at undoing a step, and when the next one is due.
    pub(crate) undoing: HashMap<(Arc<str>, u32), Marks>,
}

#[derive(Debug)]
struct Recorded {
    id: StepId,
    input: Option<String>,
    winner: Option<u32>,
    marks: Marks,
}

/// What is recorded of an operation that has no result yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    /// It has begun, and it is not known how that ended.
    pub(crate) started: bool,
    /// So many attempts have failed.
    pub(crate) attempts: u32,
    /// When it goes on, on the store's clock.
    pub(crate) until: Option<SystemTime>,
}

/// A result that is handed over to the operation with this number.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) ordinal: u32,
    pub(crate) body: Body,
    /// Its place among all that were recorded before the run was loaded.
    pub(crate) at: u64,
    /// It was recorded before the run was loaded.
    pub(crate) old: bool,
}

/// What building an operation came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Built {
    pub(crate) id: StepId,
    pub(crate) marks: Marks,
    pub(crate) winner: Option<u32>,
}

/// Whether the code after a patch is the new one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Patched {
    Known(bool),
    /// It is, and that is to be recorded.
    New(StepId),
    /// It is, and that is recorded and handed over like a result.
    Recorded(StepId),
}

impl Replay {
    pub(crate) fn new(entries: &[Entry]) -> Result<Self, Mismatch> {
        let mut replay = Self::default();
        for entry in entries {
            let (kind, body) = entry::read(entry)?;
            replay.record(kind, body, entry);
        }
        replay.old = replay.queue.len();
        Ok(replay)
    }

    fn record(&mut self, kind: Kind, body: Body, entry: &Entry) {
        let (name, occurrence, ordinal) = (entry.entry.name.clone(), entry.entry.occurrence, body.n);
        self.panics = if kind == Kind::Panicked && body.wait.is_some() { body.attempt } else { 0 };
        let Some(operation) = kind.operation() else {
            match kind {
                Kind::Unwind => self.unwind = Some(body),
                Kind::Compensated => drop(self.compensated.insert((name, occurrence))),
                Kind::NotUndone => {
                    let marks =
                        Marks { attempts: body.attempt, until: wake(entry.at, &body), started: false };
                    self.undoing.insert((name, occurrence), marks);
                }
                _ => {}
            }
            return;
        };
        self.end = self.end.max(ordinal + 1);
        self.places.insert((name.clone(), occurrence), ordinal);
        let id = StepId { kind: operation, name, occurrence, ordinal };
        let recorded = self.recorded.entry(ordinal).or_insert_with(|| Recorded {
            id,
            input: None,
            winner: None,
            marks: Marks::default(),
        });
        recorded.input = recorded.input.take().or_else(|| body.input.clone());
        let marks = &mut recorded.marks;
        match kind {
            Kind::Started => (marks.started, marks.until) = (true, None),
            Kind::Attempt => {
                let (started, attempts) = (body.unknown, body.attempt);
                *marks = Marks { started, attempts, until: wake(entry.at, &body) };
            }
            Kind::Sleep => marks.until = wake(entry.at, &body),
            Kind::Race => recorded.winner = body.winner,
            _ => {}
        }
        if kind.is_delivered() {
            let at = self.queue.len() as u64;
            self.queue.push_back(Delivery { ordinal, body, at, old: true });
        }
    }

    /// The next operation of the code.
    pub(crate) fn build(&mut self, kind: StepKind, name: &Arc<str>) -> Result<Built, Mismatch> {
        if kind != StepKind::Patch {
            // What the code no longer asks for.
            while self.recorded.get(&self.next).is_some_and(|recorded| recorded.id.kind == StepKind::Patch) {
                self.next += 1;
            }
        }
        let nth = self.occurrences.entry(name.clone()).or_insert(0);
        let id = StepId { kind, name: name.clone(), occurrence: *nth, ordinal: self.next };
        *nth += 1;
        self.next += 1;
        let Some(recorded) = self.recorded.get(&id.ordinal) else {
            return match self.places.get(&(name.clone(), id.occurrence)) {
                Some(elsewhere) => Err(unexpected(id, self.recorded[elsewhere].id.clone())),
                None => Ok(Built { id, marks: Marks::default(), winner: None }),
            };
        };
        if recorded.id != id {
            return Err(unexpected(id, recorded.id.clone()));
        }
        Ok(Built { id, marks: recorded.marks.clone(), winner: recorded.winner })
    }

    /// An input that was recorded must be the same; one that is given only now, or no longer, says nothing.
    pub(crate) fn check_input(&self, id: &StepId, input: &str) -> Result<(), Mismatch> {
        let recorded = self.recorded.get(&id.ordinal).and_then(|recorded| recorded.input.as_deref());
        if recorded.is_none_or(|recorded| recorded == input) {
            return Ok(());
        }
        Err(Mismatch::InputChanged { step: id.clone() })
    }

    /// Whether the code is the patched one from here on: what has been recorded beyond this point was recorded without it.
    pub(crate) fn patched(&mut self, id: &Arc<str>) -> Result<Patched, Mismatch> {
        if let Some(known) = self.patches.get(id) {
            return Ok(Patched::Known(*known));
        }
        let patches = (self.next..).map_while(|next| {
            self.recorded.get(&next).filter(|recorded| recorded.id.kind == StepKind::Patch)
        });
        let place = patches.zip(self.next..).find(|(recorded, _)| recorded.id.name == *id);
        let recorded = place.is_some();
        if let Some((_, place)) = place {
            // Those before it are no longer asked for.
            self.next = place;
        }
        if !recorded && self.next < self.end {
            self.patches.insert(id.clone(), false);
            return Ok(Patched::Known(false));
        }
        let built = self.build(StepKind::Patch, id)?;
        self.patches.insert(id.clone(), true);
        Ok(if recorded { Patched::Recorded(built.id) } else { Patched::New(built.id) })
    }

    /// What is handed over next.
    pub(crate) fn head(&self) -> Option<&Delivery> {
        self.queue.front()
    }

    /// Takes what is handed over next, if it is for this operation.
    pub(crate) fn take(&mut self, ordinal: u32) -> Option<Delivery> {
        if self.queue.front()?.ordinal != ordinal {
            return None;
        }
        self.pop()
    }

    pub(crate) fn pop(&mut self) -> Option<Delivery> {
        let delivery = self.queue.pop_front()?;
        self.old -= usize::from(delivery.old);
        Some(delivery)
    }

    /// A result was recorded.
    pub(crate) fn push(&mut self, ordinal: u32, body: Body) {
        self.queue.push_back(Delivery { ordinal, body, at: 0, old: false });
    }

    /// How many results were recorded before the run was loaded.
    pub(crate) fn recorded_results(&self) -> u64 {
        self.old as u64
    }

    /// The result of an operation that is still to be handed over.
    pub(crate) fn result_of(&self, ordinal: u32) -> Option<&Delivery> {
        self.queue.iter().find(|delivery| delivery.ordinal == ordinal && delivery.old)
    }

    /// Whether everything that was recorded has been handed over.
    pub(crate) fn is_live(&self) -> bool {
        self.old == 0
    }

    /// How many operations the code has built.
    pub(crate) fn built(&self) -> u32 {
        self.next
    }

    /// Whether the code has built the operation with this number.
    pub(crate) fn is_built(&self, ordinal: u32) -> bool {
        ordinal < self.next
    }

    /// How often the code has built an operation of this name.
    pub(crate) fn occurrences(&self, name: &str) -> u32 {
        self.occurrences.get(name).copied().unwrap_or(0)
    }

    /// The code does not get to what is handed over next.
    pub(crate) fn stuck(&self, expected: Option<StepId>) -> Option<Mismatch> {
        let recorded = self.recorded.get(&self.head()?.ordinal)?.id.clone();
        Some(Mismatch::UnexpectedStep { expected, recorded })
    }

    /// The code has ended: everything that is recorded must have been built.
    pub(crate) fn finish(&self) -> Result<(), Mismatch> {
        let missing = self
            .recorded
            .values()
            .filter(|recorded| !self.is_built(recorded.id.ordinal) && recorded.id.kind != StepKind::Patch);
        match missing.min_by_key(|recorded| recorded.id.ordinal) {
            Some(recorded) => Err(Mismatch::UnexpectedStep { expected: None, recorded: recorded.id.clone() }),
            None => Ok(()),
        }
    }
}

fn unexpected(expected: StepId, recorded: StepId) -> Mismatch {
    Mismatch::UnexpectedStep { expected: Some(expected), recorded }
}

/// When an entry that was stored at this time lets its operation go on.
pub(crate) fn wake(at: SystemTime, body: &Body) -> Option<SystemTime> {
    let until = body.until.map(|until| (UNIX_EPOCH, until));
    let (from, micros) = until.or(body.wait.map(|wait| (at, wait)))?;
    from.checked_add(Duration::from_micros(micros))
}

#[cfg(test)]
mod tests;
