//! A worker process that others may share a store with: `crowd STORE EFFECTS`. It runs until it is killed. `crowd effects
//! LEDGER` is the server that they have their effects at.

use buttress_cli::AnyStore;
use checkpoint_tests::crowd::{register, workflows};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [store, effects] = &arguments[..] else { panic!("crowd STORE EFFECTS") };
    if store == "effects" {
        return services::serve_effects(effects).expect("the server of effects runs");
    }
    let workflows = workflows(AnyStore::create(store).await.expect("the store opens"));
    let _flow = register(&workflows, effects);
    println!("ready");
    workflows.run_until(std::future::pending()).await;
}
