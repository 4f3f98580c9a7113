use std::fmt;

use buttress_core::{BoxError, Repeatable, Replay};
use buttress_http::{HttpReplay, KeptUri, ReplayBody};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, TE};
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Version};
use http_body::Body;

use crate::call::Known;

/// Keeps calls so that they can be sent again: as [`HttpReplay`] does, but a request that consists of one message is in memory as a
/// whole before it is sent.
///
/// What a client makes of one message is a body of a length that nobody says, and of one frame that is ready. So each is polled once, and
/// a second time if that gave a frame, before its request is sent. The message then lies in memory once, however often it is
/// sent, and is sent with the end of its stream, in one frame instead of two. Of a request that is a stream at most two frames
/// are taken before it is sent. Methods that a [`ServiceConfig`](crate::ServiceConfig) calls streams are not read ahead of.
#[derive(Clone, Debug)]
pub struct GrpcReplay {
    ahead: HttpReplay,
    as_it_comes: HttpReplay,
}

impl GrpcReplay {
    /// With the limits of this one, and the requests that it holds to be repeatable.
    pub fn new(replay: HttpReplay) -> Self {
        Self { ahead: replay.clone().read_ahead(true), as_it_comes: replay }
    }
}

/// As for HTTP, [`without_keys`](HttpReplay::without_keys).
impl Default for GrpcReplay {
    fn default() -> Self {
        Self::new(HttpReplay::new().without_keys())
    }
}

/// A kept call. Its `Debug` shows no metadata and no message.
pub struct SavedCall<B>(Box<Saved<B>>);

/// Boxed: it is large, and lies in the future of a call, which is moved several times.
struct Saved<B> {
    method: Method,
    uri: KeptUri,
    version: Version,
    headers: Fields,
    extensions: Kept,
    body: KeptBody<B>,
}

/// The body of a request. A short message is copied, which takes less than to count the references of one that is shared.
enum KeptBody<B> {
    Short { len: u8, bytes: [u8; SHORT] },
    Whole(ReplayBody<B>),
}

/// What has more bytes is shared.
const SHORT: usize = 112;

impl<B> KeptBody<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    fn of(body: &ReplayBody<B>) -> Self {
        match body.as_bytes() {
            Some(message) if message.len() <= SHORT => {
                let mut bytes = [0; SHORT];
                bytes[..message.len()].copy_from_slice(message);
                Self::Short { len: message.len() as u8, bytes }
            }
            _ => Self::Whole(body.fork()),
        }
    }

    fn restarted(&self) -> Option<ReplayBody<B>> {
        match self {
            Self::Short { len, bytes } => {
                Some(ReplayBody::from(Bytes::copy_from_slice(&bytes[..usize::from(*len)])))
            }
            Self::Whole(body) => body.restarted(),
        }
    }
}

/// Metadata. A list takes less than a map does, and the next attempt is rare.
struct Fields {
    /// Which of the [`USUAL`] fields there are.
    usual: [bool; 2],
    others: Vec<(HeaderName, HeaderValue)>,
}

/// What every client of gRPC sends. Most calls have nothing else, and then nothing is kept of their metadata.
static USUAL: [(HeaderName, &str); 2] = [(TE, "trailers"), (CONTENT_TYPE, "application/grpc")];

impl Fields {
    fn of(headers: &HeaderMap) -> Self {
        // Of a name that comes more than once the order would be lost.
        let once = headers.len() == headers.keys_len();
        let mut usual = [false; 2];
        for (name, value) in headers.iter().filter(|_| once) {
            for ((of, usual), is_there) in USUAL.iter().zip(&mut usual) {
                *is_there |= name == of && value == usual;
            }
        }
        let is_usual =
            |of: &HeaderName| USUAL.iter().zip(usual).any(|((name, _), is_there)| is_there && name == of);
        let left = headers.len() - usual.iter().filter(|is_there| **is_there).count();
        let mut others = Vec::with_capacity(left);
        if left > 0 {
            let all = headers.iter().filter(|(name, _)| !is_usual(name));
            others.extend(all.map(|(name, value)| (name.clone(), value.clone())));
        }
        Self { usual, others }
    }

    fn restored(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for ((name, value), _) in USUAL.iter().zip(self.usual).filter(|(_, is_there)| *is_there) {
            headers.insert(name, HeaderValue::from_static(value));
        }
        for (name, value) in &self.others {
            headers.append(name.clone(), value.clone());
        }
        headers
    }
}

/// The extensions of a request. Copying a map of them takes as much as all the rest of a request, and most have none but these.
enum Kept {
    Few {
        #[cfg(feature = "tonic")]
        method: Option<tonic::GrpcMethod<'static>>,
        known: Option<Known>,
        repeatable: Option<Repeatable>,
    },
    All(Extensions),
}

impl Kept {
    fn of(extensions: &Extensions) -> Self {
        let mut others = extensions.len();
        #[cfg(feature = "tonic")]
        let method = taken::<tonic::GrpcMethod<'static>>(extensions, &mut others);
        let (repeatable, known) = (taken(extensions, &mut others), taken(extensions, &mut others));
        if others > 0 {
            return Self::All(extensions.clone());
        }
        Self::Few {
            #[cfg(feature = "tonic")]
            method,
            known,
            repeatable,
        }
    }

    fn restored(&self) -> Extensions {
        match self {
            Self::All(extensions) => extensions.clone(),
            Self::Few {
                #[cfg(feature = "tonic")]
                method,
                known,
                repeatable,
            } => {
                let mut extensions = Extensions::new();
                #[cfg(feature = "tonic")]
                method.clone().map(|method| extensions.insert(method));
                known.map(|known| extensions.insert(known));
                repeatable.map(|repeatable| extensions.insert(repeatable));
                extensions
            }
        }
    }
}

/// A copy of this one, if there are any `others` left to look for.
fn taken<T: Clone + Send + Sync + 'static>(extensions: &Extensions, others: &mut usize) -> Option<T> {
    let found = if *others == 0 { None } else { extensions.get::<T>() };
    *others -= usize::from(found.is_some());
    found.cloned()
}

/// As that of a body: never the contents.
impl<B> fmt::Debug for KeptBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short { len, .. } => write!(f, "ReplayBody({len} bytes in memory)"),
            Self::Whole(body) => body.fmt(f),
        }
    }
}

impl<B> fmt::Debug for SavedCall<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SavedCall({} {:?})", self.0.uri.restored().path(), self.0.body)
    }
}

impl<B> Replay<Request<B>> for GrpcReplay
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    type Request = Request<ReplayBody<B>>;
    type Saved = SavedCall<B>;

    fn is_repeatable(&self, request: &Request<B>) -> bool {
        self.ahead.is_repeatable(request)
    }

    fn once(&self, request: Request<B>) -> Self::Request {
        self.as_it_comes.once(request)
    }

    fn record(&self, request: Request<B>) -> Self::Request {
        let is_stream = request.extensions().get::<Known>().is_some_and(|known| known.stream);
        if is_stream { &self.as_it_comes } else { &self.ahead }.record(request)
    }

    fn keep(&self, request: &Self::Request) -> SavedCall<B> {
        SavedCall(Box::new(Saved {
            method: request.method().clone(),
            uri: KeptUri::new(request.uri()),
            version: request.version(),
            headers: Fields::of(request.headers()),
            extensions: Kept::of(request.extensions()),
            body: KeptBody::of(request.body()),
        }))
    }

    fn replay(&self, SavedCall(saved): &mut SavedCall<B>) -> Option<Self::Request> {
        let mut request = Request::new(saved.body.restarted()?);
        *request.method_mut() = saved.method.clone();
        *request.uri_mut() = saved.uri.restored();
        *request.version_mut() = saved.version;
        *request.headers_mut() = saved.headers.restored();
        *request.extensions_mut() = saved.extensions.restored();
        Some(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http_body::Frame;
    use http_body_util::BodyExt;
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    /// Gives one piece after another, and waits after the last one if it does not end.
    struct Pieces {
        left: VecDeque<&'static str>,
        ends: bool,
    }

    impl Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            match self.left.pop_front() {
                Some(piece) => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(piece.as_bytes()))))),
                None if self.ends => Poll::Ready(None),
                None => Poll::Pending,
            }
        }
    }

    fn call(pieces: &[&'static str], ends: bool) -> Request<Pieces> {
        let body = Pieces { left: pieces.iter().copied().collect(), ends };
        Request::post("/a.B/Get").version(Version::HTTP_2).body(body).unwrap()
    }

    #[test]
    fn one_message_is_in_memory_before_it_is_sent_and_a_stream_is_not() {
        let replay = GrpcReplay::default();
        let whole = |request| replay.save(request).0.into_body().try_into_bytes().ok();
        assert_eq!(whole(call(&["message"], true)).unwrap(), "message");
        assert_eq!(whole(call(&[], true)).unwrap(), "");
        assert!(whole(call(&["one", "two"], true)).is_none());
        assert!(whole(call(&["one"], false)).is_none(), "more may come");
        assert!(whole(call(&[], false)).is_none());
        let mut stream = call(&["one"], true);
        stream.extensions_mut().insert(Known { stream: true, ..Known::default() });
        assert!(whole(stream).is_none(), "it is said to be one");
    }

    #[tokio::test]
    async fn what_was_read_ahead_is_sent_with_every_attempt() {
        let replay = GrpcReplay::default();
        for pieces in [&["one"][..], &["one", "two"], &["one", "two", "three"], &["", "one"], &[]] {
            let (first, mut saved) = replay.save(call(pieces, true));
            let read = async |request: Request<ReplayBody<Pieces>>| {
                request.into_body().collect().await.unwrap().to_bytes()
            };
            assert_eq!(read(first).await, pieces.concat(), "{pieces:?}");
            assert_eq!(read(replay.replay(&mut saved).unwrap()).await, pieces.concat(), "{pieces:?}");
        }
    }

    #[test]
    fn a_replay_is_the_whole_call_with_its_metadata_and_extensions() {
        #[derive(Clone, Debug, PartialEq)]
        struct Mark(u32);
        let known = Known { unary: true, ..Known::default() };
        for (others, metadata) in [
            (false, &[("te", "trailers"), ("content-type", "application/grpc")][..]),
            (true, &[("authorization", "x"), ("te", "trailers"), ("content-type", "application/grpc+json")]),
            (false, &[("te", "gzip"), ("te", "trailers"), ("a", "1"), ("a", "2")]),
            (false, &[]),
        ] {
            let mut request = call(&["message"], true);
            for (name, value) in metadata {
                request.headers_mut().append(*name, HeaderValue::from_static(value));
            }
            let headers = request.headers().clone();
            request.extensions_mut().insert(Repeatable);
            request.extensions_mut().insert(known);
            #[cfg(feature = "tonic")]
            request.extensions_mut().insert(tonic::GrpcMethod::new("a.B", "Get"));
            if others {
                request.extensions_mut().insert(Mark(7));
            }
            let (first, mut saved) = GrpcReplay::default().save(request);
            for request in [first, GrpcReplay::default().replay(&mut saved).unwrap()] {
                assert_eq!((request.method(), request.uri().path()), (&Method::POST, "/a.B/Get"));
                assert_eq!(
                    (request.version(), request.body().as_bytes().unwrap().len()),
                    (Version::HTTP_2, 7)
                );
                assert_eq!(request.headers(), &headers);
                let extensions = request.extensions();
                assert_eq!(extensions.get(), Some(&known));
                assert_eq!(extensions.get(), Some(&Repeatable));
                assert_eq!(extensions.get(), others.then_some(&Mark(7)));
                #[cfg(feature = "tonic")]
                assert_eq!(extensions.get::<tonic::GrpcMethod<'static>>().unwrap().method(), "Get");
            }
        }
    }

    #[test]
    fn what_is_kept_prints_no_secret() {
        let mut request = call(&["secret"], true);
        request.headers_mut().insert("authorization", HeaderValue::from_static("secret"));
        let (_, saved) = GrpcReplay::default().save(request);
        assert_eq!(format!("{saved:?}"), "SavedCall(/a.B/Get ReplayBody(6 bytes in memory))");
    }
}
