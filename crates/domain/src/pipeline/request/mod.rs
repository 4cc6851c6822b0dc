//! A step's request of a row: what of the definition becomes bytes, before anybody looks at the network.
//!
//! A request is rendered once for each attempt, and its body is written once: whoever signs a request signs the very bytes that
//! are sent.

mod body;

pub use body::Body;

use super::definition::Method;

/// A request, ready to be sent.
#[derive(Clone, Debug)]
pub struct RenderedRequest {
    /// The method.
    pub method: Method,
    /// The path after the dependency's base URL, encoded.
    pub path: String,
    /// Query pairs, not yet encoded.
    pub query: Vec<(String, String)>,
    /// Headers besides the dependency's own.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Option<Body>,
}
