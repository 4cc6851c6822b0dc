//! What strangers may cost before anybody knows who they are: connections and request heads.
//!
//! actix-web bounds neither: its deadline for a head holds for a connection's first request only, a connection may send
//! 128 KiB that nobody reads, and a client that reads nothing keeps its answer in memory for good. So the server runs on
//! a stream of its own ([`stream`]), which knows where a request begins and ends from a middleware ([`requests`]), and
//! every connection has a place in a table ([`table`]) that gives the oldest idle one up when it is full.
//!
//! | bound | what happens beyond it |
//! |---|---|
//! | connections in all, and of one address | the one that has waited longest for a request is closed; 503 when all are busy |
//! | seconds for a request's head, the first and every later one | 408, closed |
//! | seconds without a further request | closed |
//! | bytes of a head; bytes of all unfinished heads | 431, closed |
//! | bytes of a body that its handler has not asked for | not read from the socket |
//! | seconds without a byte taken by a client that is being sent an answer | closed |

pub mod connection;
pub mod requests;
pub mod stream;
pub mod table;

pub use connection::{Connection, IDLE, Limits};
pub use requests::track;
pub use stream::Guarded;
pub use table::Connections;
