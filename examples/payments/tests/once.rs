//! The example itself, from its one command to its ledger.

use std::process::Command;

#[test]
fn a_payment_is_booked_once_although_the_shop_is_killed() {
    let output = Command::new(env!("CARGO_BIN_EXE_payments")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("charges booked: 1; requests for them: 2"), "{said}");
}
