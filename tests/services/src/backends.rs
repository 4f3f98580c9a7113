//! Each store, empty, for cases that are the same on all of them.

use std::any::Any;
use std::future::Future;
use std::time::Duration;

use buttress_store::{ClaimStore, JournalStore, Memory, Sqlite};
use tokio::runtime::{Builder, Runtime};

/// A store under test, and what has to live as long as it.
#[derive(Debug)]
pub struct Opened<S> {
    /// The store.
    pub store: S,
    _server: Box<dyn Any + Send>,
}

/// Opens an empty store.
pub trait Backend {
    /// The store.
    type Store: ClaimStore + JournalStore;
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
        let store = Sqlite::at(folder.path().join("store.db")).busy_timeout(PATIENCE);
        let store = store.open().await.expect("it opens");
        Opened { store, _server: Box::new(folder) }
    }
}

/// A PostgreSQL server of its own.
#[derive(Debug)]
pub struct InPostgres;

impl Backend for InPostgres {
    type Store = buttress_store::Postgres;

    async fn open(&self) -> Opened<buttress_store::Postgres> {
        let server = crate::Postgres::start();
        Opened { store: server.store().await, _server: Box::new(server) }
    }
}

/// A Redis server of its own.
#[derive(Debug)]
pub struct InRedis;

impl Backend for InRedis {
    type Store = buttress_store::Redis;

    async fn open(&self) -> Opened<buttress_store::Redis> {
        let server = crate::Redis::start();
        Opened { store: server.store().await, _server: Box::new(server) }
    }
}

/// A machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

impl crate::Postgres {
    /// The store in this server.
    ///
    /// # Panics
    ///
    /// If it does not answer.
    pub async fn store(&self) -> buttress_store::Postgres {
        let config = self.config().parse().expect("a configuration");
        let store = buttress_store::Postgres::at(config).timeout(PATIENCE);
        store.open(tokio_postgres::NoTls).await.expect("it opens")
    }
}

impl crate::Redis {
    /// The store in this server.
    ///
    /// # Panics
    ///
    /// If it does not answer.
    pub async fn store(&self) -> buttress_store::Redis {
        let store = buttress_store::Redis::at(self.url()).expect("a URL").timeout(PATIENCE);
        store.open().await.expect("it opens")
    }
}

/// Makes one test of each function `cases::MODULE::CASE` of the given crate, on the backend that the expression gives. The
/// function takes the store.
#[macro_export]
macro_rules! each_case {
    ($backend:expr, $root:tt, $($module:ident: $case:ident)+) => {
        $(
            #[test]
            fn $case() {
                let backend = $backend;
                $crate::Backend::runtime(&backend).block_on(async {
                    let opened = $crate::Backend::open(&backend).await;
                    $root::cases::$module::$case(opened.store.clone()).await;
                });
            }
        )+
    };
}
