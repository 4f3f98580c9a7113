use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::server::{Port, Server, on_path, run, wait_until, words};

/// A PostgreSQL of one's own.
#[derive(Debug)]
pub struct Postgres {
    server: Option<Server>,
    folder: TempDir,
    port: Port,
    settings: Vec<String>,
}

/// The folder with `initdb` and `postgres`, of the newest release.
pub(crate) fn binaries() -> Option<PathBuf> {
    let mut releases: Vec<PathBuf> = ["/usr/lib/postgresql", "/usr/local/opt", "/opt/homebrew/opt"]
        .iter()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|folder| folder.join("initdb").is_file() && folder.join("postgres").is_file())
        .collect();
    releases.sort();
    let on_path = on_path("initdb").and_then(|initdb| Some(initdb.canonicalize().ok()?.parent()?.to_owned()));
    releases.pop().or(on_path)
}

impl Postgres {
    /// Starts a server that is empty.
    ///
    /// # Panics
    ///
    /// If it is not installed, or does not start.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a server that is empty, with these settings, such as `fsync=on`.
    ///
    /// # Panics
    ///
    /// If it is not installed, or does not start.
    pub fn start_with(settings: &[&str]) -> Self {
        let folder = TempDir::new().expect("there is a place for temporary files");
        let template = template();
        let data = folder.path().join("data");
        run(&words(&[&"cp", &"-a", &template, &data]));
        open_to_all(folder.path());
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let mut postgres = Self { server: None, folder, port: Port::reserve(), settings };
        postgres.restart();
        postgres
    }

    /// How `tokio-postgres` and `psql` connect to it.
    pub fn config(&self) -> String {
        self.config_by(self.port())
    }

    /// How one connects to it by way of another port, such as that of a proxy.
    pub fn config_by(&self, port: u16) -> String {
        format!("host=127.0.0.1 port={port} user=buttress dbname=postgres")
    }

    /// How the command line names it.
    pub fn url(&self) -> String {
        format!("postgres://buttress@127.0.0.1:{}/postgres", self.port())
    }

    /// Its port on loopback.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Ends the server in the middle of what it does: it recovers when it is started again.
    ///
    /// # Panics
    ///
    /// If it does not end.
    pub fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.signal("QUIT");
            let pid = self.data().join("postmaster.pid");
            wait_until("the end of postgres", self.folder.path(), || !pid.exists());
            server.end();
        }
    }

    /// Kills the process that started all others, as `kill -9` does: they notice and end, and it leaves all its files.
    pub fn kill_postmaster(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.signal("KILL");
            server.end();
        }
    }

    /// Starts the server again, with the data that it had.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn restart(&mut self) {
        let (binary, port) = (program("postgres"), self.port().to_string());
        let defaults = [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "max_connections=200",
            "shared_buffers=16MB",
            // What survives is for others to test.
            "fsync=off",
        ];
        let mut command = as_user();
        command.extend(words(&[&binary, &"-D", &self.data(), &"-p", &port]));
        // Of two the later one counts.
        let settings = defaults.into_iter().chain(self.settings.iter().map(String::as_str));
        command.extend(settings.flat_map(|setting| ["-c".to_owned(), setting.to_owned()]));
        let pid = self.data().join("postmaster.pid");
        // A postmaster that was killed leaves its own.
        let before = fs::read_to_string(&pid).unwrap_or_default();
        let ready =
            |pid: &str| pid != before && pid.lines().nth(7).is_some_and(|line| line.trim() == "ready");
        let folder = self.folder.path();
        // ... and processes that need a moment to notice, until which there is no other.
        let refused = || {
            let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
            log.contains("shared memory block") && log.contains("still in use")
        };
        for _ in 0..1000 {
            if let Some(server) = self.server.take() {
                server.end();
            }
            self.server = Some(Server::start(&command, folder));
            let is_ready = || fs::read_to_string(&pid).is_ok_and(|pid| ready(&pid));
            wait_until("postgres", folder, || is_ready() || refused());
            if is_ready() {
                return;
            }
        }
        panic!("the processes of a postmaster that was killed do not end");
    }

    /// Where its data are, and its `pg_hba.conf`.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.kill();
        }
    }
}

fn program(name: &str) -> PathBuf {
    binaries().expect("PostgreSQL is not installed: `cargo xtask test` says how").join(name)
}

/// What comes before a command that root may not run: another user.
fn as_user() -> Vec<String> {
    let Some(uid) = other_user() else { return Vec::new() };
    ["setpriv", "--reuid", uid, "--regid", uid, "--clear-groups", "--"].map(str::to_owned).to_vec()
}

/// Root's stand-in: whom the package made for it, or nobody.
fn other_user() -> Option<&'static str> {
    static USER: OnceLock<Option<String>> = OnceLock::new();
    let user = USER.get_or_init(|| {
        let id = |arguments: &[&str]| {
            let output = std::process::Command::new("id").args(arguments).output().ok()?;
            let id = String::from_utf8(output.stdout).ok()?.trim().to_owned();
            (output.status.success() && !id.is_empty()).then_some(id)
        };
        (id(&["-u"])? == "0").then(|| id(&["-u", "postgres"]).unwrap_or_else(|| "65534".to_owned()))
    });
    user.as_deref()
}

/// Others than the owner of a folder get to what is in it, and that has rights of its own.
fn open_to_all(folder: &Path) {
    run(&words(&[&"chmod", &"755", &folder]));
}

/// An empty database, which takes a second to make and a tenth of one to copy. Made once for each release and user.
fn template() -> PathBuf {
    let initdb = program("initdb");
    let release = initdb.to_string_lossy().replace('/', "-");
    let user = other_user().map_or_else(|| std::env::var("USER").unwrap_or_default(), str::to_owned);
    let home = std::env::temp_dir().join(format!("buttress-services-{user}{release}"));
    fs::create_dir_all(&home).expect("there is a place for temporary files");
    open_to_all(&home);
    let lock = File::create(home.join("lock")).expect("the folder is there");
    lock.lock().expect("files can be locked");
    let template = home.join("template");
    if !template.exists() {
        let making = home.join("making");
        let _ = fs::remove_dir_all(&making);
        fs::create_dir(&making).expect("the folder is there");
        if let Some(uid) = other_user() {
            run(&words(&[&"chown", &uid, &making]));
        }
        let mut command = as_user();
        command.extend(words(&[
            &initdb,
            &"-D",
            &making,
            &"-U",
            &"buttress",
            &"-A",
            &"trust",
            &"-E",
            &"UTF8",
        ]));
        command.extend(["--locale=C", "--no-sync"].map(str::to_owned));
        run(&command);
        fs::rename(&making, &template).expect("it stays on the file system");
    }
    template
}
