use std::time::Duration;

use buttress_core::ConfigError;

use crate::fault::Latency;
use crate::window::Window;

/// One thing that is wrong with the connections through a toxic proxy. Names and attributes are those of toxiproxy.
///
/// It acts on one direction, [`Stream::Downstream`] by default, of a share of the connections, all by default, and while
/// its window lasts, counted from when it was added.
///
/// ```
/// use std::time::Duration;
/// use buttress_chaos::{Latency, Stream, Toxic};
///
/// let slow = Toxic::latency(Latency::fixed(Duration::from_millis(200)).jitter(Duration::from_millis(50)));
/// let narrow = Toxic::bandwidth(64).stream(Stream::Upstream).toxicity(0.5).named("narrow");
/// assert_eq!((slow.name(), narrow.name()), ("latency_downstream".to_owned(), "narrow".to_owned()));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Toxic {
    pub(crate) name: Option<String>,
    pub(crate) kind: ToxicKind,
    pub(crate) stream: Stream,
    pub(crate) toxicity: f64,
    pub(crate) window: Window,
}

/// What a [`Toxic`] does. Where several of one kind act on a connection, delays add up and the lowest limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ToxicKind {
    /// Everything arrives later, in order. Data under way is bounded by 1 MiB for each connection and direction, and so is
    /// the throughput by 1 MiB for each latency.
    Latency(Latency),
    /// So many kilobytes (of 1,000 bytes) a second for each connection, in pieces of 20 ms at most.
    Bandwidth {
        /// KB/s, at least 1.
        rate: u64,
    },
    /// The end of the stream arrives so much later.
    SlowClose {
        /// How much.
        delay: Duration,
    },
    /// A black hole: nothing gets through, and the connection is closed after the time-out, if there is one. What was held
    /// back arrives if the toxic is removed, as what TCP repeats after a partition does. (toxiproxy drops it.)
    Timeout {
        /// Counted from when the connection was opened, or from when the toxic was added to it; `None` for never.
        timeout: Option<Duration>,
    },
    /// The connection is reset (RST), at both ends.
    ResetPeer {
        /// After so long; counted as for [`ToxicKind::Timeout`].
        timeout: Duration,
    },
    /// Data arrives in small pieces.
    Slicer {
        /// Bytes of a piece, at least 1.
        average_size: u64,
        /// By so many it may be off, to either side; less than `average_size`.
        size_variation: u64,
        /// Between pieces.
        delay: Duration,
    },
    /// The connection is closed when so many bytes have got through: exactly so many.
    LimitData {
        /// How many, counted from when the connection was opened.
        bytes: u64,
    },
}

/// The direction in which a toxic acts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Stream {
    /// From the client to the server.
    Upstream,
    /// From the server to the client.
    #[default]
    Downstream,
}

impl Stream {
    /// The direction as toxiproxy writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Upstream => "upstream",
            Self::Downstream => "downstream",
        }
    }
}

impl ToxicKind {
    /// The kind as toxiproxy writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Latency(_) => "latency",
            Self::Bandwidth { .. } => "bandwidth",
            Self::SlowClose { .. } => "slow_close",
            Self::Timeout { .. } => "timeout",
            Self::ResetPeer { .. } => "reset_peer",
            Self::Slicer { .. } => "slicer",
            Self::LimitData { .. } => "limit_data",
        }
    }
}

impl Toxic {
    /// A toxic of this kind.
    pub fn new(kind: ToxicKind) -> Self {
        Self { name: None, kind, stream: Stream::Downstream, toxicity: 1.0, window: Window::always() }
    }

    /// [`ToxicKind::Latency`]
    pub fn latency(latency: impl Into<Latency>) -> Self {
        Self::new(ToxicKind::Latency(latency.into()))
    }

    /// [`ToxicKind::Bandwidth`], in KB/s.
    pub fn bandwidth(rate: u64) -> Self {
        Self::new(ToxicKind::Bandwidth { rate })
    }

    /// [`ToxicKind::SlowClose`]
    pub fn slow_close(delay: Duration) -> Self {
        Self::new(ToxicKind::SlowClose { delay })
    }

    /// [`ToxicKind::Timeout`] that never closes.
    pub fn black_hole() -> Self {
        Self::new(ToxicKind::Timeout { timeout: None })
    }

    /// [`ToxicKind::Timeout`]
    pub fn timeout(timeout: Duration) -> Self {
        Self::new(ToxicKind::Timeout { timeout: Some(timeout) })
    }

    /// [`ToxicKind::ResetPeer`]
    pub fn reset_peer(timeout: Duration) -> Self {
        Self::new(ToxicKind::ResetPeer { timeout })
    }

    /// [`ToxicKind::Slicer`]
    pub fn slicer(average_size: u64, size_variation: u64, delay: Duration) -> Self {
        Self::new(ToxicKind::Slicer { average_size, size_variation, delay })
    }

    /// [`ToxicKind::LimitData`]
    pub fn limit_data(bytes: u64) -> Self {
        Self::new(ToxicKind::LimitData { bytes })
    }

    /// Under this name. Default: kind and stream, as in `latency_downstream`.
    #[must_use]
    pub fn named(self, name: impl Into<String>) -> Self {
        Self { name: Some(name.into()), ..self }
    }

    /// In this direction.
    #[must_use]
    pub fn stream(self, stream: Stream) -> Self {
        Self { stream, ..self }
    }

    /// With this probability for each connection, 0 to 1 (the default): drawn from the proxy's seed, the connection's number and the name.
    #[must_use]
    pub fn toxicity(self, toxicity: f64) -> Self {
        Self { toxicity, ..self }
    }

    /// Only within this window.
    #[must_use]
    pub fn within(self, window: Window) -> Self {
        Self { window, ..self }
    }

    /// Its name.
    pub fn name(&self) -> String {
        let made = || format!("{}_{}", self.kind.as_str(), self.stream.as_str());
        self.name.clone().unwrap_or_else(made)
    }

    /// What it does.
    pub fn kind(&self) -> ToxicKind {
        self.kind
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        self.window.check()?;
        if !(0.0..=1.0).contains(&self.toxicity) {
            return Err(ConfigError::new("toxicity", self.toxicity, "a probability lies between 0 and 1"));
        }
        match self.kind {
            ToxicKind::Bandwidth { rate: 0 } => Err(ConfigError::new(
                "rate",
                0,
                "it must be at least 1 KB/s; for nothing at all use a timeout",
            )),
            ToxicKind::Slicer { average_size, size_variation, .. } if size_variation >= average_size => {
                let rule = format!("it must be less than `average_size`, {average_size}");
                Err(ConfigError::new("size_variation", size_variation, rule))
            }
            _ => Ok(()),
        }
    }
}
