/// Keeps a request so that it can be sent again.
pub trait Replay<Req> {
    /// What the service inside is called with; differs from `Req` where the body has to be recorded.
    type Request;
    /// What is kept while an attempt is under way.
    type Saved;

    /// Whether applying the request several times is the same as applying it once, so that it may be sent again although
    /// it may already have been applied.
    fn is_repeatable(&self, request: &Req) -> bool;

    /// The request to send, when it will certainly be sent only once.
    fn once(&self, request: Req) -> Self::Request;

    /// The request to send first, when it may be sent again.
    fn record(&self, request: Req) -> Self::Request;

    /// What is kept of a request that was [prepared for it](Replay::record) and has not been sent yet.
    fn keep(&self, request: &Self::Request) -> Self::Saved;

    /// Splits a request into the one to send now and what is kept of it.
    fn save(&self, request: Req) -> (Self::Request, Self::Saved) {
        let request = self.record(request);
        let saved = self.keep(&request);
        (request, saved)
    }

    /// Another copy, for the next attempt in a row: whatever still reads an earlier copy may be cut off. `None`, and no
    /// harm done, if there is no complete copy: the body was too large to be kept, or failed.
    fn replay(&self, saved: &mut Self::Saved) -> Option<Self::Request>;
}

/// Replays by `Clone`, and holds that any request may be repeated: who retries a type of their own says so.
#[derive(Clone, Copy, Debug, Default)]
pub struct CloneReplay;

impl<Req: Clone> Replay<Req> for CloneReplay {
    type Request = Req;
    type Saved = Req;

    fn is_repeatable(&self, _: &Req) -> bool {
        true
    }

    fn once(&self, request: Req) -> Req {
        request
    }

    fn record(&self, request: Req) -> Req {
        request
    }

    fn keep(&self, request: &Req) -> Req {
        request.clone()
    }

    fn replay(&self, saved: &mut Req) -> Option<Req> {
        Some(saved.clone())
    }
}

/// Replays nothing: each request is sent once.
impl<Req> Replay<Req> for () {
    type Request = Req;
    type Saved = ();

    fn is_repeatable(&self, _: &Req) -> bool {
        false
    }

    fn once(&self, request: Req) -> Req {
        request
    }

    fn record(&self, request: Req) -> Req {
        request
    }

    fn keep(&self, _: &Req) {}

    fn replay(&self, (): &mut ()) -> Option<Req> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_is_replayed_and_nothing_is_replayed_by_unit() {
        let (sent, mut saved) = CloneReplay.save(7_u64);
        assert_eq!((sent, CloneReplay.replay(&mut saved), CloneReplay.is_repeatable(&7)), (7, Some(7), true));
        let (sent, mut saved) = Replay::<u64>::save(&(), 7);
        assert_eq!((sent, Replay::<u64>::replay(&(), &mut saved)), (7, None));
    }
}
