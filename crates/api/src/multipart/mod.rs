//! multipart/form-data (RFC 7578, RFC 2046 section 5.1), without I/O: bytes are pushed in, parts come out.
//!
//! Our own reader, because the kept ones believe a part's `Content-Length` and lose what it does not count, take a boundary
//! with white space after it for content, or refuse what common clients send. Here every byte of the body is either part of the
//! form or an error. Memory is bounded: content is given out as it comes, only a part's head is collected.

mod head;
mod parser;

pub use head::{Charset, PartHead, boundary, latin1, shown};
pub use parser::{Event, Parser};

/// Why a form cannot be read: a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);
