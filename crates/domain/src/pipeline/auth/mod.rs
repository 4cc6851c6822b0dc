//! `auth`: how calls to a dependency show who makes them. The values are secrets: they are never printed, and a call's
//! credentials are made when it is sent.

pub(super) mod definition;
pub(super) mod load;

use super::live::LiveText;

/// How a dependency's calls are authenticated.
#[derive(Clone, Debug)]
pub enum Auth {
    /// HTTP's basic authentication (RFC 7617).
    Basic {
        /// The user.
        username: LiveText,
        /// The password; empty where none is given.
        password: LiveText,
    },
    /// A bearer token (RFC 6750).
    Bearer(LiveText),
    /// A key in a header.
    KeyHeader {
        /// The header.
        name: String,
        /// The key.
        value: LiveText,
    },
    /// A key in the query.
    KeyQuery {
        /// The name of the pair.
        name: String,
        /// The key.
        value: LiveText,
    },
}

impl Auth {
    /// The headers that it sets, which nothing else may set.
    pub fn headers(&self) -> Vec<&str> {
        match self {
            Self::Basic { .. } | Self::Bearer(_) => vec!["authorization"],
            Self::KeyHeader { name, .. } => vec![name],
            Self::KeyQuery { .. } => Vec::new(),
        }
    }

    /// The pair of the query that it sets.
    pub fn query(&self) -> Option<&str> {
        match self {
            Self::KeyQuery { name, .. } => Some(name),
            _ => None,
        }
    }
}
