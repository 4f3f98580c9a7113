use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use aws_smithy_runtime_api::client::http::HttpConnectorFuture;
use aws_smithy_types::body::SdkBody;
use buttress::BoxError;
use pin_project_lite::pin_project;

use crate::code::{Reading, is_unnamed};
use crate::error::judged;

pin_project! {
    /// The response of a [`ConnectorService`](crate::ConnectorService). Dropping it drops the exchange.
    pub struct ResponseFuture {
        #[pin]
        state: State,
    }
}

pin_project! {
    #[project = StateProj]
    enum State {
        Calling { #[pin] call: HttpConnectorFuture },
        Reading { reading: Reading },
        Failed { error: Option<BoxError> },
    }
}

impl ResponseFuture {
    pub(crate) fn calling(call: HttpConnectorFuture) -> Self {
        Self { state: State::Calling { call } }
    }

    pub(crate) fn failed(error: BoxError) -> Self {
        Self { state: State::Failed { error: Some(error) } }
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

impl Future for ResponseFuture {
    type Output = Result<http::Response<SdkBody>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let response = match this.state.as_mut().project() {
                StateProj::Calling { call } => ready!(call.poll(cx)).map_err(judged)?,
                StateProj::Reading { reading } => return reading.poll(cx).map(Ok),
                StateProj::Failed { error } => {
                    let error = error.take().expect("a future is not polled again after it was ready");
                    return Poll::Ready(Err(error));
                }
            };
            let response = response.try_into_http1x()?;
            if !is_unnamed(&response) {
                return Poll::Ready(Ok(response));
            }
            this.state.set(State::Reading { reading: Reading::new(response) });
        }
    }
}
