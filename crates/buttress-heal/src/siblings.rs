use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use buttress_core::clock::nanos;
use buttress_core::{Clock, Rng};

use crate::incident::{LONGEST_NAME, cut};

/// Supervisors whose services depend on the same thing: when more than half of them want to restart at once, it is that thing
/// that is ill, and restarts would only be load.
///
/// Then restarts are held, and one page for the whole group says so, instead of one for each; all else (new pools, fail-over)
/// goes on. The hold ends when no more than half are in trouble. Envoy's panic threshold, applied to restarts. A group of one
/// never holds.
///
/// ```
/// use buttress_heal::Siblings;
///
/// let siblings = Siblings::new("database pools");
/// // Each: `Supervisor::new("orders", factory).siblings(&siblings)`
/// ```
#[derive(Clone)]
pub struct Siblings {
    inner: Arc<Inner>,
}

struct Inner {
    name: Arc<str>,
    /// No two processes give their pages the same key.
    salt: u64,
    clock: Clock,
    group: Mutex<Group>,
}

/// One supervisor's place in a group; it leaves when this is dropped.
pub(crate) struct Member {
    siblings: Siblings,
    id: u64,
}

/// The pure part.
struct Group {
    window: u64,
    members: BTreeMap<u64, Asked>,
    joined: u64,
    holds: u64,
    /// Who has paged for the hold, and will resolve it.
    paged_by: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Never,
    /// And was allowed to, at this time.
    At(u64),
    /// And is held.
    Waits,
}

/// Whether a supervisor may restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    Granted,
    Held,
}

impl Siblings {
    /// A group of this name: what the page is about. Restarts within 10 s count as at once.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self::within(name, Duration::from_secs(10))
    }

    /// The same; restarts within this time count as at once.
    pub fn within(name: impl Into<Arc<str>>, window: Duration) -> Self {
        let group = Mutex::new(Group::new(nanos(window)));
        let salt = Rng::from_system().between(0, u32::MAX.into());
        Self { inner: Arc::new(Inner { name: name.into(), salt, clock: Clock::start(), group }) }
    }

    /// Whether restarts are held now.
    pub fn is_holding(&self) -> bool {
        let now = self.inner.clock.now();
        self.group().holds(now)
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.inner.name
    }

    pub(crate) fn key(&self, hold: u64) -> String {
        let Inner { name, salt, .. } = &*self.inner;
        format!("{}-correlated-{hold}-{salt:08x}", cut(name, LONGEST_NAME))
    }

    pub(crate) fn join(&self) -> Member {
        Member { siblings: self.clone(), id: self.group().join() }
    }

    fn group(&self) -> MutexGuard<'_, Group> {
        self.inner.group.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Siblings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members = self.group().members.len();
        f.debug_struct("Siblings").field("name", &self.inner.name).field("members", &members).finish()
    }
}

impl Member {
    pub(crate) fn siblings(&self) -> &Siblings {
        &self.siblings
    }

    /// Whether it may restart now. It counts as in trouble until it says that it is [well](Self::well).
    pub(crate) fn ask(&self) -> Leave {
        let now = self.siblings.inner.clock.now();
        self.siblings.group().ask(self.id, now)
    }

    pub(crate) fn would_be_held(&self) -> bool {
        let now = self.siblings.inner.clock.now();
        self.siblings.group().would_hold(self.id, now)
    }

    pub(crate) fn well(&self) {
        self.siblings.group().members.insert(self.id, Asked::Never);
    }

    /// The number of the hold and how many of how many are in trouble, if this member is to page for it.
    pub(crate) fn pages(&self) -> Option<(u64, usize, usize)> {
        let now = self.siblings.inner.clock.now();
        let mut group = self.siblings.group();
        if !group.holds(now) || group.paged_by.is_some() {
            return None;
        }
        group.paged_by = Some(self.id);
        Some((group.holds, group.in_trouble(now), group.members.len()))
    }

    /// Whether the hold that this member has paged for is over. Once.
    pub(crate) fn is_relieved(&self) -> bool {
        let now = self.siblings.inner.clock.now();
        let mut group = self.siblings.group();
        if group.paged_by != Some(self.id) || group.holds(now) {
            return false;
        }
        group.paged_by = None;
        group.holds += 1;
        true
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.siblings.group().leave(self.id);
    }
}

impl Group {
    fn new(window: u64) -> Self {
        Self { window, members: BTreeMap::new(), joined: 0, holds: 0, paged_by: None }
    }

    fn join(&mut self) -> u64 {
        self.joined += 1;
        self.members.insert(self.joined, Asked::Never);
        self.joined
    }

    /// Whoever has paged hands that over to the next one that asks: with the same key, so that no human is called twice.
    fn leave(&mut self, id: u64) {
        self.members.remove(&id);
        if self.paged_by == Some(id) {
            self.paged_by = None;
        }
    }

    fn ask(&mut self, id: u64, now: u64) -> Leave {
        let held = self.would_hold(id, now);
        self.members.insert(id, if held { Asked::Waits } else { Asked::At(now) });
        if held { Leave::Held } else { Leave::Granted }
    }

    fn would_hold(&self, id: u64, now: u64) -> bool {
        let others =
            self.members.iter().filter(|&(&member, asked)| member != id && self.is_in_trouble(*asked, now));
        self.too_many(others.count() + 1)
    }

    fn holds(&self, now: u64) -> bool {
        self.members.values().any(|asked| *asked == Asked::Waits) && self.too_many(self.in_trouble(now))
    }

    fn in_trouble(&self, now: u64) -> usize {
        self.members.values().filter(|asked| self.is_in_trouble(**asked, now)).count()
    }

    fn is_in_trouble(&self, asked: Asked, now: u64) -> bool {
        match asked {
            Asked::Never => false,
            Asked::At(at) => now.saturating_sub(at) <= self.window,
            Asked::Waits => true,
        }
    }

    fn too_many(&self, in_trouble: usize) -> bool {
        self.members.len() > 1 && in_trouble * 2 > self.members.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn group(members: u64) -> Group {
        let mut group = Group::new(10 * SECOND);
        (0..members).for_each(|_| {
            group.join();
        });
        group
    }

    /// HD-30, its decision; `tests/siblings.rs` has the whole.
    #[test]
    fn restarts_stop_when_more_than_half_have_asked_and_not_before() {
        let mut ten = group(10);
        let answers: Vec<_> = (1..=6).map(|id| ten.ask(id, id * SECOND)).collect();
        assert_eq!(answers[..5], [Leave::Granted; 5]);
        assert_eq!(answers[5], Leave::Held);
        assert_eq!(ten.ask(1, 7 * SECOND), Leave::Held, "nor may those who had their turn");
        let mut ten = group(10);
        assert!((1..=4).all(|id| ten.ask(id, id * SECOND) == Leave::Granted) && !ten.holds(5 * SECOND));
    }

    #[test]
    fn those_who_ask_one_after_the_other_are_not_held() {
        let mut ten = group(10);
        assert!((1..=10).all(|id| ten.ask(id, id * 3 * SECOND) == Leave::Granted));
    }

    #[test]
    fn a_hold_lasts_until_no_more_than_half_are_in_trouble() {
        let mut four = group(4);
        for id in 1..=4 {
            four.ask(id, 0);
        }
        assert!(four.holds(SECOND));
        assert!(!four.holds(60 * SECOND), "two of them wait, the other two have long restarted");
        for id in 1..=2 {
            four.ask(id, 5 * SECOND);
        }
        assert!(four.holds(3600 * SECOND), "all wait");
        four.members.insert(1, Asked::Never);
        assert!(four.holds(3600 * SECOND));
        four.members.insert(2, Asked::Never);
        assert!(!four.holds(3600 * SECOND));
        assert_eq!(four.ask(3, 3600 * SECOND), Leave::Granted);
    }

    #[test]
    fn one_alone_may_always_restart_and_whoever_leaves_does_not_count() {
        let mut one = group(1);
        assert_eq!(one.ask(1, 0), Leave::Granted);
        let mut two = group(2);
        assert_eq!([two.ask(1, 0), two.ask(2, 0)], [Leave::Granted, Leave::Held]);
        two.leave(1);
        assert_eq!(two.ask(2, 0), Leave::Granted);
    }

    #[tokio::test(start_paused = true)]
    async fn one_member_pages_and_resolves_and_another_takes_over_when_it_leaves() {
        let siblings = Siblings::new("pools");
        let members: Vec<_> = (0..3).map(|_| siblings.join()).collect();
        for member in members.iter().chain(&members) {
            member.ask();
        }
        assert_eq!((members[1].pages(), members[2].pages()), (Some((0, 3, 3)), None));
        let [first, second, third] = <[Member; 3]>::try_from(members).ok().unwrap();
        drop(second);
        assert!(siblings.is_holding());
        assert_eq!(third.pages(), Some((0, 2, 2)), "the same hold");
        first.well();
        assert!(!first.is_relieved() && third.is_relieved() && !third.is_relieved());
    }
}
