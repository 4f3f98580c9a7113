use std::any::Any;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use reqwest::Url;

use super::asked::put;
use crate::service::with_url;

/// The body of an answer from beneath a stack that works [in place](crate::StackMiddleware::in_place).
///
/// As long as nobody reads it, it holds reqwest's response, which the caller then gets as it came.
#[derive(Debug)]
pub struct InPlaceBody(State);

#[derive(Debug)]
enum State {
    /// Without its headers and extensions; `None` only while it becomes the other state.
    Unread(Option<reqwest::Response>),
    Read(reqwest::Body, Box<Url>),
}

impl InPlaceBody {
    /// The response as `http` has it.
    #[inline]
    pub(crate) fn of(mut response: reqwest::Response) -> http::Response<Self> {
        let (status, version) = (response.status(), response.version());
        let (headers, extensions) = (mem::take(response.headers_mut()), mem::take(response.extensions_mut()));
        let mut answer = http::Response::new(Self(State::Unread(Some(response))));
        (*answer.status_mut(), *answer.version_mut()) = (status, version);
        put(answer.headers_mut(), headers);
        *answer.extensions_mut() = extensions;
        answer
    }

    /// The answer as reqwest has it, if its body is one of these. Nothing is left of it then.
    #[inline(always)]
    pub(crate) fn restored<B: 'static>(answer: &mut http::Response<B>) -> Option<reqwest::Response> {
        // Looked at where it is: an answer is large.
        let answer = (answer as &mut dyn Any).downcast_mut::<http::Response<Self>>()?;
        let (status, version) = (answer.status(), answer.version());
        let (headers, extensions) = (mem::take(answer.headers_mut()), mem::take(answer.extensions_mut()));
        match &mut answer.body_mut().0 {
            State::Unread(Some(unread)) if (unread.status(), unread.version()) == (status, version) => {
                put(unread.headers_mut(), headers);
                *unread.extensions_mut() = extensions;
            }
            _ => {
                (*answer.headers_mut(), *answer.extensions_mut()) = (headers, extensions);
                return Some(Self::restore(answer));
            }
        }
        match &mut answer.body_mut().0 {
            State::Unread(unread) => unread.take(),
            State::Read(..) => None,
        }
    }

    /// An answer that layers have read or changed.
    #[cold]
    fn restore(answer: &mut http::Response<Self>) -> reqwest::Response {
        let nothing = http::Response::new(Self(State::Unread(None)));
        let (parts, body) = mem::replace(answer, nothing).into_parts();
        let (body, url) = body.0.read();
        with_url(http::Response::from_parts(parts, body), *url).into()
    }
}

impl State {
    fn read(self) -> (reqwest::Body, Box<Url>) {
        match self {
            Self::Read(body, url) => (body, url),
            Self::Unread(response) => {
                let response = response.expect("it becomes the other state at once");
                let url = Box::new(response.url().clone());
                (http::Response::from(response).into_body(), url)
            }
        }
    }
}

impl Body for InPlaceBody {
    type Data = Bytes;
    type Error = reqwest::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, reqwest::Error>>> {
        if let State::Unread(response) = &mut self.0 {
            let (body, url) = State::Unread(response.take()).read();
            self.0 = State::Read(body, url);
        }
        let State::Read(body, _) = &mut self.0 else { unreachable!("it has just become so") };
        Pin::new(body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            State::Unread(response) => response.as_ref().is_some_and(|body| body.content_length() == Some(0)),
            State::Read(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            State::Unread(response) => {
                let length = response.as_ref().and_then(reqwest::Response::content_length);
                length.map_or_else(SizeHint::default, SizeHint::with_exact)
            }
            State::Read(body, _) => body.size_hint(),
        }
    }
}

/// The same body, with nothing of its response.
impl From<InPlaceBody> for reqwest::Body {
    fn from(body: InPlaceBody) -> Self {
        body.0.read().0
    }
}
