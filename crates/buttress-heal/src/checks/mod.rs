//! Checks that are ready-made.

mod call;
mod memory;
mod pool;
mod reading;
mod response_time;
mod tcp;
mod traffic;

pub use call::CallCheck;
pub use memory::MemoryCheck;
pub use pool::{PoolUse, pool_use};
pub use reading::{Reading, circuit_breaker, queue_depth};
pub use response_time::ResponseTimeCheck;
pub use tcp::TcpCheck;
pub use traffic::TrafficCheck;

use crate::check::Answer;

/// Evidence is read by people who have just been woken: no longer than this.
const LONGEST: usize = 300;

impl Answer {
    /// A failure because of this error, with all that caused it.
    pub fn error(error: &(dyn std::error::Error + 'static)) -> Self {
        Self::fail(evidence(error))
    }
}

/// An error and what it was caused by, as evidence.
pub(crate) fn evidence(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = String::new();
    for cause in buttress_core::chain(error) {
        let cause = cause.to_string();
        // Some errors say their cause themselves.
        if !text.contains(&cause) {
            text.push_str(if text.is_empty() { "" } else { ": " });
            text.push_str(&cause);
        }
    }
    if let Some((end, _)) = text.char_indices().nth(LONGEST) {
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn evidence_names_each_cause_once_and_is_short() {
        let refused = io::Error::new(io::ErrorKind::ConnectionRefused, "connection refused");
        let error = buttress_core::Judged::new(
            buttress_core::Verdict::failure(buttress_core::Kind::Transient),
            io::Error::other(refused),
        );
        assert_eq!(evidence(&error), "the client failed (transient): connection refused");
        let long = evidence(&io::Error::other("ä".repeat(1000)));
        assert_eq!((long.chars().count(), long.chars().last()), (LONGEST + 1, Some('…')));
    }
}
