//! The embedded vendors in a process of their own, so that what they know outlives an agent that is killed.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use buttress::BoxError;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::ledger::Ledger;
use super::{Servers, World};
use crate::chaos::Chaos;
use crate::incident::Incident;
use crate::vendors::Base;

/// What the vendors are about: a file in the folder of the run.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub(crate) incident: Incident,
    pub(crate) chaos: Chaos,
    pub(crate) restarts_elsewhere: bool,
}

/// Where they are: another file of that folder.
#[derive(Debug, Serialize, Deserialize)]
struct Address {
    /// Whoever answers there says this, or is somebody else by now.
    token: String,
    control: String,
    bases: Vec<Base>,
}

/// The vendors end by themselves when no agent has needed them for so long.
const IDLE: Duration = Duration::from_secs(120);

/// What an agent says that needs them no more.
const END: &str = "end\n";

fn setup_file(folder: &Path) -> PathBuf {
    folder.join("setup.json")
}

fn address_file(folder: &Path) -> PathBuf {
    folder.join("vendors.json")
}

/// Where the ledger of a run is.
pub(crate) fn ledger_file(folder: &Path) -> PathBuf {
    folder.join("ledger.jsonl")
}

/// What the vendors of a run are about, if it was begun before.
pub(crate) fn known(folder: &Path) -> Option<Setup> {
    serde_json::from_slice(&std::fs::read(setup_file(folder)).ok()?).ok()
}

/// The vendors of a run, in another process.
#[derive(Debug)]
pub(crate) struct Apart {
    bases: Vec<Base>,
    control: BufReader<TcpStream>,
}

impl Apart {
    /// Those that still run for the run of this folder, with the setup that they were given then; else new ones, which know
    /// what the ledger says.
    pub(crate) async fn of(folder: &Path, setup: &Setup) -> Result<Self, BoxError> {
        std::fs::create_dir_all(folder)?;
        // Whoever goes on with a run goes on with its vendors.
        if !setup_file(folder).exists() {
            replace(&setup_file(folder), &serde_json::to_vec(setup)?)?;
        }
        if let Some(apart) = Self::connect(folder).await {
            return Ok(apart);
        }
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("vendors").arg(folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        // What ends the agent from a terminal does not end them.
        #[cfg(unix)]
        command.process_group(0);
        let mut child = command.spawn()?;
        let stdout = child.stdout.take().ok_or("the vendors have no output")?;
        BufReader::new(stdout).lines().next_line().await?.ok_or("the embedded vendors did not start")?;
        Self::connect(folder).await.ok_or_else(|| "the embedded vendors cannot be reached".into())
    }

    async fn connect(folder: &Path) -> Option<Self> {
        let address: Address = serde_json::from_slice(&std::fs::read(address_file(folder)).ok()?).ok()?;
        let control = TcpStream::connect(&address.control).await.ok()?;
        let mut control = BufReader::new(control);
        let mut token = String::new();
        timeout(Duration::from_secs(2), control.read_line(&mut token)).await.ok()?.ok()?;
        (token.trim_end() == address.token).then_some(Self { bases: address.bases, control })
    }

    /// In the order of [`Vendor::ALL`](crate::vendors::Vendor::ALL).
    pub(crate) fn bases(&self) -> Vec<Base> {
        self.bases.clone()
    }

    /// They are needed no more. Their ledger stays.
    pub(crate) async fn end(mut self) {
        let _ = self.control.write_all(END.as_bytes()).await;
        // They close the connection when they have heard it.
        let _ = self.control.read_to_end(&mut Vec::new()).await;
    }
}

/// The other process: serves until it is told to end, or nobody has been there for long.
pub(crate) async fn serve(folder: &Path) -> Result<(), BoxError> {
    let setup: Setup = serde_json::from_slice(&std::fs::read(setup_file(folder))?)?;
    let ledger = Ledger::at(&ledger_file(folder), &setup.incident.key)?;
    let world = World::new(&setup.incident, ledger, setup.restarts_elsewhere);
    let servers = Servers::start(&setup.chaos, &world).await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let token = buttress::idempotency::new_key();
    let control = listener.local_addr()?.to_string();
    let address = Address { token: token.clone(), control, bases: servers.bases() };
    replace(&address_file(folder), &serde_json::to_vec(&address)?)?;
    println!("ready");
    let (told, mut heard) = mpsc::channel(1);
    let mut agents = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => drop(agents.spawn(attend(accepted?.0, token.clone(), told.clone()))),
            _ = heard.recv() => return Ok(()),
            Some(_) = agents.join_next() => {}
            () = tokio::time::sleep(IDLE), if agents.is_empty() => return Ok(()),
        }
    }
}

/// Stays with one agent until it ends, or says that all is over.
async fn attend(stream: TcpStream, token: String, told: mpsc::Sender<()>) {
    let mut stream = BufReader::new(stream);
    if stream.write_all(format!("{token}\n").as_bytes()).await.is_err() {
        return;
    }
    let mut line = String::new();
    if stream.read_line(&mut line).await.is_ok() && line == END {
        let _ = told.send(()).await;
    }
}

/// Writes a file that is there as a whole or not at all.
fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let new = path.with_extension("new");
    std::fs::write(&new, bytes)?;
    std::fs::rename(new, path)
}
