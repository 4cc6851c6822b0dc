//! How much an owner keeps: batches that are not erased, and the bytes of their files, counted in SQL.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use actix_web::http::StatusCode;
use penstock_domain::ids::OwnerSeq;
use penstock_store::Store;
use penstock_store::batches::Kept;

use crate::problem::Problem;

/// A count of so few batches is cheap: it is made as often as it is needed.
const FEW: u64 = 1000;

/// A count of more is made again after this time at the earliest.
const AGAIN: Duration = Duration::from_secs(1);

/// When a client that keeps too much tries again: something may have been erased by then.
const RETRY_AFTER: u32 = 60;

/// How much an owner may keep; 0: no limit.
#[derive(Clone, Copy, Debug)]
pub struct Most {
    /// Batches that are not erased.
    pub batches: u64,
    /// Bytes of their files.
    pub bytes: u64,
}

/// What owners keep, as this process last counted it. Cheap to clone. Another API process may use up the same room in between,
/// so the limits hold to within what is uploaded between two counts: half of the room that was left.
#[derive(Clone, Debug)]
pub struct Quotas {
    most: Most,
    counted: Arc<Mutex<HashMap<OwnerSeq, Counted>>>,
}

#[derive(Clone, Copy, Debug)]
struct Counted {
    kept: Kept,
    /// Accepted here since then.
    since: Kept,
    at: Instant,
}

impl Counted {
    /// Whether this count says enough about so much more.
    fn suffices(&self, most: Most, more: Kept, now: Instant) -> bool {
        let clear = |most: u64, kept: u64, since: u64, more: u64| {
            most == 0 || since.saturating_add(more) <= most.saturating_sub(kept) / 2
        };
        let clear = clear(most.batches, self.kept.batches, self.since.batches, more.batches)
            && clear(most.bytes, self.kept.bytes, self.since.bytes, more.bytes);
        clear || (self.kept.batches > FEW && now.duration_since(self.at) < AGAIN)
    }
}

impl Quotas {
    /// With nothing counted yet.
    pub fn new(most: Most) -> Self {
        Self { most, counted: Arc::default() }
    }

    fn counted(&self) -> MutexGuard<'_, HashMap<OwnerSeq, Counted>> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an owner may keep so much more: a batch and its file, as far as the client says how long it is, or a file that
    /// waits for its batch.
    ///
    /// # Errors
    /// 429 when it keeps too much.
    pub async fn admit(&self, store: &Arc<dyn Store>, owner: OwnerSeq, more: Kept) -> Result<(), Problem> {
        let most = self.most;
        if most.batches == 0 && most.bytes == 0 {
            return Ok(());
        }
        let known = self.counted().get(&owner).copied();
        if !known.is_some_and(|known| known.suffices(most, more, Instant::now())) {
            let kept = store.kept(owner).await?;
            let fresh = Counted { kept, since: Kept::default(), at: Instant::now() };
            self.counted().insert(owner, fresh);
        }
        let mut counted = self.counted();
        let Some(counted) = counted.get_mut(&owner) else { return Ok(()) };
        let batches = counted.kept.batches + counted.since.batches + more.batches;
        let stored = counted.kept.bytes.saturating_add(counted.since.bytes).saturating_add(more.bytes);
        let limit = |code: &str, detail: String| {
            Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, code, detail).retry_after(RETRY_AFTER))
        };
        if most.batches > 0 && batches > most.batches {
            let detail = format!("the owner of this key keeps {} batches; erase some first", most.batches);
            return limit("too_many_batches", detail);
        }
        if most.bytes > 0 && stored > most.bytes {
            let detail = format!("the owner of this key may store {} bytes; erase batches first", most.bytes);
            return limit("storage_full", detail);
        }
        counted.since.batches += more.batches;
        counted.since.bytes = counted.since.bytes.saturating_add(more.bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(bytes: u64) -> Kept {
        Kept { batches: 1, bytes }
    }

    fn counted(kept: (u64, u64), since: (u64, u64)) -> Counted {
        let kept = Kept { batches: kept.0, bytes: kept.1 };
        let since = Kept { batches: since.0, bytes: since.1 };
        Counted { kept, since, at: Instant::now() }
    }

    #[test]
    fn a_count_suffices_for_half_of_the_room_that_it_found() {
        let most = Most { batches: 100, bytes: 1000 };
        let now = Instant::now();
        assert!(counted((0, 0), (49, 0)).suffices(most, one(10), now));
        assert!(!counted((0, 0), (50, 0)).suffices(most, one(10), now));
        assert!(!counted((0, 900), (0, 45)).suffices(most, one(10), now));
        assert!(!counted((100, 0), (0, 0)).suffices(most, one(10), now), "an erasure is noticed");
        assert!(counted((u64::MAX, 0), (1, 0)).suffices(Most { batches: 0, ..most }, one(1), now));
        // A file that waits for its batch takes bytes only.
        let file = |bytes| Kept { batches: 0, bytes };
        assert!(counted((100, 0), (0, 0)).suffices(most, file(500), now));
        assert!(!counted((0, 0), (0, 0)).suffices(most, file(501), now));
    }

    #[test]
    fn a_count_of_many_is_not_made_at_each_request() {
        let most = Most { batches: 2000, bytes: 0 };
        let full = counted((2000, 0), (0, 0));
        assert!(full.suffices(most, one(1), full.at));
        assert!(!full.suffices(most, one(1), full.at + AGAIN));
    }
}
