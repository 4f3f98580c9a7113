use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use buttress_core::Mode;

use crate::body::Body;
use crate::handle::{Command, Explanation, NoSuchRung, shortest};
use crate::incident::Happened;
use crate::ladder::Fit;

/// What an operator wants.
impl<S: Clone + Send + 'static> Body<S> {
    /// Does it. `Some` if that is the end.
    pub(crate) fn obey(&mut self, cx: &Context<'_>, now: u64) -> Option<Duration> {
        let shared = Arc::clone(&self.chart.shared);
        let commands = shared.receive(cx);
        let stop = shortest(&commands);
        for command in commands {
            match command {
                Command::Stop(_) => {}
                Command::Pause(paused) => {
                    self.seen.paused = paused;
                    let what = if paused { "paused" } else { "resumed" };
                    self.chart.note(now, Happened::Operator(what.into()));
                }
                Command::ModeChanged => self.change_mode(),
                Command::Force(rung, answer) => {
                    let found = self.state.ladder().find(&rung);
                    if let Some(rung) = found {
                        self.state.force(rung);
                    }
                    let no_such_rung = || NoSuchRung { asked: rung, known: self.state.ladder().names() };
                    // Whoever has asked may have gone.
                    let _ = answer.send(found.map(drop).ok_or_else(no_such_rung));
                }
                Command::Explain(answer) => drop(answer.send(self.explain(now))),
            }
        }
        stop
    }

    pub(crate) fn change_mode(&mut self) {
        self.chart.silent = self.mode() != Mode::Enforce;
        if let Some(group) = self.siblings.as_ref().filter(|_| self.chart.silent) {
            group.member.well();
        }
        if self.mode() == Mode::Off {
            self.rounds.stop();
            self.reassess();
        }
    }

    fn explain(&mut self, now: u64) -> Explanation {
        self.show("an operator asks");
        let rungs = self.state.ladder().explain(now, &self.seen.failing, self.is_held());
        let ready = rungs.iter().find(|(_, fit)| *fit == Fit::Runs);
        let next = ready.filter(|_| !self.seen.failing.is_empty()).map(|(name, _)| Arc::clone(name));
        Explanation { status: self.chart.shared.status(), next, rungs }
    }
}
