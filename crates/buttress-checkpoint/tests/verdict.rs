//! What a recorded error means.

use std::future::{Ready, ready};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use buttress_checkpoint::{CheckpointLayer, Cx, Failure, Workflows};
use buttress_core::{BoxError, Hint, Judged, Kind, Verdict, error_verdict};
use buttress_store::Memory;
use tower::{Service, ServiceBuilder, ServiceExt};

/// Fails, and counts how often.
#[derive(Clone)]
struct Failing<F> {
    error: F,
    called: Arc<Mutex<(Vec<Verdict>, usize)>>,
}

impl<F: Fn() -> BoxError> Service<()> for Failing<F> {
    type Response = ();
    type Error = BoxError;
    type Future = Ready<Result<(), BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        self.called.lock().unwrap().1 += 1;
        ready(Err((self.error)()))
    }
}

/// Calls a service that fails with this error, in a workflow that is put down and replayed, and gives what the error meant
/// each time, and how often the service was called.
async fn verdicts(error: impl Fn() -> BoxError + Clone + Send + Sync + 'static) -> (Vec<Verdict>, usize) {
    let heard = Arc::new(Mutex::new((Vec::new(), 0)));
    let workflows = Workflows::open(Memory::new());
    let shared = heard.clone();
    let code = move |cx: Cx, ()| {
        let (heard, error) = (shared.clone(), error.clone());
        async move {
            let called = heard.clone();
            let failing = Failing { error, called };
            let service = ServiceBuilder::new().layer(CheckpointLayer::named("call")).service(failing);
            let error = service.oneshot(()).await.unwrap_err();
            heard.lock().unwrap().0.push(error_verdict(&*error));
            cx.sleep(Duration::from_secs(3600)).await?;
            Ok::<_, Failure>(error.to_string())
        }
    };
    let flow = workflows.register("w", 1, code).unwrap();
    let handle = flow.start("run", ()).await.unwrap();
    tokio::select! {
        () = workflows.run_until(std::future::pending()) => unreachable!(),
        result = handle.result() => drop(result.unwrap()),
    }
    let heard = heard.lock().unwrap();
    heard.clone()
}

#[tokio::test(start_paused = true)]
async fn a_replayed_error_means_what_the_error_itself_meant() {
    let after = Hint::RetryAfter(Duration::from_millis(1500));
    let judged = [
        Verdict::Success,
        Verdict::Rejected,
        Verdict::Ignored,
        Verdict::failure(Kind::Transient).with_hint(Hint::DoNotRetry),
        Verdict::failure(Kind::Throttled).with_hint(after).not_sent(),
        Verdict::failure(Kind::Timeout),
        Verdict::failure(Kind::Refused),
        Verdict::failure(Kind::Permanent),
    ];
    for verdict in judged {
        let (heard, calls) = verdicts(move || Judged::new(verdict, "no").into()).await;
        assert_eq!((heard, calls), (vec![verdict, verdict], 1));
    }
    let (heard, _) = verdicts(|| std::io::Error::from(std::io::ErrorKind::ConnectionRefused).into()).await;
    assert_eq!(heard, [Verdict::failure(Kind::Transient).not_sent(); 2]);
}

/// A service that can be called once, and is never ready again.
#[derive(Clone)]
struct Once(Arc<Mutex<(Vec<Verdict>, usize)>>);

impl Service<()> for Once {
    type Response = usize;
    type Error = BoxError;
    type Future = Ready<Result<usize, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if self.0.lock().unwrap().1 > 0 { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    fn call(&mut self, (): ()) -> Self::Future {
        let mut called = self.0.lock().unwrap();
        called.1 += 1;
        ready(Ok(called.1))
    }
}

#[tokio::test(start_paused = true)]
async fn a_replay_needs_no_service_that_is_ready() {
    let workflows = Workflows::open(Memory::new());
    let once = Once(Arc::default());
    let code = move |cx: Cx, ()| {
        let once = once.clone();
        async move {
            let mut service = ServiceBuilder::new().layer(CheckpointLayer::named("call")).service(once);
            let ready = service.ready().await.map_err(|error| Failure::of(&*error))?;
            let number = ready.call(()).await.map_err(|error| Failure::of(&*error))?;
            cx.sleep(Duration::from_secs(3600)).await?;
            Ok::<_, Failure>(number)
        }
    };
    let flow = workflows.register("w", 1, code).unwrap();
    let handle = flow.start("run", ()).await.unwrap();
    tokio::select! {
        () = workflows.run_until(std::future::pending()) => unreachable!(),
        result = handle.result() => assert_eq!(result.unwrap(), 1),
    }
}
