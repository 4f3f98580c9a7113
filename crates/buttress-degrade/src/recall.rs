use std::borrow::Cow;
use std::fmt;
use std::future::{Future, Ready, ready};
use std::marker::PhantomData;

use buttress_core::{BoxError, Level};

use crate::grade::{Degraded, Grade};
use crate::served::Served;
use crate::store::Lifetime;

/// What a store keeps, and how large it is.
pub trait Kept: Clone + Send + Sync + 'static {
    /// What is kept of an answer.
    type Record: Send + Sync + 'static;

    /// About how many bytes a record takes.
    fn size(&self, record: &Self::Record) -> usize;

    /// Whether an answer that is kept for so long is one, too, to those who have asked for the same at the same time, and waited. If
    /// not, each of them asks for himself.
    fn is_for_all(&self, lifetime: &Lifetime) -> bool {
        let _ = lifetime;
        true
    }

    /// Whether two records of one key are for the same requests, so that the newer one answers what the older one would have. `false`
    /// unless an implementation knows better.
    fn is_alike(&self, newer: &Self::Record, older: &Self::Record) -> bool {
        let _ = (newer, older);
        false
    }
}

/// Gives answers from what is kept.
pub trait Restore<A>: Kept {
    /// The answer that a record holds.
    fn restore(&self, record: &Self::Record) -> A;

    /// The same, with what is known of it.
    #[inline]
    fn restore_graded(&self, record: &Self::Record, served: Served) -> A
    where
        A: Grade,
    {
        let mut answer = self.restore(record);
        answer.grade(served);
        answer
    }
}

/// The rules by which answers are kept and given again: [`ByKey`] for values, `HttpRules` for HTTP.
pub trait Recall<Req, Res>: Restore<Self::Answer> {
    /// The answers that callers get.
    type Answer;
    /// What is remembered of a request until its response is judged.
    type Asked: Send + 'static;
    /// Resolves to what is to be kept, once the response is complete.
    type Recording: Future<Output = Result<Self::Record, BoxError>> + Send;

    /// Under which key an answer to this request is kept; `None` if it is neither kept nor looked for.
    fn key<'a>(&self, request: &'a Req) -> Option<Cow<'a, str>>;

    /// Under which key there may be an answer to a request that has no key of its own, if the service fails.
    fn key_in_outage<'a>(&self, request: &'a Req) -> Option<Cow<'a, str>> {
        let _ = request;
        None
    }

    /// Which key's answer is out of date once this request has succeeded.
    fn obsoletes(&self, request: &Req) -> Option<String> {
        let _ = request;
        None
    }

    /// Whether an answer of the service to such a request says that it was done.
    fn done(&self, answer: &Self::Answer) -> bool {
        let _ = answer;
        true
    }

    /// Which keys' answers are out of date as well, by what that answer says; `key` is what the request itself
    /// [obsoletes](Self::obsoletes).
    fn obsoletes_too(&self, key: &str, answer: &Self::Answer) -> Vec<String> {
        let _ = (key, answer);
        Vec::new()
    }

    /// What is remembered of a request.
    fn asked(&self, request: &Req) -> Self::Asked;

    /// Whether this record answers this request.
    fn accepts(&self, record: &Self::Record, request: &Req) -> Accepts {
        let _ = (record, request);
        Accepts::Yes
    }

    /// The same, of a request that has been sent, and has failed. [`No`](Accepts::No) unless an implementation knows better.
    fn answers(&self, record: &Self::Record, asked: &Self::Asked) -> Accepts {
        let _ = (record, asked);
        Accepts::No
    }

    /// Makes a request conditional, so that the service can say that the record is still good.
    fn revalidate(&self, request: &mut Req, record: &Self::Record) {
        let _ = (request, record);
    }

    /// Whether the response says that the record is still good.
    fn renewed(
        &self,
        asked: &Self::Asked,
        record: &Self::Record,
        response: &Res,
        lifetime: Lifetime,
    ) -> Renewal<Self::Record> {
        let _ = (asked, record, response, lifetime);
        Renewal::Not
    }

    /// How good a response says itself that it is; a degraded one is never kept.
    fn level(&self, response: &Res) -> Level {
        let _ = response;
        Level::Full
    }

    /// What is to be done with a good response (`good`), or with one that is not. `lifetime` is the store's own.
    fn keep(&self, asked: &Self::Asked, response: &Res, good: bool, lifetime: Lifetime) -> Keep;

    /// What tells apart, of requests of one key, those that answers like this record are for: those for whom it is the same share a
    /// call. `None` if such answers are for all.
    fn variant(&self, record: &Self::Record, request: &Req) -> Option<u64> {
        let _ = (record, request);
        None
    }

    /// Whether the caller has dropped the answer before its end, so that the recording goes on for the store alone.
    fn is_left(recording: &Self::Recording) -> bool {
        let _ = recording;
        false
    }

    /// The answer for the caller, and its recording.
    fn capture(&self, asked: Self::Asked, response: Res) -> (Self::Answer, Self::Recording);
}

/// Whether a record answers a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepts {
    /// It does.
    Yes,
    /// Only if the service confirms it: never when the service has failed.
    IfConfirmed,
    /// It is an answer to something else.
    No,
}

/// What a response says of a record that the service was asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal<V> {
    /// Nothing: it is an answer of its own.
    Not,
    /// It is still good, and is kept as this, for so long.
    Kept(V, Lifetime),
    /// It answers this request, and may not be kept any longer.
    Once,
}

/// What is to be done with a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Keep it.
    Store(Lifetime),
    /// Give it to all who wait for the same, and keep what was there.
    Share,
    /// Give it to all who wait for the same, and forget what was there.
    Forget,
    /// It is for this caller only.
    Alone,
    /// It is for this caller only, and what was there is forgotten.
    Withdraw,
}

/// Keeps values by a key that a function takes from the request.
///
/// Who asks belongs into the key, where that makes a difference: a tenant, a user.
///
/// ```
/// use buttress_degrade::{ByKey, LastGood};
///
/// struct Query { tenant: String }
/// let store = LastGood::new(ByKey::new(|query: &Query| Some(query.tenant.as_str().into())).weighing(|text: &String| text.len()));
/// # let _ = store;
/// ```
pub struct ByKey<F, T> {
    key: F,
    weigh: fn(&T) -> usize,
}

impl<F: Clone, T> Clone for ByKey<F, T> {
    fn clone(&self) -> Self {
        Self { key: self.key.clone(), weigh: self.weigh }
    }
}

impl<F, T> fmt::Debug for ByKey<F, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ByKey")
    }
}

impl<F, T> ByKey<F, T> {
    /// Keys from this function; `None` neither keeps nor looks for an answer. A value counts as its own size in memory.
    pub fn new<Req>(key: F) -> Self
    where
        F: for<'a> Fn(&'a Req) -> Option<Cow<'a, str>>,
    {
        let _: PhantomData<Req> = PhantomData;
        Self { key, weigh: |_| size_of::<T>() }
    }

    /// Weighs values by this: about how many bytes each holds on to.
    #[must_use]
    pub fn weighing(self, weigh: fn(&T) -> usize) -> Self {
        Self { weigh, ..self }
    }
}

impl<F, T> Kept for ByKey<F, T>
where
    F: Clone + Send + Sync + 'static,
    T: Send + Sync + 'static,
{
    type Record = T;

    fn size(&self, record: &T) -> usize {
        (self.weigh)(record).max(size_of::<T>())
    }

    fn is_alike(&self, _: &T, _: &T) -> bool {
        true
    }
}

impl<F, T> Restore<Degraded<T>> for ByKey<F, T>
where
    F: Clone + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
{
    fn restore(&self, record: &T) -> Degraded<T> {
        Degraded::full(record.clone())
    }

    #[inline]
    fn restore_graded(&self, record: &T, served: Served) -> Degraded<T> {
        Degraded::graded(record.clone(), served)
    }
}

impl<F, Req, T> Recall<Req, T> for ByKey<F, T>
where
    F: for<'a> Fn(&'a Req) -> Option<Cow<'a, str>> + Clone + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
{
    type Answer = Degraded<T>;
    type Asked = ();
    type Recording = Ready<Result<T, BoxError>>;

    fn key<'a>(&self, request: &'a Req) -> Option<Cow<'a, str>> {
        (self.key)(request)
    }

    fn asked(&self, _: &Req) {}

    fn answers(&self, _: &T, (): &()) -> Accepts {
        Accepts::Yes
    }

    fn keep(&self, (): &(), _: &T, good: bool, lifetime: Lifetime) -> Keep {
        if good { Keep::Store(lifetime) } else { Keep::Share }
    }

    fn capture(&self, (): (), response: T) -> (Degraded<T>, Self::Recording) {
        let record = response.clone();
        (Degraded::full(response), ready(Ok(record)))
    }
}

/// Over a service whose answers are graded already.
impl<F, Req, T> Recall<Req, Degraded<T>> for ByKey<F, T>
where
    F: for<'a> Fn(&'a Req) -> Option<Cow<'a, str>> + Clone + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
{
    type Answer = Degraded<T>;
    type Asked = ();
    type Recording = Ready<Result<T, BoxError>>;

    fn key<'a>(&self, request: &'a Req) -> Option<Cow<'a, str>> {
        (self.key)(request)
    }

    fn asked(&self, _: &Req) {}

    fn answers(&self, _: &T, (): &()) -> Accepts {
        Accepts::Yes
    }

    fn level(&self, response: &Degraded<T>) -> Level {
        response.level()
    }

    /// Of another store's answer the age goes on.
    fn keep(&self, (): &(), response: &Degraded<T>, good: bool, lifetime: Lifetime) -> Keep {
        let age = response.age().unwrap_or_default();
        if good { Keep::Store(Lifetime { age, ..lifetime }) } else { Keep::Share }
    }

    fn capture(&self, (): (), response: Degraded<T>) -> (Degraded<T>, Self::Recording) {
        let record = response.get_ref().clone();
        (response, ready(Ok(record)))
    }
}

/// As JSON.
#[cfg(feature = "store")]
impl<F, T> crate::backing::Writes for ByKey<F, T>
where
    F: Clone + Send + Sync + 'static,
    T: serde::Serialize + serde::de::DeserializeOwned + Send + Sync + 'static,
{
    fn write(&self, record: &T) -> Option<bytes::Bytes> {
        serde_json::to_vec(record).ok().map(Into::into)
    }

    fn read(&self, bytes: bytes::Bytes) -> Result<T, BoxError> {
        Ok(serde_json::from_slice(&bytes)?)
    }
}
