use std::mem;
use std::task::Context;

use crate::clock::NoTimer;
use crate::verdict::Verdict;

/// An admitted call that still has to say how it ended; the default one has ended.
///
/// The open permit of a breaker is one. Dropping it unsettled means that the call was *abandoned*: never a success.
pub trait Settle: Default {
    /// Ends the call with this verdict. Of a call that has ended, nothing changes.
    fn settle(&mut self, verdict: Verdict);

    /// The answer has begun or gone on: time for which its caller waits counts from here.
    fn resume(&mut self) {}

    /// The caller has to wait for more of the answer; to be called each time that it does.
    ///
    /// # Errors
    ///
    /// If that needs a timer and there is none.
    fn pause(&mut self, _cx: &mut Context<'_>) -> Result<(), NoTimer> {
        Ok(())
    }

    /// The caller went away while it waited for more of an answer that has flowed: ends the call with this verdict, or as
    /// abandoned if the caller had waited in vain. By default it is always abandoned.
    fn leave(&mut self, _verdict: Verdict) {
        drop(mem::take(self));
    }
}

/// Decides when a call that was answered is over: now, or when its body is.
///
/// A layer that holds a permit gives it to its `Watch` together with the response and the verdict so far.
pub trait Watch<Res> {
    /// What the caller gets; it may carry the permit.
    type Response<G: Settle>;

    /// Settles the permit, or [takes](std::mem::take) it over to settle it at the right moment. It is lent, because
    /// moving it would cost more than settling it does.
    fn watch<G: Settle>(&self, response: Res, permit: &mut G, verdict: Verdict) -> Self::Response<G>;
}

/// Settles as soon as the response is there.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now;

impl<Res> Watch<Res> for Now {
    type Response<G: Settle> = Res;

    #[inline(always)]
    fn watch<G: Settle>(&self, response: Res, permit: &mut G, verdict: Verdict) -> Res {
        permit.settle(verdict);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Probe(Option<Verdict>);

    impl Settle for Probe {
        fn settle(&mut self, verdict: Verdict) {
            self.0 = Some(verdict);
        }
    }

    #[test]
    fn now_settles_with_the_response() {
        let mut settled = Probe::default();
        assert_eq!(Now.watch("response", &mut settled, Verdict::Rejected), "response");
        assert_eq!(settled.0, Some(Verdict::Rejected));
    }
}
