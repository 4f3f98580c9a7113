//! Fills the file system of a folder through a store, and goes on once there is room.

use std::fs;
use std::io::BufRead;
use std::os::unix::fs::{MetadataExt, chown};

use buttress_store::{ClaimStore, Claimed, Fault, Postgres, Sqlite, Written};
use store_tests::{HOUR, owned, request, value};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let (store, folder) =
        (arguments.next().expect("a store is given"), arguments.next().expect("a folder is given"));
    match &*store {
        "sqlite" => fill(Sqlite::open(format!("{folder}/store.db")).await.unwrap()).await,
        "postgres" => {
            let server = services::Postgres::start();
            fill(postgres(&server, &folder).await).await;
        }
        other => panic!("there is no store {other}"),
    }
}

/// A store whose claims are in the folder, and whose log is not: a server that has no room for that ends.
async fn postgres(server: &services::Postgres, folder: &str) -> Postgres {
    let store = Postgres::open(server.config().parse().unwrap()).await.unwrap();
    let (client, connection) =
        tokio_postgres::connect(&server.config(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let data: String = client.query_one("SHOW data_directory", &[]).await.unwrap().get(0);
    let (owner, space) = (fs::metadata(data).unwrap(), format!("{folder}/space"));
    fs::create_dir(&space).unwrap();
    chown(&space, Some(owner.uid()), Some(owner.gid())).unwrap();
    client.batch_execute(&format!("CREATE TABLESPACE small LOCATION '{space}'")).await.unwrap();
    client.batch_execute("ALTER TABLE buttress_claims SET TABLESPACE small").await.unwrap();
    store
}

async fn fill<S: ClaimStore>(store: S) {
    let first = owned(&store, "first").await;
    let mut index = 0;
    let (error, claim) = loop {
        assert!(index < 10_000, "it is not full");
        let claim = match store.claim(&request(&index.to_string())).await {
            Ok(Claimed::Owned(claim)) => claim,
            Ok(other) => panic!("{other:?}"),
            Err(error) => break (error, None),
        };
        if let Err(error) = store.complete(&claim, &large(index), HOUR).await {
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
        assert_eq!(store.complete(&claim, &large(index), HOUR).await.unwrap(), Written::Applied);
    }
    println!("going on");
}

/// What cannot be made smaller by compressing it.
fn large(seed: u64) -> buttress_store::Record {
    let mut state = seed;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    });
    value(noise.take(10_000).collect::<Vec<_>>())
}
