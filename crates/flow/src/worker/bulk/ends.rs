//! What the rows of a call come to: collected, and written in one transaction.

use std::sync::{Arc, Mutex, PoisonError};

use penstock_downstream::Reserved;
use penstock_store::calls::HeldReceipt;
use penstock_store::work::Held;
use tokio::sync::{mpsc, oneshot};

use crate::worker::settled_row::Ended;

/// What a call's rows came to, complete.
pub struct CallEnds {
    /// Rows that end, or are requeued.
    pub ends: Vec<Ended>,
    /// Outputs of rows that go on.
    pub kept: Vec<HeldReceipt>,
    /// Whether the rows may go with others from now on.
    pub over: bool,
    /// The rows that go on once this is written. Dropped, it was not.
    pub written: Vec<(Held, oneshot::Sender<()>)>,
}

/// Takes what calls' rows came to. It holds no more than the rows in flight.
pub type CallWriter = mpsc::UnboundedSender<CallEnds>;

/// A row's part in the end of its call. Dropped, it is none: the row was lost.
pub struct Together {
    bundle: Arc<Bundle>,
    added: bool,
}

struct Bundle {
    over: bool,
    writer: CallWriter,
    parts: Mutex<Parts>,
    #[allow(dead_code, reason = "dropping it is what it is for")]
    memory: Reserved,
}

#[derive(Default)]
struct Parts {
    missing: usize,
    ends: Vec<Ended>,
    kept: Vec<HeldReceipt>,
    written: Vec<(Held, oneshot::Sender<()>)>,
}

impl Together {
    /// The parts of so many rows; `memory` is what the answer takes until all of them have read it.
    pub fn of(rows: usize, over: bool, writer: &CallWriter, memory: Reserved) -> Vec<Self> {
        let parts = Mutex::new(Parts { missing: rows, ..Parts::default() });
        let bundle = Arc::new(Bundle { over, writer: writer.clone(), parts, memory });
        (0..rows).map(|_| Self { bundle: bundle.clone(), added: false }).collect()
    }

    /// Whether the call is over when this is written.
    pub fn is_over(&self) -> bool {
        self.bundle.over
    }

    /// The row ends, or is requeued.
    pub fn ends(mut self, ended: Ended) {
        self.add(|parts| parts.ends.push(ended));
    }

    /// The row goes on as soon as these outputs are written, with what became of all other rows. False: they were not.
    pub async fn goes_on(mut self, row: Held, receipts: Vec<HeldReceipt>) -> bool {
        let (written, wait) = oneshot::channel();
        self.add(|parts| {
            parts.kept.extend(receipts);
            parts.written.push((row, written));
        });
        drop(self);
        wait.await.is_ok()
    }

    fn add(&mut self, part: impl FnOnce(&mut Parts)) {
        self.added = true;
        let whole = {
            let mut parts = self.bundle.parts.lock().unwrap_or_else(PoisonError::into_inner);
            part(&mut parts);
            parts.missing -= 1;
            (parts.missing == 0).then(|| std::mem::take(&mut *parts))
        };
        if let Some(Parts { ends, kept, written, .. }) = whole {
            let over = self.bundle.over;
            let _ = self.bundle.writer.send(CallEnds { ends, kept, over, written });
        }
    }
}

impl Drop for Together {
    fn drop(&mut self) {
        if !self.added {
            self.add(|_| {});
        }
    }
}

#[cfg(test)]
mod tests {
    use penstock_domain::ids::{BatchSeq, LeaseToken, RowRef};
    use penstock_domain::row::Receipt;
    use uuid::Uuid;

    use super::*;

    fn held(number: u32) -> Held {
        (RowRef { batch: BatchSeq(1), number }, LeaseToken(Uuid::nil()))
    }

    fn receipt(number: u32) -> Vec<HeldReceipt> {
        let (row, token) = held(number);
        vec![(row, token, Receipt { step: 0, sealed: Vec::new() })]
    }

    #[tokio::test]
    async fn a_call_is_written_when_the_last_of_its_rows_is_there_or_lost() {
        let (writer, mut calls) = mpsc::unbounded_channel();
        let mut parts = Together::of(3, true, &writer, Reserved::default());
        let (one, two) = (parts.pop().unwrap(), parts.pop().unwrap());
        let first = tokio::spawn(one.goes_on(held(1), receipt(1)));
        let second = tokio::spawn(two.goes_on(held(2), receipt(2)));
        drop(parts);
        let call = calls.recv().await.unwrap();
        assert!(call.over && call.ends.is_empty());
        assert_eq!((call.kept.len(), call.written.len()), (2, 2));
        assert!(calls.try_recv().is_err() && !first.is_finished() && !second.is_finished());
        for (row, written) in call.written {
            if row == held(1) {
                written.send(()).unwrap();
            }
        }
        assert!(first.await.unwrap(), "it goes on");
        assert!(!second.await.unwrap(), "what it came to was not written");
    }
}
