//! The store in PostgreSQL, against a real server.

mod exactly_once;
mod failures;
mod load;
mod waiting;

use std::time::Duration;

use buttress_store::Postgres;
use buttress_store::conformance::Harness;

/// A server of its own for each case.
struct Server(services::Postgres);

impl Server {
    fn start() -> Self {
        Self(services::Postgres::start())
    }
}

impl Harness for Server {
    type Store = Postgres;

    async fn store(&self) -> Postgres {
        open(&self.0.config()).await
    }

    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }
}

mod claims {
    buttress_store::claim_conformance!(super::Server::start());
}

mod journals {
    buttress_store::journal_conformance!(super::Server::start());
}

mod answers {
    buttress_store::answer_conformance!(super::Server::start());
}

async fn open(config: &str) -> Postgres {
    let config = config.parse().expect("it is one");
    Postgres::at(config).timeout(Duration::from_secs(60)).open(tokio_postgres::NoTls).await.unwrap()
}

/// A connection beside the store's.
async fn connect(server: &services::Postgres) -> tokio_postgres::Client {
    let (client, connection) =
        tokio_postgres::connect(&server.config(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}
