//! Extraction: a stored file becomes sealed rows in SQL.

pub mod fault;
mod object_file;
mod plain_file;
pub mod policy;
pub mod reader;
pub mod run;
pub mod seal_plain;
