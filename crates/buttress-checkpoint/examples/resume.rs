//! A workflow to kill and start again: `cargo run -p buttress-checkpoint --example resume`.
//!
//! It takes ten steps of a second each. End it with Ctrl-C, or harder, with `kill -9`, and start it again: it goes on with the
//! step that was open, under the same key. After a kill that takes up to five seconds, until the lease is over. Meanwhile the
//! `buttress` command shows, cancels and resumes it.

use std::time::Duration;

use buttress_checkpoint::{Config, Cx, Failure, StepKey, Workflows};
use buttress_store::Sqlite;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let path = std::env::temp_dir().join("buttress-resume.db");
    let config = Config::default().lease(Duration::from_secs(5), Duration::from_secs(1))?;
    let workflows = Workflows::with(Sqlite::open(&path).await?, config);
    let climb = workflows.register("climb", 1, async |cx: Cx, ()| {
        for step in 1..=10 {
            let body = async || {
                println!("step {step}, with key {}", StepKey::current().unwrap_or_default());
                tokio::time::sleep(Duration::from_secs(1)).await;
                Ok::<_, Failure>(())
            };
            cx.step("climb", body).await?;
        }
        Ok::<_, Failure>("at the top".to_owned())
    })?;
    let url = format!("sqlite:{}", path.display());
    println!("`buttress --store {url} runs show tower` shows the journal; delete the file to begin anew");
    let handle = climb.start("tower", ()).await?;
    if let Some(lease) = handle.info().await?.and_then(|run| run.lease).filter(|lease| !lease.is_zero()) {
        println!("its last worker was killed, or still runs; its lease ends in {} s", lease.as_secs() + 1);
    }
    let interrupted = async {
        let _ = tokio::signal::ctrl_c().await;
    };
    tokio::select! {
        () = workflows.run_until(interrupted) => println!("stopped; start it again"),
        result = handle.result() => println!("{}", result?),
    }
    workflows.store().shutdown().await;
    Ok(())
}
