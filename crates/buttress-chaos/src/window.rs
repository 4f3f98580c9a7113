use std::time::Duration;

use buttress_core::ConfigError;
use buttress_core::clock::nanos;

/// When something acts: from and until so long after the start, once or again in every period.
///
/// The default is always.
///
/// ```
/// use std::time::Duration;
/// use buttress_chaos::Window;
///
/// // The first five seconds of every minute.
/// let window = Window::always().until(Duration::from_secs(5)).every(Duration::from_secs(60));
/// assert!(window.contains(Duration::from_secs(62)) && !window.contains(Duration::from_secs(65)));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    pub(crate) from: Duration,
    pub(crate) until: Option<Duration>,
    pub(crate) every: Option<Duration>,
}

impl Window {
    /// From the start, without an end.
    pub const fn always() -> Self {
        Self { from: Duration::ZERO, until: None, every: None }
    }

    /// Begins so long after the start. Default: at once.
    #[must_use]
    pub const fn from(self, from: Duration) -> Self {
        Self { from, ..self }
    }

    /// Ends so long after the start; that moment is no longer part of it. Default: never.
    #[must_use]
    pub const fn until(self, until: Duration) -> Self {
        Self { until: Some(until), ..self }
    }

    /// Starts anew after each such period; `from` and `until` count within it. Default: once.
    #[must_use]
    pub const fn every(self, period: Duration) -> Self {
        Self { every: Some(period), ..self }
    }

    /// Whether this moment, counted from the start, is part of it.
    pub fn contains(&self, elapsed: Duration) -> bool {
        let place = self.place(elapsed);
        self.from <= place && self.until.is_none_or(|until| place < until)
    }

    /// Whether the time matters at all.
    pub(crate) fn is_always(&self) -> bool {
        self.from.is_zero() && self.until.is_none()
    }

    /// When it begins or ends next, counted from the start; `None` if never again.
    #[cfg(feature = "proxy")]
    pub(crate) fn next_change(&self, elapsed: Duration) -> Option<Duration> {
        let place = self.place(elapsed);
        let edges = [Some(self.from), self.until, self.every];
        let next = edges.into_iter().flatten().filter(|edge| *edge > place).min()?;
        elapsed.checked_add(next - place)
    }

    /// When it last began, counted from the start; asked only while it lasts.
    #[cfg(feature = "proxy")]
    pub(crate) fn begun(&self, elapsed: Duration) -> Duration {
        (elapsed - self.place(elapsed)).saturating_add(self.from)
    }

    /// Where in the period a moment lies.
    fn place(&self, elapsed: Duration) -> Duration {
        match self.every.map(nanos) {
            Some(period @ 1..) => Duration::from_nanos(nanos(elapsed) % period),
            Some(0) | None => elapsed,
        }
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        if self.every.is_some_and(|period| period.is_zero()) {
            return Err(ConfigError::new("every", self.every, "a period must be longer than zero"));
        }
        if let Some(until) = self.until.filter(|until| *until <= self.from) {
            return Err(ConfigError::new(
                "until",
                until,
                format!("it must be after `from`, {:?}", self.from),
            ));
        }
        if let Some(period) = self.every {
            for (field, edge) in [("from", Some(self.from)), ("until", self.until)] {
                let within = |edge: &Duration| if field == "from" { *edge < period } else { *edge <= period };
                if let Some(edge) = edge.filter(|edge| !within(edge)) {
                    return Err(ConfigError::new(
                        field,
                        edge,
                        format!("it must lie within the period of {period:?}"),
                    ));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(feature = "proxy")]
    use proptest::prelude::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_window_holds_its_beginning_and_not_its_end() {
        let window = Window::always().from(seconds(2)).until(seconds(5));
        let held: Vec<_> = (0..8).filter(|&s| window.contains(seconds(s))).collect();
        assert_eq!(held, [2, 3, 4]);
        let again = window.every(seconds(6));
        let held: Vec<_> = (0..14).filter(|&s| again.contains(seconds(s))).collect();
        assert_eq!(held, [2, 3, 4, 8, 9, 10]);
        assert!(Window::always().contains(Duration::MAX));
    }

    #[test]
    fn a_window_that_can_never_be_is_refused() {
        let field = |window: Window| window.check().unwrap_err().field();
        assert_eq!(field(Window::always().from(seconds(2)).until(seconds(2))), "until");
        assert_eq!(field(Window::always().every(Duration::ZERO)), "every");
        assert_eq!(field(Window::always().until(seconds(3)).every(seconds(2))), "until");
        assert_eq!(field(Window::always().from(seconds(2)).every(seconds(2))), "from");
        assert_eq!(Window::always().until(seconds(2)).every(seconds(2)).check(), Ok(()));
    }

    #[cfg(feature = "proxy")]
    proptest! {
        #[test]
        fn nothing_changes_before_the_next_change(from in 0..50u64, length in 1..50u64, rest in proptest::option::of(0..50u64), at in 0..500u64) {
            let mut window = Window::always().from(seconds(from)).until(seconds(from + length));
            window.every = rest.map(|rest| seconds(from + length + rest));
            let now = window.contains(seconds(at));
            let end = window.next_change(seconds(at)).map_or(1000, |next| next.as_secs());
            prop_assert!(end > at);
            for later in at..end {
                prop_assert_eq!(window.contains(seconds(later)), now);
            }
        }
    }
}
