//! Failed responses in whose place others are given.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use buttress_core::{Kind, Verdict};
use buttress_degrade::{Chain, DegradeLayer, Degraded, Rung};
use buttress_testkit::clock::settle;
use buttress_testkit::{Scripted, ok};
use support::secs;
use tower::{Layer, ServiceExt};

type Answer = Degraded<u32>;
type Open = Chain<u64, Answer>;

fn fixed(value: u32) -> Rung<u64, Answer> {
    Rung::answer("fixed", move |_| Some(value))
}

/// Reads what is thrown away for as long as it is told to.
#[derive(Clone)]
struct Reading(Arc<AtomicUsize>);

impl buttress_core::Classify<u32> for Reading {
    fn classify(&self, _: Result<&u32, buttress_core::ErrorRef<'_>>) -> Verdict {
        Verdict::failure(Kind::Transient)
    }
}

impl buttress_core::Carry<u64> for Reading {
    const ACTIVE: bool = false;

    fn carried<'a>(&self, _: &'a u64) -> Option<&'a buttress_core::Carried> {
        None
    }

    fn carry(&self, _: &mut u64, _: impl FnOnce(&mut buttress_core::Carried)) {}
}

impl buttress_core::Discard<Answer> for Reading {
    type Future = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

    fn discard(&self, response: Answer) -> Self::Future {
        let reading = Guard::new(&self.0);
        Box::pin(async move {
            let _reading = reading;
            tokio::time::sleep(secs(response.into_inner().into())).await;
        })
    }
}

struct Guard(Arc<AtomicUsize>);

impl Guard {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[tokio::test(start_paused = true)]
async fn failed_responses_are_read_in_the_background_in_a_bounded_number_and_end_with_a_shutdown() {
    let reading = Arc::new(AtomicUsize::new(0));
    let layer = DegradeLayer::new("prices", Open::new().rung(fixed(7))).unwrap();
    let layer = layer.policy(Reading(Arc::clone(&reading)));
    let ask = async |count: usize, takes: u32| {
        for _ in 0..count {
            let service = layer.layer(Scripted::new([ok(takes)]));
            assert_eq!(service.oneshot(1).await.unwrap().into_inner(), 7);
        }
        settle().await;
        reading.load(Relaxed)
    };
    assert_eq!(ask(1000, 5).await, 256);
    tokio::time::sleep(secs(6)).await;
    assert_eq!((ask(1, 1).await, ask(2, 60).await), (1, 3));
    assert_eq!(layer.shutdown(secs(2)).await, 2);
    settle().await;
    assert_eq!(reading.load(Relaxed), 0);
    assert_eq!(ask(10, 60).await, 0);
}
