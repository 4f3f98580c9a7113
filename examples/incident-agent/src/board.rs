//! What is so right now: a row for each dependency and one for the steps, below the lines, where there is a terminal.

use std::fmt::Write;
use std::sync::{Mutex, PoisonError};

use buttress::core::observe::{CallResult, CircuitState};
use buttress::core::{Event, Observe};
use buttress::degrade::Component;
use indicatif::{ProgressBar, ProgressStyle};

use crate::console::{Console, Tone};
use crate::steps::{Name, Status};
use crate::timeline::What;
use crate::vendors::Vendor;

/// The rows.
#[derive(Debug)]
pub(crate) struct Board {
    console: Console,
    state: Mutex<State>,
    /// One for each dependency, and one for the steps.
    bars: Vec<ProgressBar>,
}

#[derive(Debug, Default)]
struct State {
    /// In the order of [`Vendor::ALL`].
    rows: [Row; Vendor::ALL.len()],
    steps: Vec<(Name, Option<Status>)>,
}

#[derive(Debug)]
struct Row {
    circuit: CircuitState,
    retries: u64,
    spared: u64,
    generation: u64,
    component: Option<Component>,
}

impl Default for Row {
    fn default() -> Self {
        Self { circuit: CircuitState::Closed, retries: 0, spared: 0, generation: 1, component: None }
    }
}

impl Board {
    /// Rows for these components, in the order of [`Vendor::ALL`]; `None` where nobody would see them.
    pub(crate) fn new(console: &Console, components: &[Component]) -> Option<Self> {
        let rows = console.rows()?;
        let style = ProgressStyle::with_template("{msg}").ok()?;
        let bar = |_| rows.add(ProgressBar::new_spinner().with_style(style.clone()));
        let bars = (0..=Vendor::ALL.len()).map(bar).collect();
        let mut state = State::default();
        for (row, component) in state.rows.iter_mut().zip(components) {
            row.component = Some(component.clone());
        }
        let board = Self { console: console.clone(), state: Mutex::new(state), bars };
        board.change(|_| ());
        Some(board)
    }

    /// Something happened that the rows show.
    pub(crate) fn show(&self, what: &What) {
        self.change(|state| match what {
            What::Circuit(vendor, to) => state.rows[*vendor as usize].circuit = *to,
            What::Generation(vendor, generation) => state.rows[*vendor as usize].generation = *generation,
            What::Began(name) => state.step(*name, None),
            What::Ended(name, status) => state.step(*name, Some(*status)),
            What::Skipped(name) => state.step(*name, Some(Status::Done)),
            What::Answer(..) | What::Spared(_) | What::Level(_) => {}
        });
    }

    /// The rows go away.
    pub(crate) fn clear(&self) {
        self.bars.iter().for_each(ProgressBar::finish_and_clear);
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        for (vendor, (row, bar)) in Vendor::ALL.into_iter().zip(state.rows.iter().zip(&self.bars)) {
            say(bar, self.row(vendor, row));
        }
        if let Some(bar) = self.bars.last() {
            say(bar, self.steps(&state.steps));
        }
    }

    fn row(&self, vendor: Vendor, row: &Row) -> String {
        let tone = match row.circuit {
            CircuitState::Closed => Tone::Good,
            CircuitState::Open | CircuitState::Isolated => Tone::Bad,
            CircuitState::HalfOpen => Tone::Waiting,
        };
        let circuit = self.console.paint(tone, &format!("{:<9}", row.circuit.as_str()));
        let level = row.component.as_ref().map_or(0, |component| component.level().as_u8());
        let tone = [Tone::Good, Tone::Waiting, Tone::Waiting, Tone::Bad, Tone::Bad][usize::from(level)];
        let level = self.console.paint(tone, &format!("level {level}"));
        format!(
            "  {:<9}  circuit {circuit}  {level}  retries {:>2}  spared {:>2}  generation {}",
            vendor.as_str(),
            row.retries,
            row.spared,
            row.generation
        )
    }

    fn steps(&self, steps: &[(Name, Option<Status>)]) -> String {
        let mut line = String::from("  steps    ");
        for name in &Name::ALL {
            let known = steps.iter().find(|(step, _)| step == name).map(|(_, status)| *status);
            // Nobody hopes for it.
            if known.is_none() && *name == Name::Escalate {
                continue;
            }
            let (sign, tone) = match known {
                None => ("·", Tone::Plain),
                Some(None) => ("▶", Tone::Heading),
                Some(Some(Status::Done)) => ("✓", Tone::Good),
                Some(Some(Status::Degraded)) => ("~", Tone::Waiting),
                Some(Some(Status::Failed)) => ("✗", Tone::Bad),
                Some(Some(Status::Skipped)) => ("-", Tone::Plain),
            };
            let _ = write!(line, "  {}", self.console.paint(tone, &format!("{sign} {}", name.as_str())));
        }
        line
    }
}

/// What stays the same is not drawn anew.
fn say(bar: &ProgressBar, text: String) {
    if bar.message() != text {
        bar.set_message(text);
    }
}

impl State {
    fn step(&mut self, name: Name, status: Option<Status>) {
        match self.steps.iter_mut().find(|(step, _)| *step == name) {
            Some((_, known)) => *known = status,
            None => self.steps.push((name, status)),
        }
    }
}

impl Observe for Board {
    fn event(&self, service: &str, event: &Event) {
        let Some(vendor) = Vendor::named(service) else { return };
        self.change(|state| {
            let row = &mut state.rows[vendor as usize];
            match event {
                Event::Backoff { .. } => row.retries += 1,
                Event::Call(CallResult::Refused) => row.spared += 1,
                _ => {}
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use buttress::core::Kind;
    use std::time::Duration;

    #[test]
    fn the_rows_say_how_each_dependency_is_and_which_steps_are_done() {
        let board = Board::new(&Console::silent().with_rows(), &[]).unwrap();
        let aws = |event| board.event("aws", &event);
        aws(Event::Backoff { retry: 1, delay: Duration::ZERO, kind: Kind::Transient, hint: None });
        aws(Event::Call(CallResult::Refused));
        board.show(&What::Circuit(Vendor::Aws, CircuitState::Open));
        board.show(&What::Generation(Vendor::Datadog, 2));
        board.show(&What::Ended(Name::Gather, Status::Degraded));
        board.show(&What::Skipped(Name::Analyse));
        board.show(&What::Began(Name::Restart));
        let said: Vec<String> = board.bars.iter().map(ProgressBar::message).collect();
        assert_eq!(said[0], "  datadog    circuit closed     level 0  retries  0  spared  0  generation 2");
        assert_eq!(said[1], "  aws        circuit open       level 0  retries  1  spared  1  generation 1");
        assert!(
            said[4].starts_with("  steps      ~ gather  ✓ analyse  ▶ restart  · clear_cache  "),
            "{}",
            said[4]
        );
    }

    #[test]
    fn where_there_is_no_terminal_there_are_no_rows() {
        assert!(Board::new(&Console::silent(), &[]).is_none());
    }
}
