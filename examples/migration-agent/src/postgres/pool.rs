//! Connections, and how a pool that has none is made well again.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use deadpool_postgres::{ClientWrapper, Manager, ManagerConfig, Object, RecyclingMethod, Runtime};
use tokio_postgres::{Config, NoTls};

use crate::fault::Fault;

/// Connections to one server. Of several generations the last one lends.
pub(crate) struct Pool {
    config: Config,
    current: Mutex<(u64, deadpool_postgres::Pool)>,
}

/// One for the change, and one for who looks in between.
const CONNECTIONS: usize = 2;

/// How long one waits for a free connection, for a new one, and for one to be made clean.
const PATIENCE: Duration = Duration::from_secs(5);

impl Pool {
    pub(crate) fn new(mut config: Config) -> Self {
        // A server that is gone without a word is noticed in the middle of a statement as well.
        config.connect_timeout(PATIENCE).keepalives_idle(Duration::from_secs(10)).keepalives_retries(3);
        config.keepalives_interval(Duration::from_secs(3)).tcp_user_timeout(Duration::from_secs(20));
        let current = Mutex::new((1, generation(&config)));
        Self { config, current }
    }

    /// A connection whose session is as new.
    pub(super) async fn lend(&self) -> Result<Lent, Fault> {
        let pool = self.current.lock().unwrap_or_else(PoisonError::into_inner).1.clone();
        pool.get().await.map(|object| Lent(Some(object))).map_err(Fault::of_pool)
    }

    /// Forgets the statements that connections have prepared.
    pub(crate) fn clear_statements(&self) {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).1.manager().statement_caches.clear();
    }

    /// Puts a new pool in the place of this one, whose idle connections are closed, which may be what the server waits for.
    /// Those that are lent end when they are given back. Says which generation it is.
    pub(crate) fn reset(&self) -> u64 {
        let new = generation(&self.config);
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.1.close();
        *current = (current.0 + 1, new);
        current.0
    }
}

fn generation(config: &Config) -> deadpool_postgres::Pool {
    // What a migration has set for its session is not for the next one.
    let recycling = ManagerConfig { recycling_method: RecyclingMethod::Clean };
    let manager = Manager::from_config(config.clone(), NoTls, recycling);
    let pool = deadpool_postgres::Pool::builder(manager).max_size(CONNECTIONS).runtime(Runtime::Tokio1);
    let pool =
        pool.wait_timeout(Some(PATIENCE)).create_timeout(Some(PATIENCE)).recycle_timeout(Some(PATIENCE));
    pool.build().expect("time-outs have a runtime")
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        f.debug_struct("Pool").field("generation", &current.0).finish_non_exhaustive()
    }
}

/// A connection that is closed when it is dropped, whatever it is in the middle of, unless it is given back.
pub(super) struct Lent(Option<Object>);

impl Lent {
    /// All went well, and others may have it.
    pub(super) fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(object) = self.0.take() {
            drop(Object::take(object));
        }
    }
}

impl Deref for Lent {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        self.0.as_ref().expect("it is there until it is given back")
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut ClientWrapper {
        self.0.as_mut().expect("it is there until it is given back")
    }
}
