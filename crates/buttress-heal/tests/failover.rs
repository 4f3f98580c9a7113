//! Fail-over, and the way back.

mod support;

use std::time::Duration;

use buttress_core::observe::PageKind;
use buttress_heal::{Failback, HealState, Rung};
use support::{World, actions, secs, supervise};
use tokio::time::sleep;
use tower::ServiceExt;

/// HD-41. And the third of seven broken rules: calls go back at the first sign of life of whatever is looked at.
#[tokio::test(start_paused = true)]
async fn calls_go_back_after_five_good_probes_of_the_first_target_in_a_row_and_a_minute_at_least() {
    let world = World::new(2);
    let (supervisor, _, _) = supervise(&world);
    let supervisor = supervisor.targets(["eu", "us"]).rung(Rung::fail_over());
    let (client, handle) = supervisor.spawn().unwrap();
    sleep(secs(10)).await;
    world.set(0, false);
    let mut watch = handle.watch();
    watch.wait_for(|status| status.target == 1).await.unwrap();
    let left = world.now();
    assert_eq!(client.clone().oneshot(()).await.unwrap(), 1);
    world.set(0, true);
    // The probes are at 5, 10, 15, 20; the one at 25 fails; then 30, 35, 40, 45, 50.
    sleep(Duration::from_millis(22_500)).await;
    world.set(0, false);
    sleep(secs(5)).await;
    world.set(0, true);
    sleep(secs(32)).await;
    assert_eq!(handle.status().target, 1, "{:?} after it was left", world.now() - left);
    watch.wait_for(|status| status.target == 0).await.unwrap();
    let stayed = world.now() - left;
    assert!((secs(60)..=secs(62)).contains(&stayed), "{stayed:?}");
    assert_eq!(client.clone().oneshot(()).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn five_good_probes_are_needed_although_the_minute_is_long_over() {
    let world = World::new(2);
    let (supervisor, _, _) = supervise(&world);
    let (_client, handle) = supervisor.targets(["eu", "us"]).rung(Rung::fail_over()).spawn().unwrap();
    sleep(secs(10)).await;
    world.set(0, false);
    sleep(secs(600)).await;
    assert_eq!(handle.status().target, 1);
    for _ in 0..20 {
        world.set(0, true);
        sleep(secs(20)).await;
        world.set(0, false);
        sleep(secs(6)).await;
    }
    assert_eq!((handle.status().target, actions(&handle).len()), (1, 1));
    world.set(0, true);
    let mut watch = handle.watch();
    let since = world.now();
    watch.wait_for(|status| status.target == 0).await.unwrap();
    assert!((secs(20)..=secs(31)).contains(&(world.now() - since)));
}

/// Measured with the rules of the deck: 1416 fail-overs and as many failbacks in a day.
#[tokio::test(start_paused = true)]
async fn a_first_target_that_comes_and_goes_all_day_moves_calls_ever_more_seldom() {
    let world = World::new(2);
    let (supervisor, _, _) = supervise(&world);
    let (_client, handle) = supervisor.targets(["eu", "us"]).rung(Rung::fail_over()).spawn().unwrap();
    for _ in 0..720 {
        world.set(0, true);
        sleep(secs(60)).await;
        world.set(0, false);
        sleep(secs(60)).await;
    }
    let moves = handle.ledger().entries()[0].attempts();
    assert!((1..=300).contains(&moves), "{moves}");
}

#[tokio::test(start_paused = true)]
async fn without_preemption_nobody_goes_back_and_without_another_target_nobody_fails_over() {
    let world = World::new(2);
    let (supervisor, _, _) = supervise(&world);
    let supervisor = supervisor.targets(["eu", "us"]).rung(Rung::fail_over());
    let failback = Failback { preempt: false, ..Failback::default() };
    let (_client, handle) = supervisor.failback(failback).spawn().unwrap();
    sleep(secs(10)).await;
    world.set(0, false);
    sleep(secs(60)).await;
    world.set(0, true);
    sleep(secs(7200)).await;
    assert_eq!((handle.status().target, handle.status().state), (1, HealState::Healthy));

    let world = World::new(1);
    let (supervisor, pages, _) = supervise(&world);
    let (_client, handle) = supervisor.rung(Rung::fail_over()).spawn().unwrap();
    sleep(secs(10)).await;
    world.set(0, false);
    sleep(secs(60)).await;
    assert_eq!((actions(&handle).len(), pages.kinds()), (0, vec![PageKind::Trigger]));
}

/// All are tried, once each, and the way back is open.
#[tokio::test(start_paused = true)]
async fn each_other_target_is_tried_once_in_an_incident() {
    let world = World::new(3);
    let (supervisor, pages, _) = supervise(&world);
    let supervisor = supervisor.targets(["eu", "us", "asia"]).rung(Rung::fail_over());
    let (client, handle) = supervisor.spawn().unwrap();
    sleep(secs(10)).await;
    world.set(0, false);
    world.set(1, false);
    sleep(secs(100)).await;
    assert_eq!((actions(&handle), handle.status().target), (vec!["fail over".to_owned(); 2], 2));
    assert_eq!(client.clone().oneshot(()).await.unwrap(), 2);
    assert_eq!(pages.told().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_way_back_gives_way_to_an_action_for_the_target_in_use() {
    let world = World::new(2);
    let (supervisor, _, _) = supervise(&world);
    let (_client, handle) = supervisor.targets(["eu", "us"]).rung(Rung::fail_over()).spawn().unwrap();
    sleep(secs(10)).await;
    world.set(0, false);
    handle.watch().wait_for(|status| status.target == 1).await.unwrap();
    world.set(0, true);
    sleep(secs(58)).await;
    world.connect.store(25, std::sync::atomic::Ordering::SeqCst);
    sleep(secs(3)).await;
    let before = actions(&handle).len();
    world.set(1, false);
    sleep(secs(8)).await;
    assert!(actions(&handle).len() > before, "the first target takes 25 s to connect");
}
