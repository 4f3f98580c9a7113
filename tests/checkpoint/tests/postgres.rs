//! What workflows do, on the store `postgres`.

checkpoint_tests::behaviours!(services::InPostgres);
