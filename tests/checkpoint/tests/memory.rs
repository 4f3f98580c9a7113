//! What workflows do, on the store `memory`.

checkpoint_tests::behaviours!(services::InMemory);
