//! What the tests of single cases cannot show: that nothing breaks in millions of odd inputs, and that nothing is left
//! behind by minutes of failures.
//!
//! `cargo xtask soak` runs both; a small slice of the inputs runs with the ordinary tests.

pub mod draw;
pub mod fuzz;
pub mod stack;
pub mod table;
