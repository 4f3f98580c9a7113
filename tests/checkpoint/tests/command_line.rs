//! CP-38: the command line, while the application runs.

use buttress_checkpoint::{Cx, Failure, Workflows};
use buttress_cli::AnyStore;
use buttress_store::StatusKind;
use checkpoint_tests::Worker;
use checkpoint_tests::cases::{Effects, until};
use serde_json::Value;

async fn command(url: &str, line: &str) -> Result<String, String> {
    let words = line.split(' ').map(std::ffi::OsString::from);
    let store = ["--store".into(), url.into()];
    buttress_cli::run(store.into_iter().chain(words)).await.map_err(|failure| failure.to_string())
}

async fn json(url: &str, line: &str) -> Value {
    serde_json::from_str(&command(url, &format!("--json {line}")).await.unwrap()).unwrap()
}

async fn every_command(url: &str) {
    let refused = command(url, "runs list").await.unwrap_err();
    let expected = ["there is no file", "an application has to open it first"];
    assert!(expected.iter().any(|text| refused.contains(text)), "{refused}");
    let store = AnyStore::create(url).await.unwrap();
    let effects = Effects::default();
    let workflows = Workflows::with(store.clone(), checkpoint_tests::short());
    let body = effects.clone();
    let code = move |cx: Cx, hangs: bool| {
        let effects = body.clone();
        async move {
            cx.step("first", async || effects.done("first")).await?;
            let second = async || {
                if hangs { effects.hang("second").await } else { Err::<(), _>(Failure::new("no")) }
            };
            Ok::<_, Failure>(cx.step("second", second).preemptible().await?)
        }
    };
    let flow = workflows.register("order", 1, code).unwrap();
    let worker = Worker::start(&workflows);
    flow.start("hangs", true).await.unwrap();
    effects.until("second", 1).await;
    let _ = flow.start("fails", false).await.unwrap().result().await;

    let listed = json(url, "runs list").await;
    assert_eq!((listed["runs"].as_array().unwrap().len(), &listed["next"]), (2, &Value::Null));
    assert_eq!(json(url, "runs list --status failed").await["runs"][0]["id"], "fails");
    let table = command(url, "runs list").await.unwrap();
    assert!(table.starts_with("ID") && !table.contains("--after"), "{table}");
    let table = command(url, "runs list --limit 1").await.unwrap();
    assert!(
        table.lines().count() == 3 && table.contains("fails") && table.contains("… and more: --after"),
        "{table}"
    );
    let page = json(url, "runs list --limit 1").await;
    let next = page["next"].as_str().unwrap();
    let last = json(url, &format!("runs list --limit 1 --after {next}")).await;
    assert_eq!((&last["runs"][0]["id"], &last["next"]), (&"hangs".into(), &Value::Null));
    let shown = json(url, "runs show fails").await;
    assert_eq!(
        (&shown["steps"][0]["state"], &shown["steps"][1]["state"]),
        (&"done".into(), &"failed".into())
    );
    assert_eq!(shown["steps"][1]["key"].as_str().unwrap().len(), 32);
    let table = command(url, "runs show hangs").await.unwrap();
    assert!(table.contains("✓") && table.contains("goes on after step `first`"), "{table}");

    assert!(command(url, "runs retry-from hangs second").await.unwrap_err().contains("cancel it first"));
    command(url, "runs cancel hangs").await.unwrap();
    until(&store, "hangs", StatusKind::Cancelled).await;
    assert_eq!(json(url, "runs cancel hangs").await["status"], "cancelled");
    assert_eq!(json(url, "runs cancel fails").await["status"], "failed", "what is over stays as it is");
    assert_eq!(json(url, "runs resume fails").await["status"], "failed");
    assert_eq!(json(url, "runs retry-from fails second").await["id"], "fails~2");
    until(&store, "fails~2", StatusKind::Failed).await;
    assert_eq!(effects.count("first"), 2, "it was not done again");
    assert!(
        command(url, "runs retry-from fails third").await.unwrap_err().contains("not recorded such a step")
    );
    assert!(command(url, "runs retry-from nothing second").await.unwrap_err().contains("no run `nothing`"));
    assert!(command(url, "runs show nothing").await.unwrap_err().contains("no run"));
    worker.stop().await;
    flow.start("left", true).await.unwrap();
    assert_eq!(json(url, "runs cancel left").await["status"], "running", "it waits for its code");
    assert_eq!(json(url, "runs cancel left --force").await["status"], "cancelled");
    assert_eq!(json(url, "runs prune --older-than 1h").await["pruned"], 0);
    assert_eq!(json(url, "runs prune --older-than 0s").await["pruned"], 4);
}

#[tokio::test]
async fn every_command_works_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    every_command(&format!("sqlite:{}", folder.path().join("runs.db").display())).await;
}

#[tokio::test]
async fn every_command_works_on_postgres() {
    let server = services::Postgres::start();
    every_command(&server.url()).await;
}

#[tokio::test]
async fn every_command_works_on_redis() {
    let server = services::Redis::start();
    every_command(&server.url()).await;
}
