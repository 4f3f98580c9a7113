//! Applies effects, each key once, and writes every request into a ledger before it answers.
//!
//! `effects LEDGER` prints where it listens, takes lines of a call and a key, and ends with whoever started it.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

struct Ledger {
    keys: HashSet<String>,
    file: File,
}

fn main() -> io::Result<()> {
    let path = std::env::args().nth(1).ok_or_else(|| io::Error::other("usage: effects LEDGER"))?;
    let ledger = Arc::new(Mutex::new(Ledger { keys: HashSet::new(), file: File::create(path)? }));
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?);
    std::thread::spawn(|| {
        // It ends when the other side is gone.
        let _ = io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    for stream in listener.incoming() {
        let (stream, ledger) = (stream?, Arc::clone(&ledger));
        // Whoever asks may be killed in the middle.
        std::thread::spawn(move || drop(serve(stream, &ledger)));
    }
    Ok(())
}

fn serve(stream: TcpStream, ledger: &Mutex<Ledger>) -> io::Result<()> {
    let mut answers = stream.try_clone()?;
    for line in BufReader::new(stream).lines() {
        let line = line?;
        let Some((_, key)) = line.split_once(' ') else { return Ok(()) };
        let mut ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let what = if ledger.keys.insert(key.to_owned()) { "applied" } else { "repeated" };
        writeln!(ledger.file, "{what} {line}")?;
        drop(ledger);
        answers.write_all(b"done\n")?;
    }
    Ok(())
}
