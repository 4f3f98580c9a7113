//! What is stored of an answer, and what a write makes of it: pure, for the backends that decide in this process.

use bytes::Bytes;

use crate::answer::{NewAnswer, REMEMBERED, ROW, SLACK};
use crate::time;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AnswerRow {
    /// When the call was made; or when the key was forgotten, where there is no body.
    pub(crate) born: i64,
    pub(crate) expires: i64,
    pub(crate) body: Option<Bytes>,
}

impl AnswerRow {
    pub(crate) fn forgotten(at: i64, now: i64) -> Self {
        Self { born: at, expires: time::after(now, REMEMBERED), body: None }
    }

    pub(crate) fn bytes(&self, key: &[u8]) -> i64 {
        (key.len() + self.body.as_ref().map_or(0, Bytes::len)) as i64 + ROW as i64
    }

    /// Whether an answer to a call that was made then comes too late. A row from the future was written before the clock was
    /// set back, and says nothing.
    fn precludes(&self, born: i64, now: i64) -> bool {
        let counts = self.born <= now && self.expires > now;
        counts && if self.body.is_some() { self.born > born + SLACK } else { self.born >= born }
    }
}

/// When the call was made that this answers.
pub(crate) fn born(answer: &NewAnswer, now: i64) -> i64 {
    let born = now.saturating_sub(time::micros(answer.age));
    answer.asked.map_or(born, |asked| born.min(time::from_system(asked)))
}

/// Whether this answer is to be kept, where there is this row, and the scope was forgotten then.
pub(crate) fn admits(row: Option<&AnswerRow>, scope: Option<i64>, born: i64, now: i64) -> bool {
    let forgotten = scope.is_some_and(|at| at <= now && at >= born);
    !forgotten && !row.is_some_and(|row| row.precludes(born, now))
}

/// Whether the key is to be forgotten as of then, where there is this row.
pub(crate) fn forgets(row: Option<&AnswerRow>, at: i64, now: i64) -> bool {
    row.is_none_or(|row| row.born <= at || row.born > now)
}

/// Whether the row is to be given.
pub(crate) fn gives(row: &AnswerRow, scope: Option<i64>, now: i64) -> bool {
    row.expires > now && scope.is_none_or(|at| at < row.born)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    fn row(born: i64, body: bool) -> AnswerRow {
        AnswerRow { born: born * SECOND, expires: 1000 * SECOND, body: body.then(Bytes::new) }
    }

    #[test]
    fn what_comes_late_replaces_nothing_newer_and_brings_nothing_back() {
        let admits = |row: &AnswerRow, scope: Option<i64>, born: i64| {
            super::admits(Some(row), scope.map(|at| at * SECOND), born * SECOND, 100 * SECOND)
        };
        assert!(admits(&row(50, true), None, 50), "the same again");
        assert!(admits(&row(50, true), None, 40) && !admits(&row(50, true), None, 39));
        assert!(admits(&row(50, false), None, 51) && !admits(&row(50, false), None, 50));
        assert!(admits(&row(1, true), Some(50), 51) && !admits(&row(1, true), Some(50), 50));
        assert!(
            super::admits(Some(&row(50, false)), None, 1, 1000 * SECOND),
            "past its time it says nothing"
        );
    }

    #[test]
    fn after_a_clock_was_set_back_rows_of_the_future_are_replaced() {
        for body in [true, false] {
            assert!(admits(Some(&row(200, body)), Some(200 * SECOND), 90 * SECOND, 100 * SECOND));
            assert!(forgets(Some(&row(200, body)), 90 * SECOND, 100 * SECOND));
        }
        // What of the scope is older nobody knows.
        assert!(!gives(&row(90, true), Some(200 * SECOND), 100 * SECOND));
    }

    #[test]
    fn what_is_newer_is_not_forgotten() {
        let (at, now) = (50 * SECOND, 100 * SECOND);
        assert!(forgets(None, at, now) && forgets(Some(&row(50, true)), at, now));
        assert!(!forgets(Some(&row(51, true)), at, now));
        assert!(gives(&row(51, true), Some(at), now) && !gives(&row(50, true), Some(at), now));
    }
}
