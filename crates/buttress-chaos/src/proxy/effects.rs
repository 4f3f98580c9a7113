//! What all toxics together do to one connection: the decision, without a socket.

use std::sync::Arc;
use std::time::Duration;

use buttress_core::clock::after;
use tokio::time::Instant;

use crate::draw::{Draw, text};
use crate::fault::Latency;
use crate::toxic::{Stream, Toxic, ToxicKind};

/// A toxic that was added, and when.
#[derive(Clone, Debug)]
pub(super) struct Added {
    pub(super) toxic: Toxic,
    pub(super) at: Instant,
}

pub(super) type Toxics = Arc<Vec<Added>>;

/// Who is acted upon.
#[derive(Clone, Copy, Debug)]
pub(super) struct Victim {
    pub(super) seed: u64,
    pub(super) connection: u64,
    pub(super) opened: Instant,
    /// Both directions, if none.
    pub(super) stream: Option<Stream>,
}

/// What toxics do at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Effects {
    latencies: Vec<Latency>,
    /// Bytes a second.
    pub(super) rate: Option<u64>,
    pub(super) slicer: Option<Slicer>,
    pub(super) slow_close: Duration,
    pub(super) limit: Option<u64>,
    pub(super) held: bool,
    pub(super) close_at: Option<Instant>,
    pub(super) reset_at: Option<Instant>,
    /// When a window begins or ends.
    pub(super) until: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Slicer {
    average: u64,
    variation: u64,
    pub(super) delay: Duration,
}

impl Victim {
    pub(super) fn effects(&self, toxics: &[Added], now: Instant) -> Effects {
        let mut effects = Effects::default();
        for Added { toxic, at } in toxics {
            let aimed = self.stream.is_none_or(|stream| stream == toxic.stream);
            if !aimed || !self.draw(text(&toxic.name())).happens(toxic.toxicity) {
                continue;
            }
            let elapsed = now.saturating_duration_since(*at);
            if let Some(change) = toxic.window.next_change(elapsed) {
                earliest(&mut effects.until, after(*at, change));
            }
            if toxic.window.contains(elapsed) {
                effects.add(toxic.kind, self.opened.max(after(*at, toxic.window.begun(elapsed))));
            }
        }
        effects
    }

    fn draw(&self, purpose: u64) -> Draw {
        Draw::new(self.seed, &[self.connection, purpose])
    }

    /// How late the piece of this number is.
    pub(super) fn lag(&self, effects: &Effects, piece: u64) -> Duration {
        if effects.latencies.is_empty() {
            return Duration::ZERO;
        }
        let mut draw = self.draw(piece ^ self.stream.map_or(0, |stream| text(stream.as_str())));
        let lags = effects.latencies.iter().map(|latency| draw.around(latency.time, latency.jitter));
        lags.fold(Duration::ZERO, Duration::saturating_add)
    }

    /// How long the slice is that begins after so many bytes.
    pub(super) fn slice(&self, slicer: Slicer, written: u64) -> u64 {
        let mut draw = self.draw(written ^ text("slicer"));
        draw.between(slicer.average - slicer.variation, slicer.average.saturating_add(slicer.variation))
    }
}

impl Effects {
    fn add(&mut self, kind: ToxicKind, since: Instant) {
        match kind {
            ToxicKind::Latency(latency) => self.latencies.push(latency),
            ToxicKind::Bandwidth { rate } => lower(&mut self.rate, rate.saturating_mul(1000)),
            ToxicKind::SlowClose { delay } => self.slow_close = self.slow_close.saturating_add(delay),
            ToxicKind::Timeout { timeout } => {
                self.held = true;
                if let Some(timeout) = timeout {
                    earliest(&mut self.close_at, after(since, timeout));
                }
            }
            ToxicKind::ResetPeer { timeout } => earliest(&mut self.reset_at, after(since, timeout)),
            ToxicKind::Slicer { average_size, size_variation, delay } => {
                let slicer = Slicer { average: average_size, variation: size_variation, delay };
                if self.slicer.is_none_or(|other| slicer.average < other.average) {
                    self.slicer = Some(slicer);
                }
            }
            ToxicKind::LimitData { bytes } => lower(&mut self.limit, bytes),
        }
    }
}

fn earliest(slot: &mut Option<Instant>, at: Instant) {
    *slot = Some(slot.map_or(at, |other| other.min(at)));
}

fn lower(slot: &mut Option<u64>, value: u64) {
    *slot = Some(slot.map_or(value, |other| other.min(value)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::window::Window;

    fn victim(connection: u64, opened: Instant) -> Victim {
        Victim { seed: 7, connection, opened, stream: Some(Stream::Downstream) }
    }

    const fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[tokio::test(start_paused = true)]
    async fn delays_add_up_and_the_lowest_limit_counts() {
        let at = Instant::now();
        let toxics = [
            Toxic::latency(millis(20)),
            Toxic::latency(Latency::fixed(millis(100)).jitter(millis(30))),
            Toxic::bandwidth(9),
            Toxic::bandwidth(5),
            Toxic::limit_data(3).stream(Stream::Upstream),
            Toxic::limit_data(10),
            Toxic::slow_close(millis(5)),
            Toxic::slow_close(millis(5)),
        ];
        let toxics: Vec<_> = toxics.into_iter().map(|toxic| Added { toxic, at }).collect();
        let victim = victim(0, at);
        let effects = victim.effects(&toxics, at);
        assert_eq!((effects.rate, effects.limit, effects.slow_close), (Some(5000), Some(10), millis(10)));
        let lags: Vec<_> = (0..1000).map(|piece| victim.lag(&effects, piece)).collect();
        assert!(lags.iter().all(|lag| (millis(90)..=millis(150)).contains(lag)));
        assert!(lags.iter().any(|lag| *lag < millis(95)) && lags.iter().any(|lag| *lag > millis(145)));
        assert_eq!(lags, (0..1000).map(|piece| victim.lag(&effects, piece)).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn toxicity_is_a_share_of_connections_the_same_ones_every_time() {
        let at = Instant::now();
        let toxics = [Added { toxic: Toxic::black_hole().toxicity(0.3), at }];
        let held = |n: u64| victim(n, at).effects(&toxics, at).held;
        let ill: Vec<u64> = (0..10_000).filter(|&n| held(n)).collect();
        assert!((2_700..3_300).contains(&ill.len()), "{}", ill.len());
        assert_eq!(ill, (0..10_000).filter(|&n| held(n)).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn a_time_out_counts_from_the_connection_the_toxic_and_its_window_whichever_is_last() {
        let at = Instant::now();
        let window = Window::always().from(millis(100)).until(millis(200)).every(millis(1000));
        let toxics = [Added { toxic: Toxic::timeout(millis(50)).within(window), at }];
        let effects = |opened, now| victim(0, at + millis(opened)).effects(&toxics, at + millis(now));
        assert_eq!(effects(0, 10).until, Some(at + millis(100)));
        assert!(!effects(0, 10).held && !effects(0, 250).held);
        assert_eq!(effects(0, 120).close_at, Some(at + millis(150)));
        assert_eq!(effects(110, 120).close_at, Some(at + millis(160)));
        assert_eq!(effects(0, 1120).close_at, Some(at + millis(1150)));
    }
}
