use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::server::{Port, Server, on_path, wait_until, words};

/// A Redis or Valkey of one's own, which keeps each write before it answers.
#[derive(Debug)]
pub struct Redis {
    server: Option<Server>,
    arguments: Vec<String>,
    folder: TempDir,
    port: Port,
}

pub(crate) fn binary() -> Option<PathBuf> {
    on_path("redis-server").or_else(|| on_path("valkey-server"))
}

impl Redis {
    /// Starts a server that is empty, set up so that it loses nothing.
    ///
    /// # Panics
    ///
    /// If it is not installed, or does not start.
    pub fn start() -> Self {
        Self::start_with(&[
            ("appendonly", "yes"),
            ("appendfsync", "always"),
            ("maxmemory-policy", "noeviction"),
        ])
    }

    /// Starts a server that is empty, with these settings.
    ///
    /// # Panics
    ///
    /// If it is not installed, or does not start.
    pub fn start_with(settings: &[(&str, &str)]) -> Self {
        let folder = TempDir::new().expect("there is a place for temporary files");
        let arguments = settings.iter().flat_map(|(name, value)| [format!("--{name}"), (*value).to_owned()]);
        let mut redis = Self { server: None, arguments: arguments.collect(), folder, port: Port::reserve() };
        redis.restart();
        redis
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port())
    }

    /// Its port on loopback.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Ends the server at once, as `kill -9` does.
    pub fn kill(&mut self) {
        if let Some(server) = self.server.take() {
            server.end();
        }
    }

    /// Starts the server again, with the data that it had.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn restart(&mut self) {
        let binary = binary().expect("redis-server is not installed: `cargo xtask test` says how");
        let port = self.port().to_string();
        let mut command = words(&[
            &binary,
            &"--port",
            &port,
            &"--bind",
            &"127.0.0.1",
            &"--dir",
            &self.folder.path(),
            &"--save",
            &"",
        ]);
        command.extend(self.arguments.iter().cloned());
        self.kill();
        self.server = Some(Server::start(&command, self.folder.path()));
        wait_until("redis-server", self.folder.path(), || self.answers());
    }

    /// Stops the server where it is, so that it is there and does not answer, or lets it go on.
    pub fn freeze(&mut self, frozen: bool) {
        if let Some(server) = &mut self.server {
            server.signal(if frozen { "STOP" } else { "CONT" });
        }
    }

    fn answers(&self) -> bool {
        let ping = || -> std::io::Result<[u8; 5]> {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port()))?;
            stream.write_all(b"PING\r\n")?;
            let mut answer = [0; 5];
            stream.read_exact(&mut answer)?;
            Ok(answer)
        };
        ping().is_ok_and(|answer| &answer == b"+PONG" || &answer == b"-NOAU")
    }
}
