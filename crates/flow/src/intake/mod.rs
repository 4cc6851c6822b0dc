//! Intake: an upload is validated and sealed as it arrives, and becomes a batch.

pub(crate) mod checked_file;
pub(crate) mod content;
pub mod create_batch;
pub mod error_file;
pub(crate) mod manifest;
pub mod presigned;
pub mod presigned_batch;
pub mod refused;
pub mod request;
pub mod sealed_file;
pub mod unpack;
pub mod upload;
