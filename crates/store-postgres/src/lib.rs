//! PostgreSQL: to come.
