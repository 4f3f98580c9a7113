use crate::verdict::Verdict;

/// An admitted call that still has to say how it ended.
///
/// The open permit of a breaker is one. Dropping it unsettled means that the call was *abandoned*: never a success.
pub trait Settle {
    /// Ends the call with this verdict.
    fn settle(self, verdict: Verdict);
}

/// Decides when a call that was answered is over: now, or when its body is.
///
/// A layer that holds a permit gives it to its `Watch` together with the response and the verdict so far.
pub trait Watch<Res> {
    /// What the caller gets; it may carry the permit.
    type Response<G: Settle>;

    /// Takes over the permit and settles it at the right moment.
    fn watch<G: Settle>(&self, response: Res, permit: G, verdict: Verdict) -> Self::Response<G>;
}

/// Settles as soon as the response is there.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now;

impl<Res> Watch<Res> for Now {
    type Response<G: Settle> = Res;

    fn watch<G: Settle>(&self, response: Res, permit: G, verdict: Verdict) -> Res {
        permit.settle(verdict);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    struct Probe<'a>(&'a Cell<Option<Verdict>>);

    impl Settle for Probe<'_> {
        fn settle(self, verdict: Verdict) {
            self.0.set(Some(verdict));
        }
    }

    #[test]
    fn now_settles_with_the_response() {
        let settled = Cell::new(None);
        assert_eq!(Now.watch("response", Probe(&settled), Verdict::Rejected), "response");
        assert_eq!(settled.get(), Some(Verdict::Rejected));
    }
}
