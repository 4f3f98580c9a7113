//! Degraded answers of HTTP.

mod directives;
mod field;
mod fields;
mod kept;
mod named;
mod rules;
#[cfg(feature = "store")]
mod written;

use std::fmt::Write as _;

use buttress_core::{BoxError, Classify, Level, Reason, Refused};
use buttress_http::{Answer, StoredResponse};
use http::header::{AGE, HeaderName};
use http::{HeaderValue, Request, Response};
use tower_service::Service;

use crate::fallen::Fallen;
use crate::grade::{Grade, IntoAnswer};
use crate::rung::Rung;
use crate::served::{Freshness, Served};

pub use field::DEGRADATION;
pub use kept::{HttpAsked, HttpKept, HttpRecording};
pub use rules::HttpRules;

/// RFC 9211.
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// In the extensions, for whoever called; and in header fields, for the next hop: `Age` (RFC 9111 § 5.1) and `Cache-Status`
/// (RFC 9211) of what was stored, [`DEGRADATION`] of what is degraded.
impl<B> Grade for Response<B> {
    fn served(&self) -> Option<&Served> {
        self.extensions().get()
    }

    fn note_next_hop(&mut self) {
        note_next_hop(self);
    }

    fn grade(&mut self, served: Served) {
        let headers = self.headers_mut();
        if let Some(age) = served.age() {
            headers.insert(AGE, HeaderValue::from(age.as_secs()));
        }
        if let Some(status) = cache_status(&served) {
            headers.append(CACHE_STATUS, status);
        }
        if served.level().is_degraded() {
            headers.insert(DEGRADATION, field::write(&served));
        } else {
            headers.remove(DEGRADATION);
        }
        self.extensions_mut().insert(served);
    }
}

fn cache_status(served: &Served) -> Option<HeaderValue> {
    let freshness = served.freshness()?;
    let (age, fresh_for) = (served.age()?.as_secs(), served.fresh_for()?.as_secs());
    let mut status = String::from(match freshness {
        Freshness::Confirmed => "buttress; fwd=stale; fwd-status=304",
        Freshness::Shared => "buttress; fwd=miss; collapsed",
        _ => "buttress; hit",
    });
    let ttl = i128::from(fresh_for) - i128::from(age);
    let _ = write!(status, "; ttl={ttl}");
    if matches!(freshness, Freshness::WhileRevalidate | Freshness::IfError) {
        let _ = write!(status, "; detail={}", freshness.as_str());
    }
    HeaderValue::try_from(status).ok()
}

/// The service's own response, with the level that the next hop has given it.
impl<B> IntoAnswer<Response<Answer<B>>> for Response<B> {
    // Responses are large, and moved once less for it.
    #[inline(always)]
    fn into_answer(mut self) -> Response<Answer<B>> {
        note_next_hop(&mut self);
        self.map(Answer::passing)
    }

    fn disbelieve(&mut self) {
        disbelieve(self);
    }
}

/// Of a layer below, which may have graded it.
impl<B> IntoAnswer<Response<Answer<B>>> for Response<Answer<B>> {
    fn into_answer(mut self) -> Response<Answer<B>> {
        note_next_hop(&mut self);
        self
    }

    fn disbelieve(&mut self) {
        disbelieve(self);
    }
}

/// One that is fixed: `StoredResponse::from(Response::new("…"))`.
impl<B> IntoAnswer<Response<Answer<B>>> for StoredResponse {
    fn into_answer(self) -> Response<Answer<B>> {
        let mut response = Response::new(Answer::from(self.body.unwrap_or_default()));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }
}

/// The field is passed on as far as it was understood.
#[inline(always)]
fn note_next_hop<B>(response: &mut Response<B>) {
    if is_said_by_next_hop(response) {
        read_next_hop(response);
    }
}

#[cold]
fn read_next_hop<B>(response: &mut Response<B>) {
    match field::read(response.headers()) {
        Some(served) => {
            response.headers_mut().insert(DEGRADATION, field::write(&served));
            response.extensions_mut().insert(served);
        }
        None => disbelieve(response),
    }
}

fn disbelieve<B>(response: &mut Response<B>) {
    if is_said_by_next_hop(response) {
        response.headers_mut().remove(DEGRADATION);
    }
}

/// And not noted by a layer of this process.
fn is_said_by_next_hop<B>(response: &Response<B>) -> bool {
    response.headers().contains_key(&DEGRADATION) && response.extensions().get::<Served>().is_none()
}

impl<B: Clone + Send + 'static, A: Send + 'static> Rung<Request<B>, A> {
    /// A reduced mode: another service that takes reads only, such as a replica: level 2. A request of another method gets no
    /// answer from it, and the error names the refusal ([`Reason::ReadOnly`]).
    pub fn read_only<S, P>(name: impl Into<std::sync::Arc<str>>, service: S, policy: P) -> Self
    where
        S: Service<Request<B>, Future: Send, Error: Into<BoxError>> + Clone + Send + 'static,
        S::Response: IntoAnswer<A> + Send,
        P: Classify<S::Response> + Clone + Send + Sync + 'static,
    {
        let name = name.into();
        let of = std::sync::Arc::clone(&name);
        let refuses = move |fallen: &Fallen<Request<B>, A>| {
            let writes = fallen.request().is_some_and(|request| !request.method().is_safe());
            let refused = || Refused::new("degrade", std::sync::Arc::clone(&of), Reason::ReadOnly);
            writes.then(|| ("serves reads only", refused().into()))
        };
        Self::alternate(name, service, policy).level(Level::Moderate).refuse_if(refuses)
    }
}
