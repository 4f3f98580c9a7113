//! Two of the seven rules that are broken in the wild, and hold here: levels jump, and a limit on the level takes away what is
//! left. The other five are those of healing.

use buttress_core::Level;
use buttress_degrade::{Chain, DegradationRegistry, DegradeLayer, Degraded, Gather, Need};
use tower::{Layer, ServiceExt, service_fn};

const DOWN: Level = Level::Failed;

/// So many equal parts of each level.
fn of(parts: &[(usize, Level)]) -> Level {
    let registry = DegradationRegistry::new("all");
    let levels = parts.iter().flat_map(|(number, level)| std::iter::repeat_n(*level, *number));
    for (at, level) in levels.enumerate() {
        registry.component(at.to_string(), Need::Weight(1)).report(level);
    }
    registry.levels().instant
}

/// The fifth: one of one that failed without a store went from 0 to 4, one of two from 0 to 3, seven of ten were "moderate", and
/// three that all answered from a store were "moderate" too.
#[tokio::test(start_paused = true)]
async fn levels_do_not_jump() {
    assert_eq!(of(&[(1, Level::Full), (1, DOWN)]), Level::Moderate);
    assert_eq!(of(&[(3, Level::Slight), (7, DOWN)]), Level::Minimal);
    assert_eq!(of(&[(3, Level::Slight)]), Level::Slight);
    assert_eq!(of(&[(2, Level::Full), (1, Level::Slight)]), Level::Slight);

    let chain = Chain::<(), Degraded<u32>>::new().finally(Level::Minimal, "static", |_| 0);
    let down = service_fn(|()| async { Err::<u32, _>("connection refused") });
    let Ok(answer) = DegradeLayer::new("only", chain).unwrap().layer(down).oneshot(()).await;
    assert_eq!(answer.level(), Level::Minimal, "a chain that is closed has no level 4");
    let partial = Gather::new()
        .part("up", Need::Weight(1), async { Ok::<_, std::io::Error>(Degraded::full(1)) })
        .part("down", Need::Weight(1), async { Err::<Degraded<u32>, _>(std::io::Error::other("down")) });
    assert_eq!(partial.await.level(), Level::Moderate);
}

/// The sixth: `max_degradation = MODERATE` made an error of level 3.
#[tokio::test(start_paused = true)]
async fn a_limit_on_the_level_is_told_and_takes_no_answer_away() {
    let registry = DegradationRegistry::new("checkout").max_acceptable(Level::Moderate);
    let chain = Chain::<(), Degraded<u32>>::new().finally(Level::Minimal, "static", |_| 7);
    let layer = DegradeLayer::new("prices", chain).unwrap();
    let layer = layer.report_to(registry.component("prices", Need::Required));
    let down = service_fn(|()| async { Err::<u32, _>("connection refused") });
    let Ok(answer) = layer.layer(down).oneshot(()).await;
    assert_eq!((answer.level(), *answer.get_ref()), (Level::Minimal, 7));
    let error = registry.check().unwrap_err();
    assert_eq!(
        (error.level(), error.components().collect::<Vec<_>>()),
        (registry.levels().instant, vec!["prices"])
    );
}
