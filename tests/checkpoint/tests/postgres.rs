//! What workflows do, on the store `postgres`.

checkpoint_tests::behaviours!(checkpoint_tests::InPostgres);
