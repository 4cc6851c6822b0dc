//! Rows that go back because their value's own limit is used up make room for others at once.
//!
//! A dispatcher's run releases as many rows of an owner as its quota allows, in the file's order. In a file that is sorted by such a
//! value a whole quota may have one value: its rows wait for each other, and those of other values would wait for the next run
//! although nothing limits them. So as many rows of the same batch as went back are released in their place: no more are in flight
//! than before. Rows that went back have their time; so this ends when every row of the batch has been looked at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use penstock_domain::ids::BatchSeq;
use penstock_domain::outcome::code;
use penstock_store::work::Settled;
use tokio::sync::Notify;

/// How many rows of a batch of this pipeline.
pub(super) type Wanted = BTreeMap<BatchSeq, (Arc<str>, u32)>;

/// Rows that have gone back and were not replaced yet.
#[derive(Debug, Default)]
pub(crate) struct Replacements {
    wanted: Mutex<Wanted>,
    changed: Notify,
}

impl Replacements {
    /// A row was settled: whether it is to be replaced is seen from how.
    pub(crate) fn settled(&self, batch: BatchSeq, pipeline: &str, settled: &Settled) {
        let Settled::Requeued { trouble: Some(trouble), attempt: false, polling: false, .. } = settled else {
            return;
        };
        if trouble.code != code::VALUE_RATE_LIMITED {
            return;
        }
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        wanted.entry(batch).or_insert_with(|| (pipeline.into(), 0)).1 += 1;
        self.changed.notify_one();
    }

    /// Waits until there is a row to replace.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Takes what is to be replaced.
    pub(super) fn take(&self) -> Wanted {
        std::mem::take(&mut *self.wanted.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use penstock_domain::time::Timestamp;

    use super::*;
    use crate::worker::row::failure_of;

    #[test]
    fn only_rows_that_wait_for_their_value_are_replaced() {
        let replacements = Replacements::default();
        let requeued = |code: &str, polling: bool| Settled::Requeued {
            not_before: Timestamp::from_millis(0),
            attempt: false,
            trouble: Some(failure_of(code)),
            receipts: Vec::new(),
            expires: None,
            hold: None,
            polling,
        };
        let settle = |settled: &Settled| replacements.settled(BatchSeq(1), "p", settled);
        settle(&requeued(code::RATE_LIMITED, false));
        settle(&requeued(code::VALUE_RATE_LIMITED, true));
        settle(&Settled::Completed { result: None, key: None });
        assert!(replacements.take().is_empty());
        settle(&requeued(code::VALUE_RATE_LIMITED, false));
        settle(&requeued(code::VALUE_RATE_LIMITED, false));
        assert_eq!(replacements.take(), BTreeMap::from([(BatchSeq(1), ("p".into(), 2))]));
        assert!(replacements.take().is_empty());
    }
}
