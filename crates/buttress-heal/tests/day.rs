//! A day, on a paused clock, of targets that come and go, clients that die, checks that panic and actions that fail.

mod support;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use buttress_core::observe::{HealState, PageKind};
use buttress_core::{Event, Rng};
use buttress_heal::{Health, Intensity, Rung, Symptom, Then};
use support::{Of, Remedy, Switch, World, secs, supervise};
use tokio::time::sleep;
use tower::ServiceExt;

const DAY: Duration = Duration::from_secs(86_400);

fn seconds(rng: &mut Rng, low: u64, high: u64) -> Duration {
    Duration::from_millis(rng.between(low * 1000, high * 1000))
}

/// Ends well, fails, hangs or panics.
fn moody(name: &'static str, seed: u64, then: Then) -> Arc<Remedy> {
    let rng = std::sync::Mutex::new(Rng::seeded(seed));
    Remedy::new(name, move || {
        let (mood, takes) = {
            let mut rng = rng.lock().unwrap();
            (rng.between(0, 9), seconds(&mut rng, 0, 8))
        };
        assert!(mood != 0, "at once");
        Box::pin(async move {
            sleep(takes).await;
            match mood {
                1 => panic!("later"),
                2 => std::future::pending().await,
                3 => Err("no".into()),
                _ => Ok(then),
            }
        })
    })
}

async fn day(seed: u64) {
    let (world, mut rng) = (World::new(2), Rng::seeded(seed));
    let (supervisor, pages, events) = supervise(&world);
    let queue = Switch::new("queue", Symptom::Queue);
    let shed = moody("shed load", seed + 1, Then::Nothing);
    let restart = moody("restart", seed + 2, Then::Restart);
    let supervisor = supervisor
        .check(Of(Arc::clone(&queue)))
        .targets(["eu", "us"])
        .rung(Of(Arc::clone(&shed)))
        .rung(Rung::reset_pool())
        .rung(Rung::fail_over())
        .rung(Rung::new(Of(Arc::clone(&restart))).as_restart())
        .intensity(Intensity::new(3, secs(300)));
    let (client, handle) = supervisor.spawn().unwrap();
    while world.now() < DAY {
        match rng.between(0, 7) {
            0 => world.poison(),
            1 | 2 => world.set(0, rng.between(0, 2) != 0),
            3 => world.set(1, rng.between(0, 2) != 0),
            4 => queue.set(rng.between(0, 2) != 0),
            5 => drop(client.clone().oneshot(()).await),
            6 => {
                world.set(0, true);
                world.set(1, true);
                queue.set(true);
                sleep(secs(300)).await;
            }
            _ => {}
        }
        pages.failures.store(rng.between(0, 1) as usize, SeqCst);
        sleep(seconds(&mut rng, 1, 400)).await;
    }
    world.set(0, true);
    world.set(1, true);
    queue.set(true);
    sleep(secs(600)).await;
    assert_eq!(
        (handle.health(), handle.status().state),
        (Health::Healthy, HealState::Healthy),
        "seed {seed}"
    );
    client.clone().oneshot(()).await.expect("all is well");

    let mut told = HashMap::<String, Vec<PageKind>>::new();
    for page in pages.told() {
        told.entry(page.key).or_default().push(page.kind);
    }
    for kinds in told.values() {
        let count = |kind| kinds.iter().filter(|told| **told == kind).count();
        assert!(count(PageKind::Trigger) <= 1, "seed {seed}: {kinds:?}");
        assert_eq!(
            (kinds.last(), count(PageKind::Resolve)),
            (Some(&PageKind::Resolve), 1),
            "seed {seed}: {kinds:?}"
        );
    }
    for remedy in [&shed, &restart] {
        assert!(remedy.most_at_once.load(SeqCst) <= 1, "seed {seed}");
    }
    let restarts = restart.started();
    assert!(restarts.windows(4).all(|four| four[3] - four[0] > secs(300)), "seed {seed}: {restarts:?}");
    no_two_attempts_overlap(&events.all(), seed);
    assert!(handle.shutdown(secs(1)).await);
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 0, "seed {seed}");
}

/// From one `Healing` to the next there is always something else.
fn no_two_attempts_overlap(events: &[(Duration, Event)], seed: u64) {
    let states = events.iter().filter_map(|(_, event)| match event {
        Event::Heal { from, to, .. } => Some((*from, *to)),
        _ => None,
    });
    let states: Vec<_> = states.collect();
    assert!(states.windows(2).all(|pair| pair[0].1 == pair[1].0), "seed {seed}: an edge is missing");
    let healing = states.iter().filter(|(from, to)| *to == HealState::Healing && from != to).count();
    let attempts = events.iter().filter(|(_, event)| matches!(event, Event::HealAttempt { .. })).count();
    assert_eq!(healing, attempts, "seed {seed}: each attempt is begun and decided once");
}

#[tokio::test(start_paused = true)]
async fn whatever_happens_in_a_day_there_is_one_action_at_a_time_one_page_an_incident_and_all_is_well_in_the_end()
 {
    for seed in 0..3 {
        day(seed * 1000).await;
    }
}
