//! Connections: a service whose answers are connections, and which is built anew when it has none to give.

use std::fmt;
use std::future::{Future, Ready, ready};
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use buttress::heal::Build;
use deadpool_postgres::{ClientWrapper, Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime};
use tower::Service;

use super::server::Server;
use crate::fault::Fault;

/// A pool of connections to one server. Clones share it.
#[derive(Clone)]
pub(crate) struct Connections {
    pool: Pool,
    /// Whoever asked last got none, from this pool or from the one before.
    starving: Arc<AtomicBool>,
}

/// One for the change, and one for who looks in between.
const CONNECTIONS: usize = 2;

/// How long one waits for a free connection, for a new one, and for one to be made clean.
const PATIENCE: Duration = Duration::from_secs(5);

impl Connections {
    /// What builds them: each time a pool without the connections, and what those had prepared, of the one before.
    pub(crate) fn factory(server: Server) -> impl FnMut(Build) -> Ready<Result<Self, Fault>> {
        let Server { mut config, tls } = server;
        // A server that is gone without a word is noticed in the middle of a statement as well.
        config.connect_timeout(PATIENCE).keepalives_idle(Duration::from_secs(10)).keepalives_retries(3);
        config.keepalives_interval(Duration::from_secs(3)).tcp_user_timeout(Duration::from_secs(20));
        let starving = Arc::default();
        move |_| {
            // What a migration has set for its session is not for the next one.
            let recycling = ManagerConfig { recycling_method: RecyclingMethod::Clean };
            let manager = Manager::from_config(config.clone(), tls.clone(), recycling);
            let pool = Pool::builder(manager).max_size(CONNECTIONS).runtime(Runtime::Tokio1);
            let pool = pool.wait_timeout(Some(PATIENCE)).create_timeout(Some(PATIENCE));
            let pool = pool.recycle_timeout(Some(PATIENCE)).build();
            let starving = Arc::clone(&starving);
            ready(pool.map(|pool| Self { pool, starving }).map_err(|error| Fault::passing(error.to_string())))
        }
    }

    pub(crate) fn is_starving(&self) -> bool {
        self.starving.load(Relaxed)
    }

    /// A connection whose session is as new.
    pub(crate) async fn lend(&self) -> Result<Lent, Fault> {
        let lent = self.pool.get().await.map(|object| Lent(Some(object))).map_err(Fault::of_pool);
        let starving = lent.as_ref().is_err_and(|fault| fault.starved);
        self.starving.store(starving, Relaxed);
        lent
    }

    /// Closes it: idle connections end, which may be what the server waits for, and no statement stays prepared. Those that are
    /// lent end when they are given back.
    pub(crate) fn close(&self) {
        self.pool.manager().statement_caches.clear();
        self.pool.close();
    }
}

impl Service<()> for Connections {
    type Response = Lent;
    type Error = Fault;
    type Future = Pin<Box<dyn Future<Output = Result<Lent, Fault>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        let connections = self.clone();
        Box::pin(async move { connections.lend().await })
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").field("pool", &self.pool.status()).finish_non_exhaustive()
    }
}

/// A connection that is closed when it is dropped, whatever it is in the middle of, unless it is given back.
pub(crate) struct Lent(Option<Object>);

impl Lent {
    /// All went well, and others may have it.
    pub(crate) fn give_back(mut self) {
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
