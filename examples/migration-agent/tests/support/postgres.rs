//! Databases of a private server, behind a proxy that makes the network ill.

use std::sync::OnceLock;
use std::time::Duration;

use buttress_chaos::{ProxyHandle, Toxic, ToxicProxy};
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls};

use super::until;

/// A server with a role that is no superuser.
pub(crate) struct Server {
    server: services::Postgres,
}

/// One database of it, which goes with this value.
pub(crate) struct Database {
    name: String,
    port: u16,
    proxy: ToxicProxy,
}

impl Drop for Database {
    /// Thousands of them would fill a disk.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let admin = connect(&format!("host=127.0.0.1 port={} user=buttress dbname=postgres", self.port));
            execute(&admin, &format!("DROP DATABASE {} WITH (FORCE)", self.name));
        }
    }
}

/// Proxies and connections of the tests live here, while the test waits for a process.
pub(crate) fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2).enable_all().build().expect("threads can be had")
    })
}

impl Server {
    pub(crate) fn start() -> Self {
        Self { server: services::Postgres::start() }
    }

    pub(crate) fn port(&self) -> u16 {
        self.server.port()
    }

    /// A new database, owned by a role of its own.
    pub(crate) fn database(&self, name: &str) -> Database {
        let admin = connect(&self.server.config());
        let upstream = format!("127.0.0.1:{}", self.server.port());
        let proxy = runtime().block_on(async {
            admin.batch_execute(&format!("CREATE ROLE {name} LOGIN")).await.expect("the role is new");
            admin.batch_execute(&format!("CREATE DATABASE {name} OWNER {name}")).await.expect("it is new");
            ToxicProxy::listen("127.0.0.1:0", upstream).await.expect("there is a port")
        });
        Database { name: name.to_owned(), port: self.server.port(), proxy }
    }
}

fn connect(config: &str) -> Client {
    runtime().block_on(async {
        let (client, connection) = tokio_postgres::connect(config, NoTls).await.expect("the server is there");
        tokio::spawn(connection);
        client
    })
}

impl Database {
    /// By way of the proxy.
    pub(crate) fn url(&self) -> String {
        format!("postgres://{0}@127.0.0.1:{1}/{0}", self.name, self.proxy.local_addr().port())
    }

    pub(crate) fn proxy(&self) -> ProxyHandle {
        self.proxy.handle()
    }

    /// Resets every connection of the agent, and whatever else is wrong with them is over then.
    pub(crate) fn cut(&self) {
        let proxy = self.proxy();
        // Beside what delays answers: those that are under way are to be lost.
        proxy.add(Toxic::reset_peer(Duration::ZERO)).expect("there is none");
        until("all are reset", || proxy.counts().open == 0);
        proxy.clear();
    }

    /// A superuser's own way to it.
    pub(crate) fn admin(&self) -> Client {
        connect(&format!("host=127.0.0.1 port={} user=buttress dbname={}", self.port, self.name))
    }

    /// How many connections the agent may have; -1 for any number.
    pub(crate) fn connections(&self, limit: i32) {
        self.execute(&format!("ALTER ROLE {} CONNECTION LIMIT {limit}", self.name));
    }

    pub(crate) fn execute(&self, sql: &str) {
        execute(&self.admin(), sql);
    }

    /// One column of a query, as text.
    pub(crate) fn column(&self, sql: &str) -> Vec<String> {
        column(&self.admin(), sql)
    }

    /// Ends all sessions of the agent, as a server does that is shut down.
    pub(crate) fn terminate(&self) {
        let sql = format!(
            "SELECT pg_terminate_backend(pid)::text FROM pg_stat_activity WHERE usename = '{}'",
            self.name
        );
        self.column(&sql);
    }

    /// Everything that migrations have made: tables, indexes, rows, and the history without its times.
    pub(crate) fn dump(&self) -> Vec<String> {
        let admin = self.admin();
        let mut dump = column(
            &admin,
            "SELECT table_name || '.' || column_name || ' ' || data_type || ' ' || ordinal_position FROM \
             information_schema.columns WHERE table_schema = 'public' AND table_name NOT LIKE 'buttress%' \
             ORDER BY table_name, ordinal_position",
        );
        dump.extend(column(
            &admin,
            "SELECT indexdef || ' ' || indisvalid FROM pg_indexes JOIN pg_index ON \
             indexrelid = format('%I.%I', schemaname, indexname)::regclass WHERE schemaname = 'public' AND \
             tablename NOT LIKE 'buttress%' ORDER BY 1",
        ));
        let tables = column(
            &admin,
            "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public' AND tablename NOT LIKE 'buttress%' ORDER BY 1",
        );
        for table in tables {
            let rows = column(&admin, &format!("SELECT it::text FROM {table} it ORDER BY 1"));
            dump.extend(rows.into_iter().map(|row| format!("{table}: {row}")));
        }
        let history = "SELECT id || ' ' || hash || ' ' || state || ' ' || sequence FROM buttress_migrations ORDER BY sequence";
        dump.extend(column(&admin, history));
        dump
    }
}

pub(crate) fn execute(client: &Client, sql: &str) {
    runtime().block_on(client.batch_execute(sql)).expect("the statement is right");
}

pub(crate) fn column(client: &Client, sql: &str) -> Vec<String> {
    let rows = runtime().block_on(client.query(sql, &[])).expect("the query is right");
    rows.iter().map(|row| row.get::<_, Option<String>>(0).unwrap_or_default()).collect()
}
