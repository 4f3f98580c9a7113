//! What others have written may panic, and harms nobody.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

/// Somebody else's code panicked, with this message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Panicked(pub(crate) Arc<str>);

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it panicked: {}", self.0)
    }
}

impl std::error::Error for Panicked {}

/// What this comes to, or how it panicked.
pub(crate) fn attempt<T>(run: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(run)).map_err(panicked)
}

/// What the future that `make` makes comes to, or how one of them panicked. That it panics when it is dropped harms nobody.
pub(crate) fn caught<F: Future>(make: impl FnOnce() -> F) -> Caught<F> {
    match attempt(make) {
        Ok(future) => Caught { future: Some(future), panicked: None },
        Err(panicked) => Caught { future: None, panicked: Some(panicked) },
    }
}

pin_project! {
    /// What [`caught`] makes.
    pub(crate) struct Caught<F> {
        #[pin]
        future: Option<F>,
        panicked: Option<Panicked>,
    }

    impl<F> PinnedDrop for Caught<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut future = this.project().future;
            let _ = attempt(|| future.set(None));
        }
    }
}

impl<F: Future> Future for Caught<F> {
    type Output = Result<F::Output, Panicked>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Some(future) = this.future.as_pin_mut() else {
            return Poll::Ready(Err(this
                .panicked
                .take()
                .expect("it is not polled again after it was ready")));
        };
        match attempt(|| future.poll(cx)) {
            Ok(polled) => polled.map(Ok),
            Err(panicked) => Poll::Ready(Err(panicked)),
        }
    }
}

/// Somebody else's value: that it panics when it is dropped harms nobody.
pub(crate) struct Foreign<T>(Option<T>);

impl<T> Foreign<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(Some(value))
    }

    pub(crate) fn get(&self) -> &T {
        self.0.as_ref().expect("it is there until it is taken")
    }

    pub(crate) fn into_inner(mut self) -> T {
        self.0.take().expect("it is there until it is taken")
    }
}

/// That may panic.
impl<T: Clone> Clone for Foreign<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Drop for Foreign<T> {
    fn drop(&mut self) {
        let value = self.0.take();
        let _ = attempt(|| drop(value));
    }
}

#[expect(clippy::needless_pass_by_value, reason = "as `catch_unwind` gives it")]
fn panicked(panic: Box<dyn Any + Send>) -> Panicked {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Panicked(text.unwrap_or("without a message").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_caught_wherever_it_happens_and_its_message_is_kept() {
        assert_eq!(caught(|| async { 7 }).await, Ok(7));
        let early = caught(|| -> std::future::Ready<()> { panic!("early") }).await;
        let late = caught(|| async {
            tokio::task::yield_now().await;
            panic!("late {}", 1)
        });
        assert_eq!((early, late.await), (Err(Panicked("early".into())), Err(Panicked("late 1".into()))));
    }

    struct Explosive;

    impl Drop for Explosive {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }

    impl Future for Explosive {
        type Output = ();

        fn poll(self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>) -> Poll<()> {
            Poll::Ready(())
        }
    }

    #[tokio::test]
    async fn a_future_that_panics_when_it_is_dropped_harms_nobody_whether_it_has_ended_or_not() {
        assert_eq!(caught(|| Explosive).await, Ok(()));
        drop(caught(|| Explosive));
    }
}
