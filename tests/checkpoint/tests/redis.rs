//! What workflows do, on the store `redis`.

checkpoint_tests::behaviours!(services::InRedis);
