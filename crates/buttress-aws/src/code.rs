//! The code of an error, which AWS puts into a header or into the body.

use std::collections::VecDeque;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use aws_smithy_types::body::SdkBody;
use buttress::BoxError;
use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Response};
use http_body::{Body, Frame, SizeHint};
use serde_json::Value;

const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");

/// Errors are short; a longer one is judged by its status.
const LONGEST: u64 = 64 * 1024;

/// The header is not the server's.
#[derive(Clone, Copy)]
struct Named;

/// Whether the response is an error whose code may be in its body.
pub(crate) fn is_unnamed(response: &Response<SdkBody>) -> bool {
    let body = response.body();
    response.status().as_u16() >= 400
        && !response.headers().contains_key(ERROR_TYPE)
        && !body.is_end_stream()
        && Body::size_hint(body).lower() <= LONGEST
}

/// The response as the server sent it.
pub(crate) fn unnamed<B>(mut response: Response<B>) -> Response<B> {
    if response.extensions_mut().remove::<Named>().is_some() {
        response.headers_mut().remove(ERROR_TYPE);
    }
    response
}

/// Reads the body of an error, and gives the response with its code as a header.
pub(crate) struct Reading {
    response: Response<SdkBody>,
    read: Vec<Frame<Bytes>>,
    length: u64,
}

impl Reading {
    pub(crate) fn new(response: Response<SdkBody>) -> Self {
        Self { response, read: Vec::new(), length: 0 }
    }

    /// Not to be polled again after it was ready.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Response<SdkBody>> {
        let failed = loop {
            match ready!(Pin::new(self.response.body_mut()).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    self.length += frame.data_ref().map_or(0, |data| data.len() as u64);
                    self.read.push(frame);
                    if self.length > LONGEST {
                        break None;
                    }
                }
                Some(Err(error)) => break Some(error),
                None => return Poll::Ready(self.named()),
            }
        };
        let read = mem::take(&mut self.read).into_iter().map(Ok).chain(failed.map(Err)).collect();
        Poll::Ready(self.give_back(read))
    }

    /// The response whose body has been read to its end.
    fn named(&mut self) -> Response<SdkBody> {
        let data = self.read.iter().filter_map(Frame::data_ref);
        let data = data.fold(BytesMut::new(), |mut all, data| {
            all.extend_from_slice(data);
            all
        });
        let data = data.freeze();
        let code = code(&data);
        let mut response = if self.read.iter().any(Frame::is_trailers) {
            let read = mem::take(&mut self.read).into_iter().map(Ok).collect();
            self.give_back(read)
        } else {
            mem::replace(&mut self.response, Response::new(SdkBody::taken())).map(|_| SdkBody::from(data))
        };
        if let Some(code) = code {
            response.headers_mut().insert(ERROR_TYPE, code);
            response.extensions_mut().insert(Named);
        }
        response
    }

    fn give_back(&mut self, read: VecDeque<Result<Frame<Bytes>, BoxError>>) -> Response<SdkBody> {
        let response = mem::replace(&mut self.response, Response::new(SdkBody::taken()));
        response.map(|rest| SdkBody::from_body_1_x(Begun { read, rest }))
    }
}

/// The code in an error's body: `__type` or `code` in JSON, the first `<Code>` in XML.
fn code(body: &[u8]) -> Option<HeaderValue> {
    let code = match body.iter().find(|byte| !byte.is_ascii_whitespace())? {
        b'{' => in_json(body)?,
        b'<' => in_xml(body)?,
        _ => return None,
    };
    let plausible = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:#/".contains(&byte);
    let code = code.trim();
    if code.is_empty() || !code.bytes().all(plausible) {
        return None;
    }
    HeaderValue::from_str(code).ok()
}

fn in_json(body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    ["__type", "code", "Code"].iter().find_map(|field| Some(body.get(field)?.as_str()?.to_owned()))
}

fn in_xml(body: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(body);
    let (_, code) = text.split_once("<Code>")?;
    Some(code.split_once("</Code>")?.0.to_owned())
}

/// A body of which something has been read.
struct Begun {
    read: VecDeque<Result<Frame<Bytes>, BoxError>>,
    rest: SdkBody,
}

impl Body for Begun {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.read.pop_front() {
            Some(read) => Poll::Ready(Some(read)),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_empty() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let read = self.read.iter().filter_map(|read| read.as_ref().ok()?.data_ref());
        let read: u64 = read.map(|data| data.len() as u64).sum();
        let rest = Body::size_hint(&self.rest);
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(read));
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(read)) {
            hint.set_upper(upper);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    fn codes(body: &str) -> Option<String> {
        code(body.as_bytes()).map(|code| code.to_str().unwrap().to_owned())
    }

    #[test]
    fn codes_are_found_in_every_form_that_aws_has() {
        for (body, expected) in [
            (
                r#"{"__type":"com.amazonaws.sqs#ThrottlingException","message":"slow"}"#,
                "com.amazonaws.sqs#ThrottlingException",
            ),
            (r#" {"code":"Throttling"}"#, "Throttling"),
            ("<?xml version=\"1.0\"?>\n<Error><Code>SlowDown</Code><Message/></Error>", "SlowDown"),
            (
                "<Response><Errors><Error><Code> RequestLimitExceeded </Code></Error></Errors></Response>",
                "RequestLimitExceeded",
            ),
        ] {
            assert_eq!(codes(body).as_deref(), Some(expected), "{body}");
        }
        for body in [
            "",
            "  ",
            "{",
            "[]",
            "{}",
            r#"{"__type":7}"#,
            r#"{"__type":"a\r\nb: c"}"#,
            "<Code>",
            "<Code></Code>",
            "Throttling",
        ] {
            assert_eq!(codes(body), None, "{body}");
        }
    }

    /// In these pieces.
    struct Pieces(VecDeque<Result<Frame<Bytes>, BoxError>>);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            Poll::Ready(self.0.pop_front())
        }
    }

    fn ready<T>(poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> T {
        match poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(ready) => ready,
            Poll::Pending => panic!("it waits"),
        }
    }

    fn read(pieces: impl IntoIterator<Item = Result<Frame<Bytes>, BoxError>>) -> Response<SdkBody> {
        let body = SdkBody::from_body_1_x(Pieces(pieces.into_iter().collect()));
        let response = Response::builder().status(400).body(body).unwrap();
        assert!(is_unnamed(&response));
        let mut reading = Reading::new(response);
        ready(|cx| reading.poll(cx))
    }

    fn frames(mut response: Response<SdkBody>) -> Vec<Result<usize, String>> {
        std::iter::from_fn(|| ready(|cx| Pin::new(response.body_mut()).poll_frame(cx)))
            .map(|frame| {
                frame.map(|frame| frame.data_ref().map_or(0, Bytes::len)).map_err(|error| error.to_string())
            })
            .collect()
    }

    fn data(text: &'static str) -> Result<Frame<Bytes>, BoxError> {
        Ok(Frame::data(Bytes::from_static(text.as_bytes())))
    }

    #[test]
    fn what_was_read_is_given_back_and_the_header_goes_again() {
        let response = read([data("<Error><Code>Slow"), data("Down</Code></Error>")]);
        assert_eq!(response.headers()[ERROR_TYPE], "SlowDown");
        let response = unnamed(response);
        assert!(response.headers().is_empty());
        assert_eq!(frames(response), [Ok(36)]);

        let mut server_s = Response::builder().header(ERROR_TYPE, "SlowDown").body(()).unwrap();
        server_s = unnamed(server_s);
        assert_eq!(server_s.headers()[ERROR_TYPE], "SlowDown");
    }

    #[test]
    fn trailers_errors_and_long_bodies_pass_as_they_came() {
        let trailers = Ok(Frame::trailers(http::HeaderMap::new()));
        assert_eq!(frames(read([data("{"), data("}"), trailers])), [Ok(1), Ok(1), Ok(0)]);
        assert_eq!(frames(read([data("{"), Err("reset".into())])), [Ok(1), Err("reset".to_owned())]);
        let long = || Ok(Frame::data(Bytes::from(vec![b' '; 40 * 1024])));
        assert_eq!(frames(read([long(), long(), long()])), vec![Ok(40 * 1024); 3]);
    }
}
