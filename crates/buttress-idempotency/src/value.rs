use std::borrow::Cow;
use std::fmt;
use std::future::{Future, Ready, ready};
use std::sync::Arc;

use buttress_core::{BoxError, Captured, Effect, ErrorRef, Seal, Verdict, error_verdict};
use buttress_store::{MAX_NAME, Record, ScopedKey};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, InvalidKey, RunError};
use crate::key::{Claim, Hash, MAX_KEY};
use crate::outcome::{Outcome, Reconciled};
use crate::protocol::{Identify, Identity, Protocol};
use crate::tasks::BoxFuture;

/// Requests and answers of any type: keys and fingerprints come from closures, answers are stored as JSON.
///
/// An answer is definitive. An error is never stored: it is [`NotExecuted`](Outcome::NotExecuted) where its verdict says
/// that nothing was sent, else [`Unknown`](Outcome::Unknown); [`judge`](Keyed::judge) decides otherwise.
///
/// ```
/// use buttress_idempotency::{Config, Hash, Idempotency, Keyed};
/// use buttress_store::Memory;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// #[derive(Clone)]
/// struct Transfer { id: String, tenant: String, amount: u64 }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), buttress_core::BoxError> {
/// let protocol = Keyed::new(
///     |transfer: &Transfer| Some(transfer.id.as_str().into()),
///     |transfer, hash: Hash| hash.part(transfer.amount.to_be_bytes()),
/// )
/// .scope(|transfer| transfer.tenant.as_str().into());
/// let idempotency = Idempotency::new("transfers", Memory::new(), Config::new())?;
/// let mut service = ServiceBuilder::new()
///     .layer(idempotency.layer(protocol))
///     .service(service_fn(|transfer: Transfer| async move { Ok::<u64, std::io::Error>(transfer.amount) }));
/// let transfer = Transfer { id: "t-1".into(), tenant: "acme".into(), amount: 100 };
/// assert_eq!(service.ready().await?.oneshot(transfer).await?, 100);
/// # Ok(())
/// # }
/// ```
pub struct Keyed<Req, Res> {
    shared: Arc<Shared<Req, Res>>,
}

#[derive(Clone)]
struct Shared<Req, Res> {
    key: KeyFn<Req>,
    scope: ScopeFn<Req>,
    fingerprint: FingerprintFn<Req>,
    attach: Option<AttachFn<Req>>,
    judge: JudgeFn<Res>,
    reconcile: Option<ReconcileFn<Res>>,
    required: bool,
}

type KeyFn<Req> = Arc<dyn for<'a> Fn(&'a Req) -> Option<Cow<'a, str>> + Send + Sync>;
type ScopeFn<Req> = Arc<dyn for<'a> Fn(&'a Req) -> Cow<'a, str> + Send + Sync>;
type FingerprintFn<Req> = Arc<dyn Fn(&Req, Hash) -> Hash + Send + Sync>;
type AttachFn<Req> = Arc<dyn Fn(&mut Req, Claim) + Send + Sync>;
type JudgeFn<Res> = Arc<dyn Fn(Result<&Res, ErrorRef<'_>>) -> Outcome + Send + Sync>;
type ReconcileFn<Res> = Arc<dyn Fn(Claim) -> BoxFuture<Result<Reconciled<Res>, BoxError>> + Send + Sync>;

impl<Req, Res> Clone for Keyed<Req, Res> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<Req, Res> fmt::Debug for Keyed<Req, Res> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyed").field("required", &self.shared.required).finish_non_exhaustive()
    }
}

impl<Req, Res: 'static> Keyed<Req, Res> {
    /// `key` gives the key of a request, if it has one; `fingerprint` hashes what must not change between two requests with
    /// one key.
    pub fn new(
        key: impl for<'a> Fn(&'a Req) -> Option<Cow<'a, str>> + Send + Sync + 'static,
        fingerprint: impl Fn(&Req, Hash) -> Hash + Send + Sync + 'static,
    ) -> Self {
        let shared = Shared {
            key: Arc::new(key),
            scope: Arc::new(|_| "".into()),
            fingerprint: Arc::new(fingerprint),
            attach: None,
            judge: Arc::new(default_judge),
            reconcile: None,
            required: false,
        };
        Self { shared: Arc::new(shared) }
    }

    fn with(mut self, change: impl FnOnce(&mut Shared<Req, Res>)) -> Self {
        let shared = &*self.shared;
        let mut shared = Shared {
            key: Arc::clone(&shared.key),
            scope: Arc::clone(&shared.scope),
            fingerprint: Arc::clone(&shared.fingerprint),
            attach: shared.attach.clone(),
            judge: Arc::clone(&shared.judge),
            reconcile: shared.reconcile.clone(),
            required: shared.required,
        };
        change(&mut shared);
        self.shared = Arc::new(shared);
        self
    }

    /// Within what a key is unique: a tenant, an account. One scope for all by default.
    #[must_use]
    pub fn scope(self, scope: impl for<'a> Fn(&'a Req) -> Cow<'a, str> + Send + Sync + 'static) -> Self {
        self.with(|shared| shared.scope = Arc::new(scope))
    }

    /// Refuses requests without a key; by default they are carried out as they are.
    #[must_use]
    pub fn required(self) -> Self {
        self.with(|shared| shared.required = true)
    }

    /// Shows the claim to whoever carries the request out.
    #[must_use]
    pub fn attach(self, attach: impl Fn(&mut Req, Claim) + Send + Sync + 'static) -> Self {
        self.with(|shared| shared.attach = Some(Arc::new(attach)))
    }

    /// What an answer or an error says about the effect. An error cannot be stored: where it is called definitive, the
    /// effect counts as unknown.
    #[must_use]
    pub fn judge(
        self,
        judge: impl Fn(Result<&Res, ErrorRef<'_>>) -> Outcome + Send + Sync + 'static,
    ) -> Self {
        self.with(|shared| shared.judge = Arc::new(judge))
    }

    /// An error means that the next call may try again at once: for effects that can be repeated until they succeed.
    #[must_use]
    pub fn success_only(self) -> Self {
        self.judge(|answer| if answer.is_ok() { Outcome::Definitive } else { Outcome::NotExecuted })
    }

    /// Looks whether a call was carried out whose earlier attempt left that unknown.
    #[must_use]
    pub fn reconcile<F>(self, look: impl Fn(Claim) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Reconciled<Res>, BoxError>> + Send + 'static,
    {
        self.with(|shared| shared.reconcile = Some(Arc::new(move |claim| Box::pin(look(claim)))))
    }
}

fn default_judge<Res>(answer: Result<&Res, ErrorRef<'_>>) -> Outcome {
    match answer.map_err(error_verdict) {
        Ok(_) => Outcome::Definitive,
        Err(Verdict::Failure { effect: Effect::NotSent, .. }) => Outcome::NotExecuted,
        Err(_) => Outcome::Unknown,
    }
}

impl<Req, Res> Identify<Req> for Keyed<Req, Res> {
    type Request = Req;
    type Identified = Ready<(Req, Result<Option<Identity>, Error>)>;

    fn is_guarded(&self, request: &Req) -> bool {
        self.shared.required || (self.shared.key)(request).is_some()
    }

    fn pass(&self, request: Req) -> Req {
        request
    }

    fn identify(&self, request: Req) -> Self::Identified {
        let shared = &self.shared;
        let identified = match (shared.key)(&request) {
            Some(key) => scoped(&(shared.scope)(&request), &key)
                .map(|key| Some((key, (shared.fingerprint)(&request, Hash::new()).fingerprint()))),
            None => Err(Error::KeyMissing),
        };
        ready((request, identified))
    }

    fn attach(&self, request: &mut Req, claim: Claim) {
        if let Some(attach) = &self.shared.attach {
            attach(request, claim);
        }
    }
}

pub(crate) fn scoped(scope: &str, key: &str) -> Result<ScopedKey, Error> {
    let why = match key.len() {
        0 => InvalidKey::Empty,
        1..=MAX_KEY => return Ok(fitting(scope, key)),
        _ => InvalidKey::TooLong,
    };
    Err(Error::KeyInvalid(why))
}

/// A scope that is too long is hashed: it only has to be different from others. So is what looks like a hash.
fn fitting(scope: &str, key: &str) -> ScopedKey {
    const HASHED: &str = "blake3:";
    let scope = if scope.len() > MAX_NAME || scope.starts_with(HASHED) {
        format!("{HASHED}{}", blake3::hash(scope.as_bytes()).to_hex()).into()
    } else {
        Cow::Borrowed(scope)
    };
    ScopedKey::try_new(&*scope, key).expect("a scope and a key that fit")
}

/// The key of a call at one of several guards that share a store, each with a name of its own.
pub(crate) fn named(name: &str, key: &ScopedKey) -> ScopedKey {
    fitting(&format!("{}:{name}{}", name.len(), key.scope()), key.key())
}

impl<Req, Res, E> Protocol<Res, E> for Keyed<Req, Res>
where
    Res: Serialize + DeserializeOwned + 'static,
    E: Into<BoxError>,
{
    type Response = Res;
    type Error = BoxError;
    type Recording = Ready<Result<Captured<Record>, BoxError>>;

    fn judge(&self, answer: Result<Res, E>) -> (Outcome, Result<Res, BoxError>) {
        let answer = answer.map_err(Into::into);
        let outcome = (self.shared.judge)(answer.as_ref().map_err(|error| &**error as ErrorRef<'_>));
        (outcome, answer)
    }

    fn fail(&self, error: E) -> BoxError {
        error.into()
    }

    fn capture(&self, response: Res) -> (Res, Self::Recording) {
        let record = encode(&response);
        (response, ready(Ok(Captured { record, seal: Seal::default() })))
    }

    fn unstored(&self, response: Res, _: bool) -> Res {
        response
    }

    fn restore(&self, record: &Record) -> Result<Res, Error> {
        Returned::read(record)
    }

    fn refuse(&self, error: Error) -> Result<Res, BoxError> {
        Err(error.into_boxed())
    }

    fn reconcile(&self, claim: &Claim) -> Option<BoxFuture<Result<Reconciled<Record>, BoxError>>> {
        let looking = self.shared.reconcile.as_ref()?(claim.clone());
        Some(Box::pin(async move {
            Ok(match looking.await? {
                Reconciled::Done(response) => Reconciled::Done(encode(&response)),
                Reconciled::NotDone => Reconciled::NotDone,
                Reconciled::Unknown => Reconciled::Unknown,
            })
        }))
    }
}

/// An answer as [`Keyed`] and [`Idempotency::run`](crate::Idempotency::run) store it.
///
/// What cannot be written as JSON is unknown to whoever asks again: the effect is done, and must not be repeated.
pub fn record_of<T: Serialize>(answer: &T) -> Record {
    encode(answer)
}

fn encode<T: Serialize>(value: &T) -> Record {
    serde_json::to_vec(value).map_or(Record::Unknown, |json| Record::Value(json.into()))
}

/// What [`Idempotency::run`](crate::Idempotency::run) gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ran<T> {
    /// It was run now.
    Executed(T),
    /// It was run before.
    Replayed(T),
}

impl<T> Ran<T> {
    /// The answer, whenever it was given.
    pub fn into_inner(self) -> T {
        match self {
            Self::Executed(value) | Self::Replayed(value) => value,
        }
    }
}

/// The answers of functions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Returned;

impl Returned {
    pub(crate) fn read<T: DeserializeOwned>(record: &Record) -> Result<T, Error> {
        match record {
            Record::Value(json) => {
                serde_json::from_slice(json).map_err(|error| Error::Unreadable(error.into()))
            }
            Record::TooLarge => Err(Error::AnswerTooLarge),
            _ => Err(Error::Unknown),
        }
    }
}

impl<T, E> Protocol<T, E> for Returned
where
    T: Serialize + DeserializeOwned,
    E: std::error::Error + Send + Sync + 'static,
{
    type Response = Ran<T>;
    type Error = RunError<E>;
    type Recording = Ready<Result<Captured<Record>, BoxError>>;

    fn judge(&self, answer: Result<T, E>) -> (Outcome, Result<T, RunError<E>>) {
        let outcome = default_judge(answer.as_ref().map_err(|error| error as ErrorRef<'_>));
        (outcome, answer.map_err(RunError::Effect))
    }

    fn fail(&self, error: E) -> RunError<E> {
        RunError::Effect(error)
    }

    fn capture(&self, response: T) -> (Ran<T>, Self::Recording) {
        let record = encode(&response);
        (Ran::Executed(response), ready(Ok(Captured { record, seal: Seal::default() })))
    }

    fn unstored(&self, response: T, _: bool) -> Ran<T> {
        Ran::Executed(response)
    }

    fn restore(&self, record: &Record) -> Result<Ran<T>, Error> {
        Self::read(record).map(Ran::Replayed)
    }

    fn refuse(&self, error: Error) -> Result<Ran<T>, RunError<E>> {
        Err(RunError::Idempotency(error))
    }

    fn reconcile(&self, _: &Claim) -> Option<BoxFuture<Result<Reconciled<Record>, BoxError>>> {
        None
    }
}
