use std::fs;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime};
use services::signal;
use tokio::time::{sleep, timeout};
use tokio_postgres::{Config, NoTls};
use tower::service_fn;

use super::World;
use crate::fault::Fault;
use crate::{BoxError, Client};

/// A parent starts its child again so long after its end.
const RESTART_AFTER: Duration = Duration::from_millis(100);
/// As many sessions as the server has for those who are not its superuser: one client can use them all up. They are few, so that
/// those who have lost theirs and all ask for new ones do not take the time of what is measured.
const SESSIONS: usize = 5;
const SETTINGS: [&str; 3] =
    ["max_connections=8", "superuser_reserved_connections=3", "password_encryption=md5"];
/// The superuser needs no password; the client's is really looked at, in a way that does not cost the time of what is measured.
const WHO_MAY: &str = "host all buttress 127.0.0.1/32 trust\nhost all app 127.0.0.1/32 md5\n";
/// A caller that gets no session for so long gets an error.
const WAIT_FOR_SESSION: Duration = Duration::from_millis(200);
const PASSWORD: &str = "right";

const END_IDLE_SESSIONS: &str =
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app' AND state = 'idle'";
const END_SESSIONS: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'";
const ONE_SESSION: &str = "SELECT pid FROM pg_stat_activity WHERE usename = 'app' LIMIT 1";

/// A server of its own, and a client with a pool that may use all of its sessions.
#[derive(Debug)]
pub struct Postgres {
    fault: Fault,
    server: Arc<Mutex<services::Postgres>>,
    superuser: Config,
    app: Config,
    /// Of the latest client.
    pool: Mutex<Option<Pool>>,
    /// Sessions that the client's process took and will not give back.
    leaked: Mutex<Vec<Object>>,
}

impl Postgres {
    /// Starts the server.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub async fn start(fault: Fault) -> Self {
        let started = || services::Postgres::start_with(&SETTINGS);
        let server = tokio::task::spawn_blocking(started).await.expect("it starts");
        fs::write(server.data().join("pg_hba.conf"), WHO_MAY).expect("it is there");
        let superuser: Config = server.config().parse().expect("it is well-formed");
        let mut app = superuser.clone();
        app.user("app").password(PASSWORD).connect_timeout(Duration::from_secs(1));
        let server = Arc::new(Mutex::new(server));
        let (pool, leaked) = (Mutex::new(None), Mutex::new(Vec::new()));
        let world = Self { fault, server, superuser, app, pool, leaked };
        world.as_superuser(&format!("CREATE ROLE app LOGIN PASSWORD '{PASSWORD}'")).await.expect("it is new");
        world.as_superuser("SELECT pg_reload_conf()").await.expect("it is the superuser");
        world
    }

    /// The first column of the first row, if there is one.
    async fn as_superuser(&self, sql: &str) -> Result<Option<String>, BoxError> {
        let (client, connection) = self.superuser.connect(NoTls).await?;
        let connection = tokio::spawn(connection);
        let messages = client.simple_query(sql).await?;
        drop(client);
        connection.await??;
        Ok(messages.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        }))
    }

    fn pool(&self) -> Pool {
        lock(&self.pool).clone().expect("there is a client")
    }

    /// Others ask for sessions too, and the server may still be ending old ones: it is tried until all are taken.
    async fn leak(&self) {
        let pool = self.pool();
        let leaking = async {
            while lock(&self.leaked).len() < SESSIONS {
                match pool.get().await {
                    Ok(session) => lock(&self.leaked).push(session),
                    Err(_) => sleep(Duration::from_millis(5)).await,
                }
            }
        };
        timeout(Duration::from_secs(10), leaking).await.expect("the client has all sessions in the end");
    }

    async fn kill_session(&self) {
        let pid = self.as_superuser(ONE_SESSION).await.expect("the server is well");
        signal(pid.and_then(|pid| pid.parse().ok()).expect("the client has sessions"), "KILL");
    }

    async fn kill_postmaster(&self) {
        lock(&self.server).kill_postmaster();
        sleep(RESTART_AFTER).await;
        let server = Arc::clone(&self.server);
        tokio::task::spawn_blocking(move || lock(&server).restart()).await.expect("it starts");
    }
}

#[async_trait]
impl World for Postgres {
    async fn client(&self, _: usize) -> Result<Client, BoxError> {
        let fast = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_config(self.app.clone(), NoTls, fast);
        let pool = Pool::builder(manager)
            .max_size(SESSIONS)
            .wait_timeout(Some(WAIT_FOR_SESSION))
            .runtime(Runtime::Tokio1)
            .build()?;
        *lock(&self.pool) = Some(pool.clone());
        Ok(Client::new(service_fn(move |()| select(pool.clone()))))
    }

    async fn inject(&self) {
        match self.fault {
            Fault::Exhaust => self.leak().await,
            Fault::KillSession => self.kill_session().await,
            Fault::KillPostmaster => self.kill_postmaster().await,
            Fault::Password => {
                self.as_superuser("ALTER ROLE app PASSWORD 'changed'").await.expect("the server is well");
                self.as_superuser(END_SESSIONS).await.expect("the server is well");
            }
            _ => {}
        }
    }

    async fn mend(&self) {
        lock(&self.leaked).clear();
        if self.fault == Fault::Password {
            let password = format!("ALTER ROLE app PASSWORD '{PASSWORD}'");
            self.as_superuser(&password).await.expect("the server is well");
        }
    }

    async fn restart(&self) {
        // The end of a process is the end of its connections.
        self.pool().close();
        lock(&self.leaked).clear();
    }

    async fn cure(&self) -> Result<(), BoxError> {
        self.as_superuser(END_IDLE_SESSIONS).await.map(drop)
    }
}

async fn select(pool: Pool) -> Result<usize, BoxError> {
    pool.get().await?.simple_query("SELECT 1").await?;
    Ok(0)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
