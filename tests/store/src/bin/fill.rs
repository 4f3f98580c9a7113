//! Fills the file system of a folder through a store, and goes on once there is room.

use std::io::BufRead;

use buttress_store::{ClaimStore, Claimed, Fault, Sqlite, Written};
use store_tests::{HOUR, owned, request, value};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let folder = std::env::args().nth(1).expect("a folder is given");
    let store = Sqlite::open(format!("{folder}/store.db")).await.unwrap();
    let first = owned(&store, "first").await;
    let mut index = 0;
    let (error, claim) = loop {
        assert!(index < 10_000, "it is not full");
        let claim = match store.claim(&request(&index.to_string())).await {
            Ok(Claimed::Owned(claim)) => claim,
            Ok(other) => panic!("{other:?}"),
            Err(error) => break (error, None),
        };
        if let Err(error) = store.complete(&claim, &value([7; 10_000]), HOUR).await {
            break (error, Some(claim));
        }
        index += 1;
    };
    assert_eq!(error.fault(), Fault::Full, "{error}");
    for earlier in 0..index {
        let claimed = store.claim(&request(&earlier.to_string())).await.unwrap();
        assert!(matches!(claimed, Claimed::Done(_)), "{earlier} of {index}: {claimed:?}");
    }
    println!("full");
    // Somebody makes room.
    std::io::stdin().lock().read_line(&mut String::new()).unwrap();
    assert_eq!(store.complete(&first, &value("first"), HOUR).await.unwrap(), Written::Applied);
    if let Some(claim) = claim {
        assert_eq!(store.complete(&claim, &value([7; 10_000]), HOUR).await.unwrap(), Written::Applied);
    }
    println!("going on");
}
