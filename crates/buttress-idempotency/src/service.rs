use std::fmt;
use std::future::poll_fn;
use std::mem;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll};

use buttress_core::{BoxError, Captured, IdempotencyResult, Mode};
use buttress_store::{ClaimStore, Record};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tower_service::Service;

use crate::engine::{Decision, result_of};
use crate::error::Error;
use crate::future::{Detachable, ResponseFuture};
use crate::handle::Idempotency;
use crate::key::Claim;
use crate::protocol::{Identify, Protocol};
use crate::value::named;

/// Carries out each call once; made by [`IdempotencyLayer`](crate::IdempotencyLayer).
pub struct Idempotent<S, P, St> {
    inner: S,
    protocol: P,
    idempotency: Idempotency<St>,
}

impl<S, P, St> Idempotent<S, P, St> {
    pub(crate) fn new(inner: S, protocol: P, idempotency: Idempotency<St>) -> Self {
        Self { inner, protocol, idempotency }
    }

    /// The service inside.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The service inside.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S: Clone, P: Clone, St> Clone for Idempotent<S, P, St> {
    fn clone(&self) -> Self {
        Self::new(self.inner.clone(), self.protocol.clone(), self.idempotency.clone())
    }
}

impl<S: fmt::Debug, P: fmt::Debug, St> fmt::Debug for Idempotent<S, P, St> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Idempotent")
            .field("inner", &self.inner)
            .field("protocol", &self.protocol)
            .field("idempotency", &self.idempotency)
            .finish()
    }
}

impl<S, P, St, Req> Service<Req> for Idempotent<S, P, St>
where
    S: Service<<P as Identify<Req>>::Request> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Response: Send + 'static,
    S::Error: Send + 'static,
    P: Identify<Req> + Protocol<S::Response, S::Error>,
    P: Clone + Send + Sync + 'static,
    <P as Identify<Req>>::Request: Send + 'static,
    P::Identified: Send + 'static,
    P::Response: Send + 'static,
    P::Error: Send + 'static,
    P::Recording: Future<Output = Result<Captured<Record>, BoxError>> + Send + 'static,
    St: ClaimStore,
    Req: Send + 'static,
{
    type Response = P::Response;
    type Error = P::Error;
    type Future = ResponseFuture<S::Future, P, Detachable<Result<P::Response, P::Error>>>;

    /// That of the service inside.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), P::Error>> {
        self.poll_inner_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let (call, request, runtime) = match self.begin(request) {
            Ok(begun) => begun,
            Err(future) => return future,
        };
        let engine = &self.idempotency.engine;
        let (tasks, limit) = (Arc::clone(&engine.tasks), engine.config.ceiling);
        let (reply, answer) = oneshot::channel();
        let begun = Arc::new(AtomicBool::new(false));
        let work = Box::pin(call.carry_out(request, runtime.clone(), Arc::clone(&begun), reply));
        ResponseFuture::guarded(Detachable::new(work, answer, begun, tasks, (runtime, limit)))
    }
}

impl<S: Clone, P: Clone, St> Idempotent<S, P, St> {
    pub(crate) fn poll_inner_ready<Req>(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), P::Error>>
    where
        S: Service<Req>,
        P: Protocol<S::Response, S::Error>,
    {
        self.inner.poll_ready(cx).map_err(|error| self.protocol.fail(error))
    }

    /// The call that is to be made, with the instance that was made ready; or what becomes of a request that is not guarded.
    #[allow(clippy::type_complexity, reason = "what a call is made of")]
    pub(crate) fn begin<Req, C>(
        &mut self,
        request: Req,
    ) -> Result<(Call<S, P, St>, Req, Handle), ResponseFuture<S::Future, P, C>>
    where
        S: Service<<P as Identify<Req>>::Request>,
        P: Identify<Req>,
    {
        let protocol = self.protocol.clone();
        if self.idempotency.engine.mode.get() == Mode::Off || !protocol.is_guarded(&request) {
            return Err(ResponseFuture::passing(self.inner.call(protocol.pass(request)), protocol));
        }
        let unready = self.inner.clone();
        let inner = mem::replace(&mut self.inner, unready);
        let Ok(runtime) = Handle::try_current() else {
            return Err(ResponseFuture::refused(Error::NoRuntime, protocol));
        };
        Ok((Call { inner, protocol, idempotency: self.idempotency.clone() }, request, runtime))
    }
}

pub(crate) struct Call<S, P, St> {
    inner: S,
    protocol: P,
    idempotency: Idempotency<St>,
}

impl<S, P, St> Call<S, P, St> {
    pub(crate) async fn carry_out<Req>(
        self,
        request: Req,
        runtime: Handle,
        begun: Arc<AtomicBool>,
        reply: oneshot::Sender<Result<P::Response, P::Error>>,
    ) where
        S: Service<<P as Identify<Req>>::Request> + Clone,
        P: Identify<Req> + Protocol<S::Response, S::Error>,
        St: ClaimStore,
    {
        let Self { inner, protocol, idempotency } = self;
        let (mut inner, engine) = (Ready { service: inner, is_ready: true }, &idempotency.engine);
        let (mut request, identified) = {
            let mut identifying = pin!(protocol.identify(request));
            match poll_fn(|cx| Poll::Ready(identifying.as_mut().poll(cx))).await {
                Poll::Ready(identified) => identified,
                Poll::Pending => {
                    inner.let_go();
                    identifying.await
                }
            }
        };
        let (identity, decision) = match identified {
            Ok(Some((key, fingerprint))) => {
                let key = named(&engine.name, &key);
                let decision = engine.decide(&runtime, &key, fingerprint, || inner.let_go()).await;
                (Some((key, fingerprint)), decision)
            }
            Ok(None) => {
                engine.report(IdempotencyResult::Unprotected);
                (None, Decision::Unprotected(engine.unprotected()))
            }
            Err(_) if engine.mode.get() == Mode::Observe => {
                engine.report(IdempotencyResult::WouldRefuse);
                (None, Decision::Unprotected(engine.unprotected()))
            }
            Err(error) => {
                engine.report(result_of(&error));
                (None, Decision::Refuse(error))
            }
        };
        let answer = match decision {
            Decision::Run(held) => {
                let effect = |mut service: S, claim| {
                    protocol.attach(&mut request, claim);
                    async move { service.call(request).await }
                };
                return held.drive(begun, &protocol, inner.ready(), effect, reply).await;
            }
            Decision::Replay(record) => protocol.restore(&record).or_else(|error| protocol.refuse(error)),
            Decision::Refuse(error) => protocol.refuse(error),
            Decision::Unprotected(_until_it_ends) => {
                if let Some((key, fingerprint)) = identity {
                    protocol.attach(&mut request, Claim::unprotected(key, fingerprint));
                }
                let enforced = engine.mode.get() == Mode::Enforce;
                let called = async { inner.ready().await?.call(request).await };
                let (_, answer) = protocol.judge(called.await);
                answer.map(|response| protocol.unstored(response, enforced))
            }
        };
        let _ = reply.send(answer);
    }
}

/// The service inside, as it was made ready, until its call has to wait: then it has nothing of it reserved meanwhile.
struct Ready<S> {
    service: S,
    is_ready: bool,
}

impl<S: Clone> Ready<S> {
    fn let_go(&mut self) {
        if mem::take(&mut self.is_ready) {
            self.service = self.service.clone();
        }
    }

    async fn ready<Req>(mut self) -> Result<S, S::Error>
    where
        S: Service<Req>,
    {
        if !self.is_ready {
            poll_fn(|cx| self.service.poll_ready(cx)).await?;
        }
        Ok(self.service)
    }
}
