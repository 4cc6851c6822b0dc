//! Keeps the paused clock from advancing while something outside of the runtime is awaited.

use std::sync::mpsc;

/// While it lives, the paused clock advances only when the test moves it. Otherwise tokio moves it to the next timer as soon
/// as all tasks wait, and takes a wait for a database's or a socket's answer for idleness.
pub struct Awake(#[allow(dead_code, reason = "dropping it is what it is for")] mpsc::Sender<()>);

impl Awake {
    pub fn new() -> Self {
        let (end, ended) = mpsc::channel();
        // The clock does not advance by itself while a blocking task runs.
        tokio::task::spawn_blocking(move || ended.recv());
        Self(end)
    }
}
