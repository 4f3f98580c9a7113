//! One connection through the proxy.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use buttress_core::clock::after;
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{Semaphore, SemaphorePermit, mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::effects::{Effects, Toxics, Victim};
use super::handle::Shared;
use crate::toxic::Stream;

/// What a connection holds of one direction at most.
const WINDOW: usize = 1 << 20;
const CHUNK: u32 = 16 << 10;
const LEAST: usize = 2 << 10;
/// So many pieces at most, however small.
const PIECES: usize = 1024;
/// At a bandwidth: the longest time that a piece takes.
const QUANTUM: Duration = Duration::from_millis(20);
const QUANTA_A_SECOND: u64 = 50;
/// How long a connection that is closed waits for its peers to notice.
const LINGER: Duration = Duration::from_secs(1);

/// How a connection ends before both directions have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Reset,
    Close,
}

/// Serves one connection to its end.
pub(super) async fn serve(mut client: TcpStream, number: u64, shared: Arc<Shared>) {
    let _open = Open::count(&shared);
    let address = shared.upstream();
    let Ok(mut server) = TcpStream::connect(address.as_str()).await else {
        // The nearest that there is to a refusal.
        let _ = client.set_zero_linger();
        return;
    };
    // Pieces leave as they are.
    let _ = client.set_nodelay(true).and(server.set_nodelay(true));
    let opened = Instant::now();
    let victim = |stream| Victim { seed: shared.seed, connection: number, opened, stream };
    let end = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let up = pump(from_client, to_server, Ill::new(&shared, victim(Some(Stream::Upstream))));
        let down = pump(from_server, to_client, Ill::new(&shared, victim(Some(Stream::Downstream))));
        tokio::select! {
            ended = async { tokio::try_join!(up, down) } => ended.err(),
            end = doom(Ill::new(&shared, victim(None))) => Some(end),
        }
    };
    match end {
        None => {}
        Some(End::Reset) => {
            let _ = client.set_zero_linger().and(server.set_zero_linger());
        }
        Some(End::Close) => {
            let _ = timeout(LINGER, async { tokio::join!(close(&mut client), close(&mut server)) }).await;
        }
    }
}

/// Closes a connection without losing what was sent last: with unread data, the kernel would reset it.
async fn close(stream: &mut TcpStream) {
    let _ = stream.shutdown().await;
    let mut unread = [0; 4096];
    while matches!(stream.read(&mut unread).await, Ok(1..)) {}
}

/// Resolves when a toxic ends the connection.
async fn doom(mut ill: Ill<'_>) -> End {
    loop {
        let now = Instant::now();
        let Effects { close_at, reset_at, .. } = *ill.effects();
        if reset_at.is_some_and(|at| at <= now) {
            return End::Reset;
        }
        if close_at.is_some_and(|at| at <= now) {
            return End::Close;
        }
        ill.wait(reset_at.into_iter().chain(close_at).min()).await;
    }
}

/// What was read, and when.
struct Piece<'a> {
    /// `None` for the end of the stream.
    data: Option<(Bytes, SemaphorePermit<'a>)>,
    at: Instant,
}

/// Forwards one direction to its end.
async fn pump(from: ReadHalf<'_>, to: WriteHalf<'_>, ill: Ill<'_>) -> Result<(), End> {
    let room = Semaphore::new(WINDOW);
    let (sender, receiver) = mpsc::channel(PIECES);
    // A peer that is gone has reset its connection; so the other one is reset.
    let read = async { read(from, sender, &room).await.map_err(|_| End::Reset) };
    tokio::try_join!(read, write(to, receiver, ill)).map(|_| ())
}

async fn read<'a>(
    mut from: ReadHalf<'_>,
    pieces: mpsc::Sender<Piece<'a>>,
    room: &'a Semaphore,
) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        let mut permit = room.acquire_many(CHUNK).await.map_err(io::Error::other)?;
        // Small pieces share a buffer.
        if buffer.capacity() < LEAST {
            buffer.reserve(CHUNK as usize);
        }
        let mut chunk = (&mut from).take(CHUNK.into());
        let read = chunk.read_buf(&mut buffer).await?;
        let data = permit.split(read).filter(|_| read > 0).map(|held| (buffer.split().freeze(), held));
        let is_end = data.is_none();
        let piece = Piece { data, at: Instant::now() };
        if pieces.send(piece).await.is_err() || is_end {
            return Ok(());
        }
    }
}

async fn write(
    mut to: WriteHalf<'_>,
    mut pieces: mpsc::Receiver<Piece<'_>>,
    mut ill: Ill<'_>,
) -> Result<(), End> {
    let mut number = 0;
    while let Some(Piece { data, at }) = pieces.recv().await {
        loop {
            let victim = ill.victim;
            let lag = victim.lag(ill.effects(), number);
            let slow_close = if data.is_none() { ill.effects().slow_close } else { Duration::ZERO };
            ill.until_let_through().await;
            let due = after(at, lag.saturating_add(slow_close));
            if due <= Instant::now() {
                break;
            }
            ill.wait(Some(due)).await;
        }
        number += 1;
        match data {
            Some((data, _held)) => ill.write(&mut to, &data).await?,
            None => return to.shutdown().await.map_err(|_| End::Reset),
        }
    }
    Ok(())
}

/// One direction of a connection, or both, under the toxics as they are now.
struct Ill<'a> {
    shared: &'a Shared,
    victim: Victim,
    toxics: watch::Receiver<Toxics>,
    effects: Effects,
    written: u64,
    /// When the line is free again, at its bandwidth.
    free_at: Instant,
}

impl<'a> Ill<'a> {
    fn new(shared: &'a Shared, victim: Victim) -> Self {
        let toxics = shared.toxics.subscribe();
        let now = Instant::now();
        let effects = victim.effects(&toxics.borrow(), now);
        Self { shared, victim, toxics, effects, written: 0, free_at: now }
    }

    fn effects(&mut self) -> &Effects {
        let changed = self.toxics.has_changed().unwrap_or(false);
        if changed || self.effects.until.is_some_and(|until| until <= Instant::now()) {
            self.refresh();
        }
        &self.effects
    }

    fn refresh(&mut self) {
        self.effects = self.victim.effects(&self.toxics.borrow_and_update(), Instant::now());
    }

    /// Waits until then, or until toxics may do something else.
    async fn wait(&mut self, until: Option<Instant>) {
        let until = until.into_iter().chain(self.effects.until).min();
        let time = async {
            match until {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = time => {}
            _ = self.toxics.changed() => self.refresh(),
        }
    }

    /// Waits while a black hole swallows everything.
    async fn until_let_through(&mut self) {
        while self.effects().held {
            self.wait(None).await;
        }
    }

    async fn write(&mut self, to: &mut WriteHalf<'_>, mut data: &[u8]) -> Result<(), End> {
        while !data.is_empty() {
            self.until_let_through().await;
            let Effects { rate, slicer, limit, .. } = *self.effects();
            let mut length = data.len() as u64;
            if let Some(limit) = limit {
                length = length.min(limit.saturating_sub(self.written));
            }
            if let Some(slicer) = slicer {
                length = length.min(self.victim.slice(slicer, self.written));
            }
            if let Some(rate) = rate {
                length = length.min((rate / QUANTA_A_SECOND).max(1));
                self.occupy(length, rate).await;
            }
            let (piece, rest) = data.split_at(length as usize);
            to.write_all(piece).await.map_err(|_| End::Reset)?;
            data = rest;
            self.written += length;
            self.shared.count(self.victim.stream, length);
            if limit.is_some_and(|limit| self.written >= limit) {
                return Err(End::Close);
            }
            if let Some(slicer) = slicer.filter(|slicer| !slicer.delay.is_zero() && !data.is_empty()) {
                self.wait(Some(after(Instant::now(), slicer.delay))).await;
            }
        }
        Ok(())
    }

    /// Waits for as long as the line is busy with so many bytes.
    async fn occupy(&mut self, length: u64, rate: u64) {
        let time = Duration::from_nanos(length.saturating_mul(1_000_000_000) / rate);
        self.free_at = free_again(self.free_at, Instant::now(), time);
        sleep_until(self.free_at).await;
    }
}

/// When a line that was free at a moment is free again, after this time. A timer that fired a little late has not cost the
/// line anything: else small pieces would make it many times narrower.
fn free_again(free_at: Instant, now: Instant, time: Duration) -> Instant {
    let idle = now.saturating_duration_since(free_at);
    after(if idle > QUANTUM { now } else { free_at }, time)
}

/// A connection that is counted as open while this lives.
struct Open<'a>(&'a Shared);

impl<'a> Open<'a> {
    fn count(shared: &'a Shared) -> Self {
        shared.counters.open.fetch_add(1, Relaxed);
        Self(shared)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.counters.open.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn late_timers_make_a_line_no_narrower_and_idleness_no_wider() {
        let (start, time) = (Instant::now(), Duration::from_micros(100));
        let mut free_at = start;
        for _ in 0..1000 {
            // Each timer fires a millisecond late at the worst.
            let now = free_at + Duration::from_millis(1);
            free_at = free_again(free_at, now, time);
        }
        assert_eq!(free_at, start + 1000 * time);
        let later = free_at + Duration::from_secs(1);
        assert_eq!(free_again(free_at, later, time), later + time);
    }
}
