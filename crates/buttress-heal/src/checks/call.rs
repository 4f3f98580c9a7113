use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;

use buttress_core::{BoxError, Classify, Discard, Verdict};
use tower_service::Service;

use super::evidence;
use crate::BoxFuture;
use crate::check::{Answer, Check, Subject, Symptom};

/// A request through the service itself, as a call would make it, judged by a policy.
///
/// It passes if the outcome is a [`Success`](Verdict::Success). A request that is rejected as its caller's fault (HTTP 401,
/// 404) fails, since it is the check that has made it; one that is [`Ignored`](Verdict::Ignored) says nothing. The response
/// is disposed of as the policy says, so that its connection can be used again. While there is no service, it fails.
///
/// The symptom is [`Symptom::Connectivity`], unless [`symptom`](Self::symptom) says otherwise.
///
/// ```
/// use buttress_core::{ErrorsAreFailures, Plain};
/// use buttress_heal::CallCheck;
///
/// // Of a service that takes strings.
/// let check = CallCheck::new("ping", || "PING".to_owned(), Plain::<ErrorsAreFailures>::default());
/// ```
///
/// Under HTTP the policy is `buttress_http::Http`, and `buttress::heal::HttpCheck` makes the request, too.
#[derive(Clone)]
pub struct CallCheck<F, P> {
    name: Arc<str>,
    symptom: Symptom,
    request: F,
    policy: P,
}

impl<F, P> CallCheck<F, P> {
    /// A check of this name, with a request from this closure each time.
    pub fn new(name: impl Into<Arc<str>>, request: F, policy: P) -> Self {
        Self { name: name.into(), symptom: Symptom::Connectivity, request, policy }
    }

    /// What is wrong when it fails.
    #[must_use]
    pub fn symptom(self, symptom: Symptom) -> Self {
        Self { symptom, ..self }
    }
}

impl<F, P> fmt::Debug for CallCheck<F, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallCheck").field("name", &self.name).field("symptom", &self.symptom).finish()
    }
}

impl<S, Req, F, P> Check<S> for CallCheck<F, P>
where
    S: Service<Req, Error: Into<BoxError>, Future: Send, Response: Send> + Clone + Send,
    Req: Send,
    F: Fn() -> Req + Send + Sync,
    P: Classify<S::Response> + Discard<S::Response, Future: Send> + Send + Sync,
{
    fn name(&self) -> &str {
        &self.name
    }

    fn symptom(&self) -> Symptom {
        self.symptom.clone()
    }

    fn run<'a>(&'a self, subject: Subject<'a, S>) -> BoxFuture<'a, Answer> {
        let service = subject.service.cloned();
        Box::pin(async move {
            let Some(mut service) = service else { return Answer::fail("there is no service") };
            let ready = poll_fn(|cx| service.poll_ready(cx)).await.map_err(Into::into);
            let outcome: Result<_, BoxError> = match ready {
                Ok(()) => service.call((self.request)()).await.map_err(Into::into),
                Err(error) => Err(error),
            };
            match outcome {
                Ok(response) => {
                    let verdict = self.policy.classify(Ok(&response));
                    self.policy.discard(response).await;
                    judged(verdict, None)
                }
                Err(error) => judged(self.policy.classify(Err(&*error)), Some(&error)),
            }
        })
    }
}

fn judged(verdict: Verdict, error: Option<&BoxError>) -> Answer {
    let said = |otherwise: &str| error.map_or_else(|| otherwise.to_owned(), |error| evidence(&**error));
    match verdict {
        Verdict::Success => Answer::Pass,
        Verdict::Ignored => Answer::Skipped,
        Verdict::Rejected => Answer::fail(said("its request was rejected")),
        Verdict::Failure { kind, .. } => {
            Answer::fail(said(&format!("the answer is a failure ({})", kind.as_str())))
        }
    }
}
