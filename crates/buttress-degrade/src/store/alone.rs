use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

/// The keys whose answers were for one caller alone: for one to two minutes nobody waits for what is not for him, as Varnish's
/// hit-for-miss has it. By their hashes, at most 2,048 of them: the older half goes when the younger one is full.
#[derive(Default)]
pub(super) struct Alone {
    younger: HashSet<u64>,
    older: HashSet<u64>,
    since: Option<Instant>,
}

impl Alone {
    const MOST: usize = 1024;
    const PERIOD: Duration = Duration::from_secs(60);

    pub(super) fn has(&mut self, key: u64) -> bool {
        let Some(since) = self.since else { return false };
        self.age(since.elapsed());
        self.younger.contains(&key) || self.older.contains(&key)
    }

    pub(super) fn insert(&mut self, key: u64) {
        if let Some(since) = self.since {
            self.age(since.elapsed());
        }
        if self.younger.len() >= Self::MOST {
            self.age(Self::PERIOD);
        }
        self.since.get_or_insert_with(Instant::now);
        self.younger.insert(key);
    }

    pub(super) fn remove(&mut self, key: u64) {
        self.younger.remove(&key);
        self.older.remove(&key);
    }

    fn age(&mut self, passed: Duration) {
        if passed < Self::PERIOD {
            return;
        }
        self.older = std::mem::take(&mut self.younger);
        if passed >= 2 * Self::PERIOD {
            self.older.clear();
        }
        self.since = (!self.older.is_empty()).then(Instant::now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_is_alone_for_one_to_two_minutes_and_their_number_is_bounded() {
        let mut alone = Alone::default();
        assert!(!alone.has(1));
        alone.insert(1);
        tokio::time::advance(Duration::from_secs(59)).await;
        alone.insert(2);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(alone.has(1) && alone.has(2));
        alone.remove(2);
        assert!(!alone.has(2));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(!alone.has(1) && alone.since.is_none());
        (0..10_000).for_each(|key| alone.insert(key));
        assert!(alone.has(9_999) && !alone.has(0));
        assert!(alone.younger.len() <= Alone::MOST && alone.older.len() <= Alone::MOST);
        tokio::time::advance(Duration::from_secs(600)).await;
        assert!(!alone.has(9_999) && alone.older.is_empty());
    }
}
