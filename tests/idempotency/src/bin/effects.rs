//! `effects LEDGER`: the server that the children of a test have their effects at.

fn main() -> std::io::Result<()> {
    services::serve_effects(std::env::args().nth(1).expect("effects LEDGER"))
}
