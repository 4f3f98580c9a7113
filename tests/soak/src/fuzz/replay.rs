use std::pin::Pin;
use std::task::{Context, Waker};

use buttress::core::Replay;
use buttress::find;
use buttress::http::{HttpReplay, ReplayBody, ReplayError, Saved};
use bytes::Bytes;
use http::Request;
use http_body::Body;

use super::body::{Broken, Facts, Got, Polled, Source, any_source};
use crate::draw::Draw;

/// One of several readers of the same body.
struct Reader {
    body: ReplayBody<Source>,
    got: Got,
    generation: u32,
    over: bool,
}

/// All that read one body.
struct Readers {
    facts: Facts,
    saved: Option<Saved<Source>>,
    readers: Vec<Reader>,
    generation: u32,
    /// How many this generation has had.
    in_generation: usize,
    /// How often the source's own error has been told.
    told: u32,
}

/// Readers that come and go, each at its own pace, get exactly what the source gave, or an error that says why not.
pub(super) fn replay(draw: &mut Draw) {
    let (per_request, total) = (draw.below(3000), draw.below(6000));
    let replay = HttpReplay::new().limits(per_request, total);
    let (source, facts) = any_source(draw);
    let request = Request::put("/").body(source).expect("a request");
    if draw.one_in(20) {
        let mut once = replay.once(request).into_body();
        let mut got = Got::default();
        let error = got.finish(&mut once, &facts);
        assert_eq!((error.is_some(), got.data), (facts.fails, facts.data.len()));
        return;
    }
    let (request, saved) = replay.save(request);
    let mut all =
        Readers { facts, saved: Some(saved), readers: Vec::new(), generation: 0, in_generation: 0, told: 0 };
    all.add(request.into_body());
    for _ in 0..draw.below(24) {
        all.step(draw, &replay);
    }
    all.finish();
    drop(all);

    // Whatever was recorded has been given back.
    let room = per_request.min(total.saturating_sub(64)).min(2000);
    if room > 0 {
        let source = Source::of(Bytes::from(vec![0; room]));
        let (request, _saved) = replay.save(Request::put("/").body(source).expect("a request"));
        let mut body = request.into_body();
        let frame = Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop()));
        assert!(frame.is_ready() && body.is_replayable(), "{room} of {total} bytes are not to be had");
    }
}

impl Readers {
    fn add(&mut self, body: ReplayBody<Source>) {
        self.readers.push(Reader { body, got: Got::default(), generation: self.generation, over: false });
        self.in_generation += 1;
    }

    fn step(&mut self, draw: &mut Draw, replay: &HttpReplay) {
        let which = draw.below(self.readers.len());
        match draw.below(16) {
            0 => self.restart(replay),
            1 if which < self.readers.len() => {
                // Of the generation that is current, whatever it was forked from.
                let fork = self.readers[which].body.fork();
                self.add(fork);
            }
            2 if which < self.readers.len() => drop(self.readers.swap_remove(which)),
            3 if draw.one_in(4) => self.saved = None,
            _ if which < self.readers.len() => self.poll(which),
            _ => {}
        }
    }

    fn restart(&mut self, replay: &HttpReplay) {
        let Some(saved) = &mut self.saved else { return };
        let before = self.readers.first().map(|reader| reader.body.is_replayable());
        let again = replay.replay(saved);
        if let Some(before) = before {
            assert_eq!(again.is_some(), before, "a copy is given if and only if it was promised");
        }
        let Some(again) = again else { return };
        // A body in memory has no generations: each copy is whole.
        if !format!("{:?}", again.body()).contains("in memory") {
            self.generation += 1;
            self.in_generation = 0;
        }
        self.add(again.into_body());
    }

    fn poll(&mut self, which: usize) {
        self.check(which);
        let current = self.generation;
        let (facts, in_generation) = (&self.facts, self.in_generation);
        let reader = &mut self.readers[which];
        let ended = reader.body.is_end_stream();
        match reader.got.poll(&mut reader.body, facts) {
            Polled::Frame => assert!(!ended, "it was at its end"),
            Polled::Pending => assert!(!ended, "it was at its end"),
            Polled::End => {
                assert!(!facts.fails, "a body that failed does not end");
                assert!(reader.got.data == facts.data.len(), "an end before all was told");
                assert!(!facts.conforming || reader.got.is_all(facts), "an end without the trailers");
                reader.over = true;
            }
            Polled::Failed(error) => {
                reader.over = true;
                match find::<ReplayError>(&*error) {
                    Some(ReplayError::Superseded) => assert!(reader.generation < current),
                    Some(ReplayError::Overtaken) => {
                        assert!(in_generation > 1 || reader.generation < current, "there was nobody ahead");
                        assert!(!reader.body.is_replayable());
                    }
                    Some(ReplayError::SourceFailed) => assert!(facts.fails),
                    _ => {
                        assert!(facts.fails && find::<Broken>(&*error).is_some(), "{error}");
                        assert_eq!(reader.got.data, facts.data.len(), "an error before the data");
                        self.told += 1;
                        assert_eq!(self.told, 1, "it is told once");
                    }
                }
            }
        }
    }

    /// What a reader says of itself.
    fn check(&self, which: usize) {
        let Readers { facts, readers, .. } = self;
        let Reader { body, got, over, .. } = &readers[which];
        let left = (facts.data.len() - got.data) as u64;
        if let Some(bytes) = body.as_bytes() {
            assert_eq!((&bytes[..], got.data), (&facts.data[..], 0));
        }
        assert!(!body.is_complete() || body.is_replayable());
        if *over || facts.fails {
            return;
        }
        assert!(!body.is_end_stream() || left == 0, "not at its end");
        let hint = body.size_hint();
        if let Some(exact) = facts.exact {
            assert_eq!(
                hint.exact(),
                Some(exact.saturating_sub(got.data as u64)),
                "an exact length stays one"
            );
        }
        if facts.honest && body.is_replayable() {
            assert!(
                hint.lower() <= left && hint.upper().is_none_or(|upper| upper >= left),
                "{hint:?} for {left}"
            );
        }
    }

    /// Everybody reads on to the end; somebody gets there.
    fn finish(&mut self) {
        for _ in 0..200 {
            let reading: Vec<usize> =
                (0..self.readers.len()).filter(|&which| !self.readers[which].over).collect();
            if reading.is_empty() {
                let mut current = self.readers.iter().filter(|reader| reader.generation == self.generation);
                if let Some(first) = current.next() {
                    let through = |reader: &Reader| reader.got.data == self.facts.data.len();
                    let alone = self.in_generation == 1;
                    assert!(!alone || through(first), "the only reader did not get everything");
                }
                return;
            }
            reading.into_iter().for_each(|which| self.poll(which));
        }
        panic!("no end in sight")
    }
}
