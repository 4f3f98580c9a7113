//! Lines for people, and a bar while something goes on, where there is a terminal.

use std::io::{IsTerminal, Write, stderr, stdout};
use std::sync::{Mutex, MutexGuard, PoisonError};

use indicatif::{ProgressBar, ProgressStyle};

/// Where lines go: to standard output, or, where that is for a report, to standard error.
#[derive(Debug)]
pub(crate) struct Console {
    to_stderr: bool,
    bar: Mutex<Option<ProgressBar>>,
}

impl Console {
    pub(crate) fn new(to_stderr: bool) -> Self {
        Self { to_stderr, bar: Mutex::default() }
    }

    fn bar(&self) -> MutexGuard<'_, Option<ProgressBar>> {
        self.bar.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Prints one line. Nobody who listens is no reason to stop.
    pub(crate) fn line(&self, text: &str) {
        let print = || {
            let _ = if self.to_stderr { writeln!(stderr(), "{text}") } else { writeln!(stdout(), "{text}") };
        };
        match &*self.bar() {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    /// So many steps begin.
    pub(crate) fn begin(&self, steps: usize) {
        if !stderr().is_terminal() {
            return;
        }
        let bar = ProgressBar::new(u64::try_from(steps).unwrap_or(u64::MAX));
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(std::time::Duration::from_millis(100));
        *self.bar() = Some(bar);
    }

    /// This step begins.
    pub(crate) fn step(&self, name: &str) {
        if let Some(bar) = &*self.bar() {
            bar.set_message(name.to_owned());
        }
    }

    /// The step has ended.
    pub(crate) fn done(&self) {
        if let Some(bar) = &*self.bar() {
            bar.inc(1);
        }
    }

    /// Nothing goes on any more.
    pub(crate) fn end(&self) {
        if let Some(bar) = self.bar().take() {
            bar.finish_and_clear();
        }
    }
}
