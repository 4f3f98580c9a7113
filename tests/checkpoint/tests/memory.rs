//! What workflows do, on the store `memory`.

checkpoint_tests::behaviours!(checkpoint_tests::InMemory);
