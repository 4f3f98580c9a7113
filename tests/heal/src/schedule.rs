//! Who meets which fault when.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tower::ServiceExt;

use crate::arms::{self, Arm};
use crate::fault::Fault;
use crate::figures::{Figures, Span, is_well};
use crate::goals::Bounds;
use crate::journal::{Journal, Mark};
use crate::load::Load;
use crate::report::Entry;
use crate::world::{self, World};

/// How much of it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// So many injections of each fault, for each arm.
    pub injections: usize,
    /// How long nothing is to be wrong.
    pub calm: Duration,
    /// So many side by side at most.
    pub lanes: usize,
    /// All phases are drawn from it.
    pub seed: u64,
    /// Who meets them.
    pub arms: Vec<Arm>,
    /// How strictly they are held to their goals.
    pub bounds: Bounds,
}

/// A fault comes at a random moment of the periods of all checks.
const PHASES: Duration = Duration::from_secs(1);
/// After a fault is over, so that what it leads to is seen.
const WATCHED_AT_LEAST: Duration = Duration::from_millis(1200);
/// How long a server may take to be well before a fault: it may have just recovered from another one.
const WELL_WITHIN: Duration = Duration::from_secs(120);

/// Injects a fault as planned.
pub async fn run(fault: Fault, plan: &Plan) -> Vec<Entry> {
    if fault == Fault::Calm {
        return calm(plan).await;
    }
    let lanes = fault.lanes().min(plan.lanes).min(plan.injections).max(1);
    let mut running = JoinSet::new();
    for lane in 0..lanes {
        // The first lanes have one more where it does not come out even.
        let rounds = plan.injections / lanes + usize::from(lane < plan.injections % lanes);
        let plan = plan.clone();
        running.spawn(async move { lane_of(fault, lane, rounds, &plan).await });
    }
    running.join_all().await.concat()
}

async fn lane_of(fault: Fault, lane: usize, rounds: usize, plan: &Plan) -> Vec<Entry> {
    let (mut worlds, bounds) = (Vec::new(), plan.bounds);
    for _ in &plan.arms {
        worlds.push(world::build(fault).await);
    }
    let mut entries = Vec::new();
    for round in 0..rounds {
        let phase = phase(fault, lane, round, plan.seed);
        let mut running = JoinSet::new();
        for (&arm, world) in plan.arms.iter().zip(&worlds) {
            let world = Arc::clone(world);
            running.spawn(async move { (arm, inject(fault, arm, &world, phase, bounds).await) });
        }
        let all = running.join_all().await.into_iter();
        entries.extend(all.filter_map(|(arm, figures)| {
            let fault = fault.name().to_owned();
            Some(Entry { fault, arm, lane, round, figures: figures? })
        }));
    }
    entries
}

/// The same for all arms.
fn phase(fault: Fault, lane: usize, round: usize, seed: u64) -> Duration {
    let place = (fault as u64) << 32 | (lane as u64) << 16 | round as u64;
    let mut draw = SmallRng::seed_from_u64(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ place);
    PHASES.mul_f64(draw.random())
}

/// None if the client was not well before the fault, which then says nothing.
async fn inject(
    fault: Fault,
    arm: Arm,
    world: &Arc<dyn World>,
    phase: Duration,
    bounds: Bounds,
) -> Option<Figures> {
    let running = arms::start(arm, fault, world, bounds).await;
    let load = Load::begin(fault.every(), running.client());
    if until_well(&load, Duration::ZERO, WELL_WITHIN).await.is_err() {
        let answer = running.client()().oneshot(()).await;
        let (fault, arm) = (fault.name(), arm.name());
        println!("{fault}: left out once, since {arm} was not well before it; now it answers {answer:?}");
        return None;
    }
    sleep(phase).await;

    let injected = load.start().elapsed();
    world.inject().await;
    if let Some(lasts) = fault.lasts() {
        sleep(lasts.saturating_sub(load.start().elapsed() - injected)).await;
        let is_healed = || is_healed(fault, &load, injected, &running.journal);
        until(is_healed, bounds.patience()).await;
    }
    let over = load.start().elapsed();
    world.mend().await;
    // Whoever does not recover in time has not recovered.
    let _ = until_well(&load, over, fault.watched() + bounds.patience()).await;
    sleep((over + WATCHED_AT_LEAST).saturating_sub(load.start().elapsed())).await;
    if fault == Fault::Password {
        sleep((over + fault.watched()).saturating_sub(load.start().elapsed())).await;
        until(|| running.journal.has(|mark| *mark == Mark::Resolved), bounds.patience()).await;
    }

    let (calls, start) = (load.calls(), load.start());
    drop(load);
    let journal = running.journal.read();
    running.end().await;
    Some(Figures::of(&calls, start, &journal, Span { every: fault.every(), injected, over }))
}

/// Whether what is to be done against a fault while it lasts is done.
fn is_healed(fault: Fault, load: &Load, injected: Duration, journal: &Journal) -> bool {
    match fault {
        Fault::Stop | Fault::BlackHole | Fault::Unplug => {
            load.calls().iter().flatten().any(|ended| ended.by.is_some_and(|target| target != 0))
        }
        Fault::Exhaust | Fault::FullDisk => is_well(&load.calls(), load.every(), injected),
        Fault::Password => journal.has(|mark| *mark == Mark::Paged),
        Fault::Cut => journal.has(|mark| matches!(mark, Mark::Acted(_))),
        _ => true,
    }
}

/// Waits for it, and for so long at most.
async fn until(is_so: impl Fn() -> bool, at_most: Duration) {
    let end = Instant::now() + at_most;
    while Instant::now() < end && !is_so() {
        sleep(Duration::from_millis(50)).await;
    }
}

async fn until_well(load: &Load, since: Duration, within: Duration) -> Result<(), ()> {
    while !is_well(&load.calls(), load.every(), since) {
        if load.start().elapsed() > since + within {
            return Err(());
        }
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Nothing is wrong with any of them for so long: all that is done is mistaken.
async fn calm(plan: &Plan) -> Vec<Entry> {
    let mut running = JoinSet::new();
    for (lane, like) in [Fault::Kill, Fault::KillSession, Fault::FullDisk].into_iter().enumerate() {
        for &arm in plan.arms.iter().filter(|arm| **arm != Arm::Alone) {
            let (calm, bounds) = (plan.calm, plan.bounds);
            running.spawn(async move {
                let world = world::build(like).await;
                let running = arms::start(arm, like, &world, bounds).await;
                let load = Load::begin(like.every(), running.client());
                until_well(&load, Duration::ZERO, WELL_WITHIN).await.expect("nothing is wrong");
                let injected = load.start().elapsed();
                sleep(calm).await;
                let (calls, start, journal) = (load.calls(), load.start(), running.journal.read());
                drop(load);
                running.end().await;
                let figures = Figures::of(
                    &calls,
                    start,
                    &journal,
                    Span { every: like.every(), injected, over: injected },
                );
                Entry { fault: Fault::Calm.name().to_owned(), arm, lane, round: 0, figures }
            });
        }
    }
    running.join_all().await
}
