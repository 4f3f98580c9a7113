/// What the calls of one generation met.
#[derive(Debug, Default)]
pub struct Signals {}
