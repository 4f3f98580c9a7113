//! What others have written may panic, and harms nobody.

use std::any::Any;
use std::fmt;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

/// Somebody else's code panicked, with this message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Panicked(pub(crate) Arc<str>);

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it panicked: {}", self.0)
    }
}

impl std::error::Error for Panicked {}

/// What the future that `make` makes comes to, or how one of them panicked. Nothing that has panicked is used again.
pub(crate) async fn caught<F: Future>(make: impl FnOnce() -> F) -> Result<F::Output, Panicked> {
    let future = catch_unwind(AssertUnwindSafe(make)).map_err(panicked)?;
    let mut future = pin!(future);
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(polled) => polled.map(Ok),
        Err(panic) => Poll::Ready(Err(panicked(panic))),
    })
    .await
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
}
