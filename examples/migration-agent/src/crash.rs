//! Ends the process in the middle of a step, for rehearsals of what comes after that.

use std::process::Command;
use std::sync::Arc;

/// Where to end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Crash(Option<(Arc<str>, Point)>);

/// The moments of a step that differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Point {
    /// Its lock is held, and nothing was done.
    Before,
    /// Its SQL was run; in a transaction it is not committed, outside of one nothing says that it was done.
    During,
    /// It is committed, and the journal does not know.
    After,
}

impl Crash {
    /// `ID[:before|during|after]`, where the number of an id is enough.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (id, point) = text.split_once(':').unwrap_or((text, "during"));
        let point = match point {
            "before" => Point::Before,
            "during" => Point::During,
            "after" => Point::After,
            _ => return Err("the moment is before, during or after".to_owned()),
        };
        Ok(Self(Some((id.into(), point))))
    }

    /// The migration, if there is one.
    pub(crate) fn of(&self) -> Option<&str> {
        self.0.as_ref().map(|(id, _)| &**id)
    }

    /// Ends the process if this is the moment.
    pub(crate) fn at(&self, id: &str, point: Point) {
        if self.0.as_ref().is_some_and(|(wanted, when)| *when == point && is_named(id, wanted)) {
            // Nothing of this process gets to run any more, which is what is rehearsed.
            let _ = Command::new("kill").args(["-9", &std::process::id().to_string()]).status();
            std::process::abort();
        }
    }
}

/// Whether a migration is meant, by its id or by its number.
pub(crate) fn is_named(id: &str, wanted: &str) -> bool {
    let number = |text: &str| text.parse::<u64>().ok();
    let own = id.split_once('_').and_then(|(digits, _)| number(digits));
    id == wanted || (own.is_some() && own == number(wanted))
}
