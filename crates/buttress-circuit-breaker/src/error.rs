use std::fmt;

use buttress_core::observe::CircuitState;

/// An operator asked for a state that cannot follow the present one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvalidTransition {
    /// The state the circuit is in, and stays in.
    pub from: CircuitState,
    /// The state that was asked for.
    pub to: CircuitState,
}

impl fmt::Display for InvalidTransition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = (self.from.as_str(), self.to.as_str());
        write!(f, "a circuit that is {from} cannot become {to}; only an open one can become half-open")
    }
}

impl std::error::Error for InvalidTransition {}
