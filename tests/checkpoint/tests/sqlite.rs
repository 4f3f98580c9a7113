//! What workflows do, on the store `sqlite`.

checkpoint_tests::behaviours!(services::InSqlite);
