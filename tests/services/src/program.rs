use tempfile::TempDir;

use crate::server::Server;

/// A program that is killed, stopped and started again, and that ends with the value that started it, or with the process,
/// however that ends: also while it is stopped.
#[derive(Debug)]
pub struct Program {
    command: Vec<String>,
    server: Option<Server>,
    folder: TempDir,
}

impl Program {
    /// Starts it, and does not wait for anything that it does.
    ///
    /// # Panics
    ///
    /// If there is no place for its log, or no shell.
    pub fn start(command: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let command: Vec<String> = command.into_iter().map(Into::into).collect();
        let folder = TempDir::new().expect("there is a place for temporary files");
        let server = Server::start(&command, folder.path());
        Self { command, server: Some(server), folder }
    }

    /// Sends it a signal, by its name without `SIG`. A program that is gone needs none.
    pub fn signal(&mut self, name: &str) {
        if let Some(server) = &mut self.server {
            server.signal(name);
        }
    }

    /// Ends it at once, if it still runs, and starts it again.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn restart(&mut self) {
        if let Some(server) = self.server.take() {
            server.end();
        }
        self.server = Some(Server::start(&self.command, self.folder.path()));
    }
}
