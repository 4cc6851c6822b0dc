//! Limits shared by all workers, on Redis.
