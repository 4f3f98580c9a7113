//! The simple form, [`Checkpoint`].

use super::*;
use crate::failing::Failing;
use buttress_checkpoint::{Checkpoint, CheckpointError};
use buttress_store::Command;

/// CP-4, lost acknowledgement: whoever goes on with another state loses nothing, and the checkpoint neither.
pub async fn a_save_whose_answer_was_lost_loses_nothing<S: JournalStore>(store: S) {
    let failing = Failing::new(store.clone());
    let mut checkpoint: Checkpoint<_, u32> = Checkpoint::load(&failing, "work").await.unwrap();
    failing.fail_every(2);
    let (mut saved, mut failed) = (None, 0);
    for number in 1..=20 {
        match checkpoint.save(&number).await {
            Ok(()) => saved = Some(number),
            Err(CheckpointError::Store(_)) => failed += 1,
            Err(error) => panic!("{number}: {error}"),
        }
        assert_eq!(checkpoint.state().copied(), saved, "what is known to be saved");
    }
    assert!(failed > 5 && saved.is_some(), "{failed}");
    failing.fail_every(0);
    let entries = info(&store, "work").await.entries;
    assert!(entries > 20 - failed, "of those that failed some were saved: {entries}");
    checkpoint.release().await.unwrap();
    let checkpoint: Checkpoint<_, u32> = Checkpoint::load(&store, "work").await.unwrap();
    assert!(checkpoint.state() >= saved.as_ref());
    checkpoint.done().await.unwrap();
}

/// CP-26, of a checkpoint: whoever saves next learns that it is to stop, and whoever loads it next.
pub async fn a_cancelled_checkpoint_is_over<S: JournalStore>(store: S) {
    let mut held: Checkpoint<_, u32> = Checkpoint::load(&store, "held").await.unwrap();
    held.save(&1).await.unwrap();
    store.control(&id("held"), Command::Cancel).await.unwrap();
    assert!(matches!(held.save(&2).await, Err(CheckpointError::Cancelled)));
    let run = store.load(&id("held")).await.unwrap().unwrap();
    assert_eq!((run.info.status.kind(), run.entries.len()), (StatusKind::Cancelled, 2), "it is saved still");

    let mut left: Checkpoint<_, u32> = Checkpoint::load(&store, "left").await.unwrap();
    left.save(&1).await.unwrap();
    left.release().await.unwrap();
    store.control(&id("left"), Command::Cancel).await.unwrap();
    for _ in 0..2 {
        let loaded = Checkpoint::<_, u32>::load(&store, "left").await;
        assert!(matches!(loaded, Err(CheckpointError::Cancelled)), "{loaded:?}");
        assert_eq!(info(&store, "left").await.status.kind(), StatusKind::Cancelled);
    }
}
