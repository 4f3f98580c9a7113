//! What workflows do, on the store `memory`.

checkpoint_tests::behaviours!(checkpoint_tests::InMemory);

checkpoint_tests::each_behaviour! { checkpoint_tests::InMemory,
    operator: a_cancelled_run_that_cannot_be_undone_waits_for_an_operator
}
