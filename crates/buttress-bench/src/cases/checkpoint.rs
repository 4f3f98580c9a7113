use std::future::Future;
use std::hint::black_box;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use buttress_checkpoint::CheckpointLayer;
use buttress_core::BoxError;
use tower::{Layer, Service, ServiceExt};

use crate::leaf::READY;
use crate::measure::{Case, Side};

pub(crate) const OUTSIDE: &str = "checkpoint layer, outside of a workflow";

/// A service that is journaled within workflows, used where there is none.
pub(super) fn outside() -> Vec<Case> {
    let layer = CheckpointLayer::named("charge");
    // What a layer has that can fail by itself.
    let boxed = ServiceExt::<u64>::map_err(READY, BoxError::from);
    vec![
        Case::new(OUTSIDE, Side::Floor, "bare service", calls(READY)),
        Case::new(OUTSIDE, Side::Floor, "bare service, with the layer's error", calls(boxed)),
        Case::new(OUTSIDE, Side::Buttress, "journaled within one", calls(layer.layer(READY))),
    ]
}

/// The outcome is looked at where it lies. Moved, after its two halves were written one by one, it would stall the processor for
/// longer than the layer takes.
fn calls<S: Service<u64> + 'static>(mut service: S) -> impl FnMut(u64) + 'static {
    move |calls| {
        let mut cx = Context::from_waker(Waker::noop());
        for call in 0..calls {
            assert!(service.poll_ready(&mut cx).is_ready());
            let outcome = pin!(service.call(black_box(call))).poll(&mut cx);
            assert!(matches!(black_box(&outcome), Poll::Ready(Ok(_))));
        }
    }
}
