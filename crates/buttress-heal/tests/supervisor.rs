//! The whole supervisor: checks, ladder, swap and pager on a paused clock.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use buttress_core::observe::PageKind;
use buttress_heal::{Answer, BoxFuture, Build, Check, HealState, Health, Subject, Supervisor, Symptom};
use support::{Pages, World, actions, secs, supervise};
use tower::ServiceExt;

#[tokio::test(start_paused = true)]
async fn a_dead_client_is_replaced_and_the_incident_is_over_when_the_new_one_has_been_well_for_a_minute() {
    let world = World::new(1);
    let (supervisor, pages, _) = supervise(&world);
    let (client, handle) = supervisor.spawn().unwrap();
    client.clone().oneshot(()).await.unwrap();
    tokio::time::sleep(secs(20)).await;
    assert_eq!((handle.health(), world.builds().len()), (Health::Healthy, 1));
    world.poison();
    tokio::time::sleep(secs(7)).await;
    client.clone().oneshot(()).await.unwrap();
    assert_eq!(world.builds().len(), 2, "{:?}", handle.incident());
    tokio::time::sleep(secs(6)).await;
    assert_eq!(handle.status().state, HealState::Recovering);
    tokio::time::sleep(secs(60)).await;
    assert_eq!((handle.status().state, handle.status().incident), (HealState::Healthy, None));
    let incident = handle.incidents().pop().unwrap();
    assert!(incident.is_over() && incident.recovered_after().unwrap() < secs(2), "{incident}");
    assert_eq!(actions(&handle), ["reset pool"]);
    assert_eq!(pages.kinds(), []);
    assert_eq!(handle.ledger().entries()[0].successes(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_may_take_for_ever() {
    let (supervisor, _, _) = supervise(&World::new(1));
    let (_client, handle) = supervisor.spawn().unwrap();
    assert!(handle.shutdown(Duration::MAX).await);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_cured_is_paged_once_and_resolved_when_it_is_over() {
    let world = World::new(1);
    let (supervisor, pages, _) = supervise(&world);
    let (client, handle) = supervisor.spawn().unwrap();
    tokio::time::sleep(secs(20)).await;
    world.set(0, false);
    tokio::time::sleep(secs(3600)).await;
    assert_eq!(pages.kinds(), [PageKind::Trigger], "{:#?}", pages.told());
    client.clone().oneshot(()).await.unwrap_err();
    assert_eq!(handle.status().state, HealState::Escalated);
    world.set(0, true);
    tokio::time::sleep(secs(90)).await;
    client.clone().oneshot(()).await.unwrap();
    assert_eq!(pages.kinds(), [PageKind::Trigger, PageKind::Resolve]);
    assert_eq!(pages.told()[0].key, pages.told()[1].key);
}

/// A client as it should not be: one that blocks in its drop, say, which tokio answers with a panic.
struct Fragile(Arc<Faults>);

#[derive(Default)]
struct Faults {
    ill: AtomicBool,
    clone: AtomicBool,
    drop: AtomicBool,
}

impl Clone for Fragile {
    fn clone(&self) -> Self {
        assert!(!self.0.clone.load(SeqCst), "it cannot be cloned");
        Self(Arc::clone(&self.0))
    }
}

impl Drop for Fragile {
    fn drop(&mut self) {
        assert!(!self.0.drop.load(SeqCst), "it cannot be dropped");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_panics_when_it_is_cloned_or_dropped_ends_no_supervisor_and_a_human_is_called() {
    let kinds: [fn(&Faults) -> &AtomicBool; 2] = [|faults| &faults.clone, |faults| &faults.drop];
    for fault in kinds {
        let (faults, pages) = (Arc::new(Faults::default()), Pages::new());
        let [built, retired] = [(); 2].map(|()| Arc::new(AtomicUsize::new(0)));
        let (clients, count) = (Arc::clone(&faults), Arc::clone(&built));
        let supervisor = Supervisor::new("db", move |_: Build| {
            count.fetch_add(1, SeqCst);
            std::future::ready(Ok::<_, std::io::Error>(Fragile(Arc::clone(&clients))))
        });
        let count = Arc::clone(&retired);
        let supervisor = supervisor.pager(Arc::clone(&pages)).retire(move |_| {
            count.fetch_add(1, SeqCst);
            std::future::ready(())
        });
        let supervisor = supervisor.ping(|client: Fragile| async move {
            if client.0.ill.load(SeqCst) { Err("ill") } else { Ok(()) }
        });
        let (_client, handle) = supervisor.spawn().unwrap();
        tokio::time::sleep(secs(20)).await;
        faults.ill.store(true, SeqCst);
        fault(&faults).store(true, SeqCst);
        tokio::time::sleep(secs(600)).await;
        assert_eq!((handle.health(), pages.kinds()), (Health::Critical, vec![PageKind::Trigger]));
        faults.ill.store(false, SeqCst);
        fault(&faults).store(false, SeqCst);
        tokio::time::sleep(secs(130)).await;
        assert_eq!(
            (handle.health(), pages.kinds()),
            (Health::Healthy, vec![PageKind::Trigger, PageKind::Resolve])
        );
        assert_eq!(retired.load(SeqCst), built.load(SeqCst) - 1, "all but the one in use");
    }
}

/// Woken, it asks how things are, and does not wait until it is polled for that.
struct Curious(buttress_heal::SupervisorHandle);

impl std::task::Wake for Curious {
    fn wake(self: Arc<Self>) {
        self.0.status();
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_is_woken_by_a_change_may_ask_how_things_are_at_once() {
    let (supervisor, _, _) = supervise(&World::new(1));
    let (_client, handle) = supervisor.spawn().unwrap();
    tokio::time::sleep(secs(1)).await;
    let mut watch = handle.watch();
    watch.mark_unchanged();
    let mut changed = std::pin::pin!(watch.changed());
    let waker = Arc::new(Curious(handle.clone())).into();
    let mut cx = std::task::Context::from_waker(&waker);
    assert!(changed.as_mut().poll(&mut cx).is_pending());
    handle.pause();
    tokio::time::sleep(secs(1)).await;
    assert!(changed.as_mut().poll(&mut cx).is_ready() && handle.status().paused);
    let mut end = handle.watch();
    let mut ended = std::pin::pin!(end.changed());
    assert!(ended.as_mut().poll(&mut cx).is_pending());
    assert!(handle.shutdown(secs(1)).await);
}

/// It fails, and panics when it is asked for its name by the supervisor's task.
struct Nameless(AtomicBool);

impl<S> Check<S> for Nameless {
    fn name(&self) -> &str {
        assert!(!self.0.load(SeqCst), "it has no name");
        "nameless"
    }

    fn symptom(&self) -> Symptom {
        Symptom::Queue
    }

    fn run<'a>(&'a self, _: Subject<'a, S>) -> BoxFuture<'a, Answer> {
        self.0.store(true, SeqCst);
        Box::pin(std::future::ready(Answer::fail("always")))
    }
}

#[tokio::test(start_paused = true)]
async fn a_check_that_panics_when_it_is_asked_for_its_name_ends_no_supervisor() {
    let (supervisor, pages, _) = supervise(&World::new(1));
    let (_client, handle) = supervisor.check(Nameless(AtomicBool::new(false))).spawn().unwrap();
    tokio::time::sleep(secs(300)).await;
    assert_eq!((handle.health(), pages.kinds()), (Health::Degraded, vec![PageKind::Trigger]));
    assert!(pages.told()[0].text.contains("a check whose name panics"), "{}", pages.told()[0].text);
}
