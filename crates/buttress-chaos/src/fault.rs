use std::io;
use std::sync::Arc;
use std::time::Duration;

use buttress_core::Verdict;

/// What becomes of a call.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Fault {
    /// Nothing: the call is passed on. Shields what a later rule would meet.
    Pass,
    /// The call is passed on later (Envoy's `delay`).
    Latency(Latency),
    /// The call is passed on at once, and its answer held back.
    ResponseLatency(Latency),
    /// The call fails with [`Injected`](crate::Injected), which classifiers judge like this, and is not passed on.
    Error(Verdict),
    /// The call fails with an [`io::Error`] of this kind, as a transport's does, and is not passed on.
    Io(io::ErrorKind),
    /// The call is answered with this, and not passed on (Envoy's `abort`).
    Respond(Arc<Answer>),
    /// The call never ends, and is not passed on. It can be dropped.
    Hang,
    /// The call panics, and is not passed on.
    Panic,
    /// The call is passed on and its answer dropped: what was asked for was done, and the caller gets an error of unknown
    /// effect. The test of idempotency.
    LoseAnswer,
    /// The call is passed on and its answer dropped, and the caller waits for ever.
    WithholdAnswer,
    /// The body of the answer ends after so many bytes of data.
    Truncate {
        /// How many bytes the caller gets.
        after: u64,
        /// How it ends.
        end: Cut,
    },
    /// The body of the answer trickles.
    SlowBody {
        /// So many bytes at most at a time,
        bytes: u64,
        /// and such a pause before each of them.
        pause: Duration,
    },
}

/// How a body ends that is cut off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cut {
    /// With an error, as when a connection breaks.
    #[default]
    Error,
    /// As if it were complete: without trailers, and shorter than `Content-Length` says. What does not look takes the part
    /// for the whole.
    Silent,
}

/// A time that is waited: `time ± jitter`, uniformly, and zero at least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// The middle.
    pub time: Duration,
    /// How far it may be off, to either side.
    pub jitter: Duration,
}

impl Latency {
    /// Always this long.
    pub const fn fixed(time: Duration) -> Self {
        Self { time, jitter: Duration::ZERO }
    }

    /// Off by so much at most, to either side.
    #[must_use]
    pub const fn jitter(self, jitter: Duration) -> Self {
        Self { jitter, ..self }
    }
}

impl From<Duration> for Latency {
    fn from(time: Duration) -> Self {
        Self::fixed(time)
    }
}

/// An answer that no server gave, in no protocol's own words: [`Inject::respond`](crate::Inject::respond) makes a response
/// of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub(crate) code: Code,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

/// What an [`Answer`] says above all.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Code {
    /// An HTTP status (200 to 599), or whatever number a protocol of one's own uses.
    Status(u16),
    /// A gRPC status code (0 to 16) with its message, as a trailers-only response.
    Grpc(u8, String),
}

impl Answer {
    /// An HTTP status.
    pub fn status(status: u16) -> Self {
        Self { code: Code::Status(status), headers: Vec::new(), body: String::new() }
    }

    /// A gRPC status code; 14 is `UNAVAILABLE`.
    pub fn grpc(code: u8, message: impl Into<String>) -> Self {
        Self { code: Code::Grpc(code, message.into()), headers: Vec::new(), body: String::new() }
    }

    /// With this header as well.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// With this body; a trailers-only response of gRPC has none.
    #[must_use]
    pub fn body(mut self, body: impl Into<String>) -> Self {
        self.body = body.into();
        self
    }

    /// What it says above all.
    pub fn code(&self) -> &Code {
        &self.code
    }

    /// Its headers, in the order in which they were added.
    pub fn headers(&self) -> &[(String, String)] {
        &self.headers
    }

    /// Its body.
    pub fn text(&self) -> &str {
        &self.body
    }
}

/// The kinds of faults, as they are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// [`Fault::Latency`], and [`Fault::Pass`] that is delayed.
    Latency,
    /// [`Fault::ResponseLatency`]
    ResponseLatency,
    /// [`Fault::Error`]
    Error,
    /// [`Fault::Io`]
    IoError,
    /// [`Fault::Respond`] with a status
    Status,
    /// [`Fault::Respond`] with a gRPC code
    Grpc,
    /// [`Fault::Hang`]
    Hang,
    /// [`Fault::Panic`]
    Panic,
    /// [`Fault::LoseAnswer`]
    LoseAnswer,
    /// [`Fault::WithholdAnswer`]
    WithholdAnswer,
    /// [`Fault::Truncate`]
    Truncate,
    /// [`Fault::SlowBody`]
    SlowBody,
}

impl FaultKind {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Latency,
        Self::ResponseLatency,
        Self::Error,
        Self::IoError,
        Self::Status,
        Self::Grpc,
        Self::Hang,
        Self::Panic,
        Self::LoseAnswer,
        Self::WithholdAnswer,
        Self::Truncate,
        Self::SlowBody,
    ];

    /// The kind as one lower-case word, as events and schedules write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::ResponseLatency => "response_latency",
            Self::Error => "error",
            Self::IoError => "io_error",
            Self::Status => "status",
            Self::Grpc => "grpc",
            Self::Hang => "hang",
            Self::Panic => "panic",
            Self::LoseAnswer => "lose_answer",
            Self::WithholdAnswer => "withhold_answer",
            Self::Truncate => "truncate",
            Self::SlowBody => "slow_body",
        }
    }
}

impl Fault {
    /// Its kind; `None` for [`Fault::Pass`].
    pub fn kind(&self) -> Option<FaultKind> {
        Some(match self {
            Self::Pass => return None,
            Self::Latency(_) => FaultKind::Latency,
            Self::ResponseLatency(_) => FaultKind::ResponseLatency,
            Self::Error(_) => FaultKind::Error,
            Self::Io(_) => FaultKind::IoError,
            Self::Respond(answer) => match answer.code {
                Code::Status(_) => FaultKind::Status,
                Code::Grpc(..) => FaultKind::Grpc,
            },
            Self::Hang => FaultKind::Hang,
            Self::Panic => FaultKind::Panic,
            Self::LoseAnswer => FaultKind::LoseAnswer,
            Self::WithholdAnswer => FaultKind::WithholdAnswer,
            Self::Truncate { .. } => FaultKind::Truncate,
            Self::SlowBody { .. } => FaultKind::SlowBody,
        })
    }

    /// Whether the service inside is called at all.
    pub(crate) fn calls(&self) -> bool {
        !matches!(self, Self::Error(_) | Self::Io(_) | Self::Respond(_) | Self::Hang | Self::Panic)
    }
}
