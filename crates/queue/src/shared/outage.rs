//! One line when Redis does not answer, and one when it does again, however many lanes are listened to.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether it was logged that the queue is unavailable. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Outage(Arc<AtomicBool>);

impl Outage {
    pub(super) fn began(&self, error: &dyn Display) {
        if !self.0.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, "the queue is unavailable; will listen to it again");
        }
    }

    pub(super) fn ended(&self) {
        if self.0.swap(false, Ordering::Relaxed) {
            tracing::info!("the queue answers again");
        }
    }
}
