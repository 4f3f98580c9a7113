//! What is known of the clock of the store behind the memory: pure.

use std::time::SystemTime;

use tokio::time::Instant;

#[derive(Clone, Copy)]
pub(super) struct Clock {
    /// When it was read last, and what it read.
    pub(super) at: Instant,
    read: SystemTime,
    /// The same as if it had never been set back.
    pub(super) ahead: SystemTime,
}

impl Clock {
    /// It has read this, after what is known of before.
    pub(super) fn read(read: SystemTime, at: Instant, before: Option<Self>) -> Self {
        let own = before.and_then(|before| before.ahead.checked_add(at.duration_since(before.at)));
        Self { at, read, ahead: own.map_or(read, |own| own.max(read)) }
    }

    /// What it read then, at the least: it was read before the answer arrived.
    pub(super) fn at(&self, then: Instant) -> Option<SystemTime> {
        match then.checked_duration_since(self.at) {
            Some(since) => self.read.checked_add(since),
            None => self.read.checked_sub(self.at.duration_since(then)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn it_tells_of_any_moment_and_counts_on_from_what_it_read_last() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let at = |seconds| SystemTime::UNIX_EPOCH + seconds * second;
        let clock = Clock::read(at(1000), now, None);
        assert_eq!(
            [clock.at(now - second), clock.at(now), clock.at(now + second)].map(Option::unwrap),
            [at(999), at(1000), at(1001)]
        );
        let set_back = Clock::read(at(500), now + second, Some(clock));
        assert_eq!((set_back.at(now + second).unwrap(), set_back.ahead), (at(500), at(1001)));
    }
}
