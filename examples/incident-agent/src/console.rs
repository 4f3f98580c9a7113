//! Lines for people, in colour where there is a terminal.

use std::io::{IsTerminal, Write, stderr, stdout};

use indicatif::{MultiProgress, ProgressDrawTarget};

/// Where the lines go.
#[derive(Clone, Debug)]
pub(crate) struct Console {
    stream: Stream,
    colour: bool,
    /// Rows that stay below the lines, where there is a terminal.
    rows: Option<MultiProgress>,
}

#[derive(Clone, Copy, Debug)]
enum Stream {
    Out,
    Err,
    #[cfg(test)]
    Nowhere,
}

/// What a text is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Heading,
    Good,
    Bad,
    Waiting,
    Breaker,
}

impl Console {
    pub(crate) fn stdout() -> Self {
        Self { stream: Stream::Out, colour: colour_wanted() && stdout().is_terminal(), rows: None }
    }

    pub(crate) fn stderr() -> Self {
        Self { stream: Stream::Err, colour: colour_wanted() && stderr().is_terminal(), rows: None }
    }

    #[cfg(test)]
    pub(crate) fn silent() -> Self {
        Self { stream: Stream::Nowhere, colour: false, rows: None }
    }

    /// The same with rows below the lines, if there is a terminal.
    pub(crate) fn with_rows(&self) -> Self {
        let target = match self.stream {
            Stream::Out if stdout().is_terminal() => ProgressDrawTarget::stdout(),
            Stream::Err if stderr().is_terminal() => ProgressDrawTarget::stderr(),
            #[cfg(test)]
            Stream::Nowhere => ProgressDrawTarget::hidden(),
            _ => return self.clone(),
        };
        Self { rows: Some(MultiProgress::with_draw_target(target)), ..self.clone() }
    }

    pub(crate) fn rows(&self) -> Option<&MultiProgress> {
        self.rows.as_ref()
    }

    /// Prints one line. Nobody who listens is no reason to leave an incident alone.
    pub(crate) fn line(&self, text: &str) {
        if let Some(rows) = &self.rows {
            let _ = rows.println(text);
            return;
        }
        let _ = match self.stream {
            Stream::Out => writeln!(stdout(), "{text}"),
            Stream::Err => writeln!(stderr(), "{text}"),
            #[cfg(test)]
            Stream::Nowhere => Ok(()),
        };
    }

    pub(crate) fn heading(&self, text: &str) {
        self.line("");
        self.line(&self.paint(Tone::Heading, text));
        self.line("");
    }

    pub(crate) fn paint(&self, tone: Tone, text: &str) -> String {
        let code = match tone {
            _ if !self.colour => return text.to_owned(),
            Tone::Plain => return text.to_owned(),
            Tone::Heading => "1",
            Tone::Good => "32",
            Tone::Bad => "31",
            Tone::Waiting => "33",
            Tone::Breaker => "1;35",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// <https://no-color.org>: any value but an empty one says no.
fn colour_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
