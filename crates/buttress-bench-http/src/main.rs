//! Measures what a stack costs under real HTTP clients, beside its peers. `cargo xtask bench http` builds and runs it.

mod clients;
mod load;
mod report;
mod server;

use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::Duration;

use buttress::BoxError;
use lexopt::prelude::*;
use load::{Client, Until};
use report::Report;
use server::Addresses;
use tokio::runtime::{Builder, Runtime};
use tokio::task::LocalSet;

const HELP: &str = "\
buttress-bench-http times [--json FILE] [--only TEXT] [--rounds N] [--millis N]
buttress-bench-http list
buttress-bench-http run NAME CALLS";

fn main() -> Result<(), BoxError> {
    let mut parser = lexopt::Parser::from_env();
    match parser.next()? {
        Some(Value(command)) if command == "times" => times(parser),
        Some(Value(command)) if command == "list" => {
            // Nobody is called.
            let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
            let runtime = runtime()?;
            let _inside = runtime.enter();
            clients::all(Addresses { http1: nobody, grpc: nobody })?
                .iter()
                .for_each(|client| println!("{}", name(client)));
            Ok(())
        }
        Some(Value(command)) if command == "run" => {
            let (name, calls): (String, u64) = (parser.value()?.parse()?, parser.value()?.parse()?);
            run(&name, calls)
        }
        _ => Err(HELP.into()),
    }
}

fn runtime() -> std::io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

fn name(client: &Client) -> String {
    format!("{}: {}", client.group, client.name)
}

/// The server has a thread of its own, as the clients have.
fn times(mut parser: lexopt::Parser) -> Result<(), BoxError> {
    let (mut json, mut only, mut rounds, mut slice) = (None, String::new(), 60, Duration::from_millis(100));
    while let Some(argument) = parser.next()? {
        match argument {
            Long("json") => json = Some(parser.value()?),
            Long("only") => only = parser.value()?.parse()?,
            Long("rounds") => rounds = parser.value()?.parse()?,
            Long("millis") => slice = Duration::from_millis(parser.value()?.parse()?),
            other => return Err(other.unexpected().into()),
        }
    }
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = runtime()?;
        let server = runtime.block_on(server::start())?;
        if tell.send(server).is_ok() {
            runtime.block_on(std::future::pending::<()>());
        }
        Ok::<_, std::io::Error>(())
    });
    let server = told.recv()?;
    let report = LocalSet::new().block_on(&runtime()?, async {
        let mut clients = clients::all(server)?;
        clients.retain(|client| name(client).contains(&only));
        Report::run(&clients, rounds, slice).await
    })?;
    print!("{report}");
    if let Some(file) = json {
        std::fs::write(&file, serde_json::to_string_pretty(&report.json())?)
            .map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    }
    Ok(())
}

/// So many calls of one client, its server in the same thread: for a tool that counts instructions.
fn run(wanted: &str, calls: u64) -> Result<(), BoxError> {
    LocalSet::new().block_on(&runtime()?, async {
        let clients = clients::all(server::start().await?)?;
        let client = clients.iter().find(|client| name(client) == wanted);
        let client = client.ok_or_else(|| format!("no client is named `{wanted}`"))?;
        client.run(Until::Calls(calls)).await.map(|_| ())
    })
}
