//! What every use case stands on: the services it was given, and what is kept of definitions, secrets and limits.

pub mod api_keys;
pub mod batch_secrets;
pub mod budget;
pub mod cache;
pub mod definitions;
pub mod earlier_releases;
pub mod epochs;
pub mod error;
pub mod id_generator;
pub mod installation;
pub mod key_hashes;
pub mod last_readiness;
pub mod limits_view;
pub mod object_writer;
pub mod objects;
pub mod owner_values;
pub mod pace;
pub mod periodic;
pub mod references;
pub mod reservations;
pub mod secrets;
pub mod services;
pub mod stored_definitions;
pub mod tasks;
pub mod token_vault;
pub mod url_signer;
