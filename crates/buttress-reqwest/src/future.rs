use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use buttress::BoxError;
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::error::judged;
use crate::service::into_http;

/// reqwest's own future, which has no public name.
type Pending = <reqwest::Client as Service<reqwest::Request>>::Future;

pin_project! {
    /// The response of a [`ReqwestService`](crate::ReqwestService). Dropping it drops the exchange.
    #[derive(Debug)]
    pub struct ResponseFuture {
        #[pin]
        state: State,
    }
}

pin_project! {
    #[project = StateProj]
    #[derive(Debug)]
    enum State {
        Calling { #[pin] pending: Pending },
        Failed { error: Option<BoxError> },
    }
}

impl ResponseFuture {
    pub(crate) fn calling(pending: Pending) -> Self {
        Self { state: State::Calling { pending } }
    }

    pub(crate) fn failed(error: BoxError) -> Self {
        Self { state: State::Failed { error: Some(error) } }
    }
}

impl Future for ResponseFuture {
    type Output = Result<http::Response<reqwest::Body>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match self.project().state.project() {
            StateProj::Calling { pending } => ready!(pending.poll(cx)).map(into_http).map_err(judged),
            StateProj::Failed { error } => {
                Err(error.take().expect("a future is not polled again after it was ready"))
            }
        })
    }
}
