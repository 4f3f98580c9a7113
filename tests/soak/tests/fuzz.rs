//! A slice of what `cargo xtask soak --fuzz` runs by the million.

use soak::fuzz::TARGETS;

#[test]
fn ten_thousand_inputs_find_nothing_in_any_reader_of_bytes_from_outside() {
    for target in TARGETS {
        target.run(1, 0, 10_000).unwrap_or_else(|failed| panic!("{failed}"));
    }
}
