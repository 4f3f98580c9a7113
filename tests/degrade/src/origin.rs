use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// A server that answers each line with it and the number of the answer, until it is taken down. It ends with the process.
#[derive(Debug)]
pub struct Origin {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    down: AtomicBool,
    calls: AtomicUsize,
}

impl Origin {
    /// One that is up.
    ///
    /// # Panics
    ///
    /// If loopback has no port left.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
        let address = listener.local_addr().expect("it is bound");
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let mut line = String::new();
                let call = shared.calls.fetch_add(1, Ordering::SeqCst);
                // Whoever asks may be killed in the middle.
                if BufReader::new(&stream).read_line(&mut line).is_ok() && !shared.down.load(Ordering::SeqCst)
                {
                    let _ = writeln!(&stream, "{} {call}", line.trim_end());
                }
            }
        });
        Self { address, state }
    }

    /// Where it listens.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// How often it was asked.
    pub fn calls(&self) -> usize {
        self.state.calls.load(Ordering::SeqCst)
    }

    /// Whether it answers from now on.
    pub fn set_down(&self, down: bool) {
        self.state.down.store(down, Ordering::SeqCst);
    }
}
