use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use buttress_core::clock::nanos;
use buttress_core::observe::Health;
use buttress_core::{Clock, Rng};

use crate::check::Symptom;
use crate::incident::{Incident, LONGEST_NAME, cut};

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
    /// So many pages there have been.
    pages: u64,
    page: Option<Page>,
}

/// A human was told that restarts are held.
struct Page {
    incident: Incident,
    since: u64,
    /// Who has sent it and will resolve it; if that one has left, whoever comes first.
    by: Option<u64>,
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

/// What there is to be done about the group's page.
#[derive(Debug)]
pub(crate) enum Relief {
    /// Nothing, by this member.
    None,
    /// It is to be resolved when the hold is over.
    Later,
    /// It is to be resolved now, once.
    Now(Box<Incident>),
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

    pub(crate) fn join(&self) -> Member {
        Member { siblings: self.clone(), id: self.group().join() }
    }

    fn group(&self) -> MutexGuard<'_, Group> {
        self.inner.group.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn incident(&self, number: u64, in_trouble: usize, members: usize) -> Incident {
        let Inner { name, salt, .. } = &*self.inner;
        let key = format!("{}-correlated-{number}-{salt:08x}", cut(name, LONGEST_NAME));
        let evidence = format!(
            "{in_trouble} of {members} want to restart: restarts are held, what they depend on is ill"
        );
        let incident = Incident::new(key, Arc::clone(name), Health::Critical);
        incident.with_symptom(Arc::clone(name), Symptom::Connectivity, evidence)
    }
}

impl fmt::Debug for Siblings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members = self.group().members.len();
        f.debug_struct("Siblings").field("name", &self.inner.name).field("members", &members).finish()
    }
}

impl Member {
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

    /// What a human is to be told, if restarts are held and this member is to say so: none of the others has, or the one that has
    /// is gone, so that nobody knows whether it got through.
    pub(crate) fn page(&self) -> Option<Incident> {
        let now = self.siblings.inner.clock.now();
        let mut group = self.siblings.group();
        let incident = |number, in_trouble, members| self.siblings.incident(number, in_trouble, members);
        group.page(self.id, now, incident)
    }

    pub(crate) fn relieve(&self) -> Relief {
        let now = self.siblings.inner.clock.now();
        self.siblings.group().relieve(self.id, now)
    }

    /// It leaves, and resolves the page that it answers for if nothing is held without it.
    pub(crate) fn leave(&self) -> Relief {
        let now = self.siblings.inner.clock.now();
        let mut group = self.siblings.group();
        group.leave(self.id);
        group.relieve(self.id, now)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.siblings.group().leave(self.id);
    }
}

impl Group {
    fn new(window: u64) -> Self {
        Self { window, members: BTreeMap::new(), joined: 0, pages: 0, page: None }
    }

    fn join(&mut self) -> u64 {
        self.joined += 1;
        self.members.insert(self.joined, Asked::Never);
        self.joined
    }

    fn leave(&mut self, id: u64) {
        self.members.remove(&id);
        if let Some(page) = self.page.as_mut().filter(|page| page.by == Some(id)) {
            page.by = None;
        }
    }

    /// With the same key as long as it is the same hold, so that no human is called twice.
    fn page(
        &mut self,
        id: u64,
        now: u64,
        incident: impl FnOnce(u64, usize, usize) -> Incident,
    ) -> Option<Incident> {
        if !self.holds(now) || self.page.as_ref().is_some_and(|page| page.by.is_some()) {
            return None;
        }
        let (pages, in_trouble, members) = (self.pages, self.in_trouble(now), self.members.len());
        let page = self.page.get_or_insert_with(|| {
            self.pages += 1;
            Page { incident: incident(pages, in_trouble, members), since: now, by: None }
        });
        page.by = Some(id);
        Some(page.incident.clone())
    }

    fn relieve(&mut self, id: u64, now: u64) -> Relief {
        let others = |page: &Page| page.by.is_some_and(|by| by != id);
        if self.page.as_ref().is_none_or(others) {
            return Relief::None;
        }
        if self.holds(now) {
            return Relief::Later;
        }
        let Some(Page { incident, since, .. }) = self.page.take() else { return Relief::None };
        Relief::Now(Box::new(incident.ended(Duration::from_nanos(now.saturating_sub(since)))))
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

    fn key(incident: Option<Incident>) -> Option<String> {
        incident.map(|incident| incident.key().to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn one_member_pages_and_resolves_and_another_takes_over_when_it_leaves() {
        let siblings = Siblings::new("pools");
        let members: Vec<_> = (0..3).map(|_| siblings.join()).collect();
        for member in members.iter().chain(&members) {
            member.ask();
        }
        let page = members[1].page().unwrap();
        assert!(page.to_string().contains("3 of 3 want to restart"));
        assert!(members[2].page().is_none() && matches!(members[1].relieve(), Relief::Later));
        let [first, second, third] = <[Member; 3]>::try_from(members).ok().unwrap();
        drop(second);
        assert!(siblings.is_holding());
        assert_eq!(key(third.page()).as_deref(), Some(page.key()), "the same hold");
        first.well();
        assert!(matches!(first.relieve(), Relief::None));
        let Relief::Now(resolved) = third.relieve() else { panic!("it is over") };
        assert_eq!((resolved.key(), resolved.opened()), (page.key(), page.opened()));
        assert!(matches!(third.relieve(), Relief::None));
        for member in [&first, &third, &first] {
            member.ask();
        }
        assert_ne!(key(first.page()).as_deref(), Some(page.key()), "another hold");
        drop(third);
        assert!(matches!(first.leave(), Relief::Now(_)), "nobody else is there");
    }
}
