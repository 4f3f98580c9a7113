use std::any::Any;
use std::future::Future;

use buttress_store::{ClaimStore, Memory, Postgres, Redis, Sqlite};
use tokio::runtime::{Builder, Runtime};

/// A store under test, and what has to live as long as it.
#[derive(Debug)]
pub struct Opened<St> {
    /// The store.
    pub store: St,
    _server: Box<dyn Any + Send>,
}

/// Opens an empty store.
pub trait Backend {
    /// The store.
    type Store: ClaimStore;
    /// Whether the store's clock is tokio's, and is paused.
    const PAUSED: bool = false;
    /// An empty one.
    fn open(&self) -> impl Future<Output = Opened<Self::Store>>;

    /// The runtime of a case.
    fn runtime(&self) -> Runtime {
        let runtime = Builder::new_current_thread().enable_all().start_paused(Self::PAUSED).build();
        runtime.expect("a runtime can be built")
    }
}

/// The store in memory, on a paused clock.
#[derive(Debug)]
pub struct InMemory;

impl Backend for InMemory {
    type Store = Memory;
    const PAUSED: bool = true;

    async fn open(&self) -> Opened<Memory> {
        Opened { store: Memory::new(), _server: Box::new(()) }
    }
}

/// A SQLite file of its own.
#[derive(Debug)]
pub struct InSqlite;

impl Backend for InSqlite {
    type Store = Sqlite;

    async fn open(&self) -> Opened<Sqlite> {
        let folder = tempfile::tempdir().expect("there is a place for temporary files");
        let store = Sqlite::open(folder.path().join("claims.db")).await.expect("it opens");
        Opened { store, _server: Box::new(folder) }
    }
}

/// A PostgreSQL server of its own.
#[derive(Debug)]
pub struct InPostgres;

impl Backend for InPostgres {
    type Store = Postgres;

    async fn open(&self) -> Opened<Postgres> {
        let server = services::Postgres::start();
        Opened { store: open_postgres(&server).await, _server: Box::new(server) }
    }
}

/// The store in this server.
///
/// # Panics
///
/// If it does not answer.
pub async fn open_postgres(server: &services::Postgres) -> Postgres {
    let config = server.config().parse().expect("a configuration");
    Postgres::at(config).open(tokio_postgres::NoTls).await.expect("it opens")
}

/// A Redis server of its own.
#[derive(Debug)]
pub struct InRedis;

impl Backend for InRedis {
    type Store = Redis;

    async fn open(&self) -> Opened<Redis> {
        let server = services::Redis::start();
        Opened { store: open_redis(&server).await, _server: Box::new(server) }
    }
}

/// The store in this server.
///
/// # Panics
///
/// If it does not answer.
pub async fn open_redis(server: &services::Redis) -> Redis {
    Redis::at(server.url()).expect("a URL").open().await.expect("it opens")
}
