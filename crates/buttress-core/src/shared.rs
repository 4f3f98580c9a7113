use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// What the services of a layer and their calls have in common: counted, or never freed.
///
/// A clone of the former counts a reference up, and its drop counts it down, which are two locked operations; one of the latter
/// copies a pointer.
pub enum Shared<T: ?Sized + 'static> {
    /// Freed with the last reference.
    Counted(Arc<T>),
    /// Never freed.
    Leaked(&'static T),
}

impl<T: ?Sized> Shared<T> {
    /// From now on it is never freed. That takes its memory for good.
    #[must_use]
    pub fn leaked(self) -> Self {
        match self {
            Self::Counted(counted) => Self::Leaked(Box::leak(Box::new(counted))),
            leaked @ Self::Leaked(_) => leaked,
        }
    }
}

impl<T> From<T> for Shared<T> {
    fn from(value: T) -> Self {
        Self::Counted(Arc::new(value))
    }
}

impl<T: ?Sized> Clone for Shared<T> {
    #[inline]
    fn clone(&self) -> Self {
        match self {
            Self::Counted(counted) => Self::Counted(Arc::clone(counted)),
            Self::Leaked(leaked) => Self::Leaked(leaked),
        }
    }
}

impl<T: ?Sized> Deref for Shared<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        match self {
            Self::Counted(counted) => counted,
            Self::Leaked(leaked) => leaked,
        }
    }
}

impl<T: fmt::Debug + ?Sized> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_leaked_outlives_its_references_and_is_counted_no_more() {
        let value = Arc::new(7);
        let shared = Shared::Counted(Arc::clone(&value));
        let clone = shared.clone();
        assert_eq!(Arc::strong_count(&value), 3);
        let leaked = shared.leaked();
        let (one, two) = (leaked.clone(), leaked.clone().leaked());
        assert_eq!(Arc::strong_count(&value), 3, "the clone from before, and the one that stays");
        drop((clone, leaked, one));
        assert_eq!((*two, Arc::strong_count(&value)), (7, 2));
        drop(two);
        assert_eq!(Arc::strong_count(&value), 2);
    }
}
