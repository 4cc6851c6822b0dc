//! Owners' own limits at a pipeline's dependencies: an owner whose limit is used up waits in the lane, where its rows need no
//! slot, claim or write, and hold up nobody.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use penstock_domain::ids::OwnerSeq;
use penstock_domain::pipeline::Pipeline;

/// When more are remembered, those with nothing in flight are dropped.
const MOST_KNOWN: usize = 4096;

/// The owners of pipelines with limits per owner.
#[derive(Debug, Default)]
pub(super) struct Owners {
    known: Mutex<HashMap<(String, OwnerSeq), Own>>,
}

/// An owner in a pipeline.
#[derive(Clone, Debug)]
pub(super) struct Own {
    /// Its name, by which limits know it.
    pub(super) name: Arc<str>,
    /// Its rows in flight in this worker.
    pub(super) rows: usize,
    /// Whether any of its rows has ended here.
    pub(super) any_left: bool,
}

impl Own {
    fn new(name: &str) -> Self {
        Self { name: name.into(), rows: 0, any_left: false }
    }
}

impl Owners {
    /// Whether any of a pipeline's limits is per owner.
    pub(super) fn matter(pipeline: &Pipeline) -> bool {
        pipeline.dependencies.iter().any(|dependency| {
            dependency.rate.as_ref().is_some_and(|rate| rate.per_owner)
                || dependency.concurrency.as_ref().is_some_and(|limit| limit.per_owner)
        })
    }

    /// Rows of an owner were received.
    pub(super) fn received(&self, pipeline: &str, owner: OwnerSeq, name: &str) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_KNOWN {
            known.retain(|_, own| own.rows > 0);
        }
        known.entry((pipeline.to_owned(), owner)).or_insert_with(|| Own::new(name));
    }

    /// What is known of an owner; none: nothing.
    pub(super) fn get(&self, pipeline: &str, owner: OwnerSeq) -> Option<Own> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&(pipeline.to_owned(), owner)).cloned()
    }

    /// One of an owner's rows is in flight until the returned value is dropped.
    pub(super) fn take(self: &Arc<Self>, pipeline: &str, owner: OwnerSeq, name: &str) -> OwnRow {
        let key = (pipeline.to_owned(), owner);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.entry(key.clone()).or_insert_with(|| Own::new(name)).rows += 1;
        drop(known);
        OwnRow { owners: self.clone(), key }
    }
}

/// An owner's row in flight.
pub(super) struct OwnRow {
    owners: Arc<Owners>,
    key: (String, OwnerSeq),
}

impl Drop for OwnRow {
    fn drop(&mut self) {
        let mut known = self.owners.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = known.get_mut(&self.key) {
            own.rows = own.rows.saturating_sub(1);
            own.any_left = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_in_flight_are_counted_and_owners_without_any_are_forgotten_in_the_end() {
        let owners = Arc::new(Owners::default());
        let rows: Vec<_> = (0..3).map(|_| owners.take("a", OwnerSeq(1), "acme")).collect();
        assert_eq!(owners.get("a", OwnerSeq(1)).expect("known").rows, 3);
        assert!(owners.get("b", OwnerSeq(1)).is_none());
        for number in 0..2 * i64::try_from(MOST_KNOWN).expect("few") {
            owners.received("a", OwnerSeq(number), "other");
        }
        assert!(owners.known.lock().expect("a lock").len() <= MOST_KNOWN);
        assert_eq!(&*owners.get("a", OwnerSeq(1)).expect("known").name, "acme");
        drop(rows);
        let own = owners.get("a", OwnerSeq(1)).expect("known");
        assert!(own.rows == 0 && own.any_left);
    }
}
