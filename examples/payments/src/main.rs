//! A payment is made once although the server is killed in the middle of it.
//!
//! ```text
//! cargo run --package payments
//! ```
//!
//! Three processes: this one is the customer, whose client retries; a shop with `POST /charges` behind an idempotency
//! layer over a SQLite file; a bank that keeps a ledger. The shop is killed with `SIGKILL` when the bank has booked the charge
//! and nobody has heard of it yet, and started again. The ledger shows one charge.

mod bank;
mod customer;
mod shop;

use std::path::{Path, PathBuf};
use std::process::Stdio;

use buttress_core::BoxError;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["bank", ledger] => bank::serve(ledger.into()).await,
        ["shop", port, store, bank, pause] => shop::serve(port, store, bank, pause.parse()?).await,
        [] => show().await,
        _ => Err("usage: payments".into()),
    }
}

async fn show() -> Result<(), BoxError> {
    let folder = tempfile::tempdir()?;
    let (ledger, store) = (folder.path().join("ledger.jsonl"), folder.path().join("claims.db"));
    let (_bank, bank) = start(&["bank", text(&ledger)?]).await?;
    println!("bank   listens at {bank}");
    // The first shop waits after the bank has booked: time enough to kill it.
    let (mut shop, address) = start(&["shop", "0", text(&store)?, &bank, "600000"]).await?;
    println!("shop   listens at {address}");

    let paying = tokio::spawn(customer::pay(address.clone()));
    wait_for_line(&ledger).await?;
    shop.kill().await?;
    println!("shop   killed: the bank has booked the charge, and nobody has heard of it");
    let port = address.rsplit(':').next().unwrap_or_default();
    let (_shop, _) = start(&["shop", port, text(&store)?, &bank, "0"]).await?;
    println!("shop   started again");
    let paid = paying.await??;
    println!("client paid: {paid}");

    let again = customer::pay_with_key(address, customer::KEY).await?;
    println!("client asks once more: {again}");

    println!("\nthe bank's ledger");
    let lines = std::fs::read_to_string(&ledger)?;
    print!("{lines}");
    let booked = lines.lines().filter(|line| line.contains("\"booked\"")).count();
    println!("charges booked: {booked}; requests for them: {}", lines.lines().count());
    if booked != 1 || paid != again {
        return Err(format!("{booked} charges were booked").into());
    }
    Ok(())
}

fn text(path: &Path) -> Result<&str, BoxError> {
    path.to_str().ok_or_else(|| "the folder's name is no text".into())
}

/// This program in another role; resolves once it says where it listens.
async fn start(arguments: &[&str]) -> Result<(Child, String), BoxError> {
    let mut command = Command::new(std::env::current_exe()?);
    let mut child = command.args(arguments).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
    let output = child.stdout.take().ok_or("no output")?;
    let line = BufReader::new(output).lines().next_line().await?.ok_or("it ended at once")?;
    Ok((child, line))
}

async fn wait_for_line(file: &PathBuf) -> Result<(), BoxError> {
    for _ in 0..1000 {
        if std::fs::read_to_string(file).is_ok_and(|lines| lines.ends_with('\n')) {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    Err("the bank has booked nothing within 10 s".into())
}
