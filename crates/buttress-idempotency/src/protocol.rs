use std::future::Future;

use buttress_core::{BoxError, Captured};
use buttress_store::{Fingerprint, Record, ScopedKey};

use crate::error::Error;
use crate::key::Claim;
use crate::outcome::{Outcome, Reconciled};
use crate::tasks::BoxFuture;

/// What identifies a call: its key, and what must be the same whenever that is used.
pub type Identity = (ScopedKey, Fingerprint);

/// How the requests of one protocol are told apart. [`Keyed`](crate::Keyed) does it for any type, `HttpKeys` for HTTP.
pub trait Identify<Req> {
    /// What the service inside is called with.
    type Request;
    /// Resolves to the request and what identifies it.
    type Identified: Future<Output = (Self::Request, Result<Option<Identity>, Error>)>;

    /// Whether this request is to be carried out once at all.
    fn is_guarded(&self, request: &Req) -> bool;

    /// The request, as it is.
    fn pass(&self, request: Req) -> Self::Request;

    /// Reads what identifies the call; `None` has it carried out although nothing can be claimed. An error refuses it, but where
    /// the layer only observes.
    fn identify(&self, request: Req) -> Self::Identified;

    /// Shows whoever carries the call out their claim.
    fn attach(&self, request: &mut Self::Request, claim: Claim);
}

/// How the answers of one protocol are judged, kept and given again.
pub trait Protocol<Res, E> {
    /// What the caller gets.
    type Response;
    /// What the caller gets if not that.
    type Error;
    /// Resolves when the whole answer is there to be stored; an answer that is not ready at once streams to the caller.
    type Recording: Future<Output = Result<Captured<Record>, BoxError>>;

    /// What the answer says about the effect.
    fn judge(&self, answer: Result<Res, E>) -> (Outcome, Result<Res, Self::Error>);

    /// The error of a service that is not ready.
    fn fail(&self, error: E) -> Self::Error;

    /// Splits an answer into the one for the caller and its recording.
    fn capture(&self, response: Res) -> (Self::Response, Self::Recording);

    /// Whether the recording goes on although its caller went away, and counts against
    /// [`max_detached`](crate::Config::max_detached).
    fn is_abandoned(&self, _: &Self::Recording) -> bool {
        false
    }

    /// An answer that is not stored; `unprotected` if it would have been, but for the store.
    fn unstored(&self, response: Res, unprotected: bool) -> Self::Response;

    /// The answer that a record holds.
    ///
    /// # Errors
    ///
    /// If it holds none.
    fn restore(&self, record: &Record) -> Result<Self::Response, Error>;

    /// What the caller is told in place of an answer.
    ///
    /// # Errors
    ///
    /// This error, where the protocol has no answer for it.
    fn refuse(&self, error: Error) -> Result<Self::Response, Self::Error>;

    /// Looks whether the call was carried out, if there is a way to know.
    fn reconcile(&self, claim: &Claim) -> Option<BoxFuture<Result<Reconciled<Record>, BoxError>>>;
}
