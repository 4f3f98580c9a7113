//! A hundred thousand calls in random order: what never happens.

mod support;

use std::sync::Arc;
use std::sync::Mutex;
use std::task::{Context, Poll};
use std::time::Duration;

use buttress_core::{BoxError, ErrorsAreFailures, Level, Rng};
use buttress_degrade::{ByKey, Chain, DegradeLayer, Degraded, LastGood, Rung, Served, Source};
use buttress_testkit::clock::settle;
use support::{ms, secs};
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt, service_fn};

/// When an answer was made, and some bytes.
type Value = (Instant, Arc<[u8]>);

const ROUNDS: usize = 2_000;
const CALLS: usize = 50;
const MAX_BYTES: usize = 20_000;

type Dice = Arc<Mutex<Rng>>;

fn roll(dice: &Dice, below: u64) -> u64 {
    dice.lock().unwrap().between(0, below - 1)
}

/// Ready or not, good or not, quick or not.
struct Moody {
    dice: Dice,
    ready_at: Option<Instant>,
}

impl Clone for Moody {
    fn clone(&self) -> Self {
        Self { dice: Arc::clone(&self.dice), ready_at: None }
    }
}

impl Service<u64> for Moody {
    type Response = Value;
    type Error = BoxError;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Value, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match roll(&self.dice, 10) {
            0 => Poll::Ready(Err("closed".into())),
            // It never wakes: the budget has to.
            1 => Poll::Pending,
            _ => {
                self.ready_at = Some(Instant::now());
                Poll::Ready(Ok(()))
            }
        }
    }

    fn call(&mut self, _: u64) -> Self::Future {
        assert!(self.ready_at.take().is_some(), "called although it was not ready");
        let (mood, size, wait) = (roll(&self.dice, 10), roll(&self.dice, 2000), roll(&self.dice, 80));
        Box::pin(async move {
            tokio::time::sleep(ms(wait)).await;
            match mood {
                0..5 => Ok((Instant::now(), vec![0; size as usize].into())),
                5..8 => Err("down".into()),
                8 => panic!("a panic inside"),
                _ => std::future::pending().await,
            }
        })
    }
}

/// HD: a closed chain never gives level 4, an age is what it says, and the store holds its bound, in 100,000 calls of which some
/// are cancelled, on a clock that moves in random steps.
#[tokio::test(start_paused = true)]
async fn a_closed_chain_always_answers_and_tells_the_truth() {
    // Those that are meant are not printed.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if info.payload().downcast_ref() != Some(&"a panic inside") {
            hook(info);
        }
    }));
    let seed = std::env::var("BUTTRESS_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7);
    let dice: Dice = Arc::new(Mutex::new(Rng::seeded(seed)));
    let rules = ByKey::new(|key: &u64| Some(key.to_string().into())).weighing(|value: &Value| value.1.len());
    let store = LastGood::new(rules)
        .ttl(ms(500))
        .while_revalidate(ms(500))
        .if_error(secs(3))
        .negative_ttl(ms(50))
        .max_bytes(MAX_BYTES);
    let replica = {
        let dice = Arc::clone(&dice);
        service_fn(move |_: u64| {
            let (mood, wait) = (roll(&dice, 3), roll(&dice, 60));
            async move {
                tokio::time::sleep(ms(wait)).await;
                if mood == 0 { Ok((Instant::now(), Arc::from([]))) } else { Err(BoxError::from("down")) }
            }
        })
    };
    let born = Instant::now();
    let chain = Chain::<u64, Degraded<Value>>::new()
        .rung(Rung::alternate("replica", replica, ErrorsAreFailures).timeout(ms(30)).at_most(3))
        .finally(Level::Minimal, "static", move |_| (born, Arc::from([])));
    let layer = DegradeLayer::new("prices", chain).unwrap().budget(ms(60)).unwrap();
    let service =
        layer.last_good(store.clone()).unwrap().layer(Moody { dice: Arc::clone(&dice), ready_at: None });
    let mut levels = [0_usize; 5];
    for _ in 0..ROUNDS {
        let mut calls = Vec::new();
        for _ in 0..CALLS {
            let (key, patience) = (roll(&dice, 20), roll(&dice, 20));
            let call = service.clone().oneshot(key);
            calls.push(tokio::spawn(async move {
                // One in twenty goes away.
                let limit = if patience == 0 { ms(10) } else { secs(60) };
                let answer = tokio::time::timeout(limit, call).await.ok()?;
                let Ok(answer) = answer;
                Some((answer, Instant::now()))
            }));
        }
        for call in calls {
            let Some((answer, now)) = call.await.unwrap() else { continue };
            levels[usize::from(answer.level().as_u8())] += 1;
            let (age, made) = (answer.age(), answer.get_ref().0);
            let (_, served) = answer.into_parts();
            if let Some(Source::LastGood { .. }) = served.as_ref().map(Served::source) {
                let age = age.expect("what was stored has an age");
                // Made, then stored, then looked at, then seen.
                assert!(age <= now - made && age < secs(4), "{age:?} of {:?}", now - made);
            } else {
                assert_eq!(age, None);
            }
        }
        assert!(store.bytes() <= MAX_BYTES);
        tokio::time::advance(Duration::from_millis(roll(&dice, 400))).await;
    }
    assert_eq!(levels[4], 0);
    assert!(levels[..4].iter().all(|count| *count > 1000), "each level is met often: {levels:?}");
    tokio::time::sleep(secs(1)).await;
    settle().await;
    assert_eq!(store.in_flight(), 0, "nothing goes on");
}
