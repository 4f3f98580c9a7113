use super::*;
use crate::{Worker, long, short};
use buttress_checkpoint::{Cx, StepError, Workflows};
use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Refused {
    Card { code: u32 },
}

/// CP-25
pub async fn a_recorded_error_is_the_same_error_without_running_again<S: JournalStore>(store: S) {
    let effects = Effects::default();
    let register = |config, first: bool| {
        let (workflows, body) = (Workflows::with(store.clone(), config), effects.clone());
        let code = move |cx: Cx, ()| {
            let effects = body.clone();
            async move {
                let refuse = async || {
                    effects.add("charge");
                    Err::<(), _>(Refused::Card { code: 51 })
                };
                let error = cx.step("charge", refuse).await.unwrap_err();
                cx.step(
                    "last",
                    async || if first { effects.hang("last").await } else { effects.done("last") },
                )
                .await?;
                Ok::<_, Failure>(error == StepError::Failed(Refused::Card { code: 51 }))
            }
        };
        let flow = workflows.register("w", 1, code).unwrap();
        (workflows, flow)
    };
    let (first, flow) = register(short(), true);
    flow.start("run", ()).await.unwrap();
    let worker = Worker::start(&first);
    effects.until("last", 1).await;
    worker.crash().await;
    let (second, flow) = register(long(), false);
    let worker = Worker::start(&second);
    assert!(flow.handle(id("run")).result().await.unwrap());
    assert_eq!(effects.count("charge"), 1);
    worker.stop().await;
}

/// CP-21
pub async fn a_step_elsewhere_is_an_error_and_writes_nothing<S: JournalStore>(store: S) {
    let workflows = Workflows::with(store.clone(), long());
    let effects = Effects::default();
    let body = effects.clone();
    let code = move |cx: Cx, ()| {
        let effects = body.clone();
        async move {
            let spawned = effects.clone();
            let step = cx.step("a", move || std::future::ready(spawned.done("a")));
            let elsewhere = tokio::spawn(step).await.unwrap();
            let slept = tokio::spawn(cx.sleep(Duration::ZERO)).await.unwrap();
            cx.step("b", async || effects.done("b")).await?;
            Ok::<_, Failure>(elsewhere == Err(StepError::Elsewhere) && slept.is_err())
        }
    };
    let flow = workflows.register("w", 1, code).unwrap();
    let worker = Worker::start(&workflows);
    assert!(flow.start("run", ()).await.unwrap().result().await.unwrap());
    assert_eq!(effects.names(), ["b"]);
    let entries = store.load(&id("run")).await.unwrap().unwrap().entries;
    assert_eq!(entries.iter().map(|entry| &*entry.entry.name).collect::<Vec<_>>(), ["b", ""]);
    worker.stop().await;
}

/// CP-22
pub async fn a_step_inside_of_a_step_is_an_error_and_shifts_nothing<S: JournalStore>(store: S) {
    let workflows = Workflows::with(store.clone(), long());
    let effects = Effects::default();
    let body = effects.clone();
    let code = move |cx: Cx, ()| {
        let effects = body.clone();
        async move {
            let outer = async || {
                let inner = cx.step("inner", async || effects.done("inner")).await;
                Ok::<_, Failure>(
                    inner == Err(StepError::InsideStep) && cx.sleep(Duration::ZERO).await.is_err(),
                )
            };
            let refused = cx.step("outer", outer).await?;
            cx.step("last", async || effects.done("last")).await?;
            Ok::<_, Failure>(refused)
        }
    };
    let flow = workflows.register("w", 1, code).unwrap();
    let worker = Worker::start(&workflows);
    assert!(flow.start("run", ()).await.unwrap().result().await.unwrap());
    assert_eq!(effects.names(), ["last"]);
    let run = store.load(&id("run")).await.unwrap().unwrap();
    let steps = buttress_checkpoint::Timeline::of(&run).unwrap().steps;
    let numbers: Vec<_> = steps.iter().map(|step| (step.id.name.to_string(), step.id.ordinal)).collect();
    assert_eq!(numbers, [("outer".to_owned(), 0), ("last".to_owned(), 1)]);
    worker.stop().await;
}

/// CP-37
pub async fn a_result_that_is_too_large_is_an_error_and_the_journal_readable<S: JournalStore>(store: S) {
    let workflows = Workflows::with(store.clone(), long());
    let code = async |cx: Cx, ()| {
        let large = cx.step("large", async || Ok::<_, Failure>("x".repeat(64 << 20))).await;
        let Err(StepError::NotStored { reason }) = large else { return Err(Failure::new("it was stored")) };
        cx.step("small", async || Ok::<_, Failure>(1)).await?;
        Ok(reason)
    };
    let flow = workflows.register("w", 1, code).unwrap();
    let worker = Worker::start(&workflows);
    let reason = flow.start("run", ()).await.unwrap().result().await.unwrap();
    assert!(reason.contains("67108866 bytes") && reason.contains("1048576"), "{reason}");
    assert_eq!(store.load(&id("run")).await.unwrap().unwrap().entries.len(), 3);
    worker.stop().await;
}

pub async fn a_body_that_takes_too_long_is_dropped<S: JournalStore>(store: S) {
    let workflows = Workflows::with(store, long());
    let code = async |cx: Cx, ()| {
        let limit = Duration::from_millis(30);
        let late = cx
            .step("late", async || std::future::pending::<Result<(), Failure>>().await)
            .timeout(limit)
            .await;
        Ok::<_, Failure>(late == Err(StepError::TimedOut { limit }))
    };
    let flow = workflows.register("w", 1, code).unwrap();
    let worker = Worker::start(&workflows);
    assert!(flow.start("run", ()).await.unwrap().result().await.unwrap());
    worker.stop().await;
}
