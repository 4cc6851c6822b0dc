//! What clients may take of this process at a time: memory for uploads and reports, reads of the database. Each is shared by
//! owners; who finds nothing free waits a little, and is told 503 with `Retry-After`.

use std::sync::Arc;

use penstock_domain::ids::OwnerSeq;
use penstock_flow::FlowError;
use penstock_flow::context::budget::{Budget, PATIENCE, Reserved};
use penstock_flow::read::results::Reader;
use tokio::sync::Mutex;

use crate::problem::Problem;

/// Bytes of a body that count as little: what many can send at a time.
pub const SMALL_BODY: usize = 64 * 1024;

/// Bytes of an answer that are handed over at a time: a client that reads slowly has no more of them in its connection's
/// buffer.
pub const PIECE: usize = 32 * 1024;

/// Memory of an upload or a body of that size: what came, as it is parsed, as it is sealed.
const SMALL_COST: usize = 3 * SMALL_BODY;

/// Memory of a compressor (zlib, deflate: its window and its hashes).
const COMPRESSOR: usize = 256 * 1024;

/// The budgets of a process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Budgets {
    /// Uploads and bodies that are small, or of which little came yet.
    small: Budget,
    /// Uploads of which more came.
    large: Budget,
    /// Reports under way, and answers with many rows.
    reading: Budget,
    /// Answers that need no key, by addresses.
    keyless: Budget,
    /// Reads of the database at once.
    reads: Budget,
}

impl Budgets {
    /// Of so much memory, and so many reads at once.
    pub fn new(bytes: usize, reads: usize) -> Self {
        Self {
            small: Budget::new(bytes / 4),
            large: Budget::new(bytes / 2),
            reading: Budget::new(bytes / 4),
            keyless: Budget::new(bytes / 16),
            reads: Budget::new(reads),
        }
    }

    /// What a reader of reports works with.
    pub fn reader(&self, owner: OwnerSeq) -> Reader {
        Reader { owner, reads: self.reads.clone(), memory: self.reading.clone() }
    }

    /// Room for a compressor.
    ///
    /// # Errors
    /// 503 when there is none in time.
    pub async fn compressor(&self, owner: OwnerSeq) -> Result<Reserved, Problem> {
        reserve(&self.reading, owner, COMPRESSOR).await
    }

    /// Room for an answer that needs no key: for what is in the connection's buffers, and `own` bytes that it shares with few.
    ///
    /// # Errors
    /// 503 when there is none in time.
    pub async fn keyless(&self, share: OwnerSeq, own: usize) -> Result<Reserved, Problem> {
        reserve(&self.keyless, share, 2 * PIECE + own).await
    }

    /// What nobody holds of that.
    #[cfg(test)]
    pub fn keyless_free(&self) -> usize {
        self.keyless.free()
    }

    /// Leave to ask the database something that takes a while.
    ///
    /// # Errors
    /// 503 when others take all of it.
    pub async fn read(&self, owner: OwnerSeq) -> Result<Reserved, Problem> {
        reserve(&self.reads, owner, 1).await
    }

    /// Room for an answer made of so many stored bytes: as they were read, as values, as they are written.
    ///
    /// # Errors
    /// 503 when there is none in time.
    pub async fn answer(&self, owner: OwnerSeq, stored: u64) -> Result<Reserved, Problem> {
        reserve(&self.reading, owner, usize::try_from(stored).unwrap_or(usize::MAX).saturating_mul(3)).await
    }

    /// Room for a body that is small.
    ///
    /// # Errors
    /// 503 when there is none in time.
    pub async fn body(&self, owner: OwnerSeq, bytes: usize) -> Result<Reserved, Problem> {
        reserve(&self.small, owner, bytes).await
    }

    /// Room for an upload that announces `expected` bytes (none: it does not say), and that takes at most `most` of memory.
    ///
    /// # Errors
    /// 503 when there is none in time.
    pub async fn upload(
        &self,
        owner: OwnerSeq,
        expected: Option<u64>,
        most: usize,
    ) -> Result<UploadRoom, Problem> {
        let expected = expected.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        let cost = expected.map_or(most, |bytes| most.min(bytes.saturating_mul(2))).max(SMALL_COST);
        let small = expected.is_none_or(|bytes| bytes <= SMALL_BODY);
        let held = if small {
            reserve(&self.small, owner, SMALL_COST).await?
        } else {
            reserve(&self.large, owner, cost).await?
        };
        let (less, large) = (self.small.clone(), self.large.clone());
        let room = Room { less, large, owner, cost, held, small, received: 0, beside: None };
        Ok(UploadRoom(Arc::new(Mutex::new(room))))
    }
}

async fn reserve(budget: &Budget, owner: OwnerSeq, amount: usize) -> Result<Reserved, Problem> {
    budget.reserve(owner, amount, PATIENCE).await.map_err(|busy| FlowError::Busy(busy).into())
}

/// An upload's memory: little until more came than little. Cheap to clone; it is free again when the last clone is gone.
#[derive(Clone, Debug)]
pub struct UploadRoom(Arc<Mutex<Room>>);

#[derive(Debug)]
struct Room {
    less: Budget,
    large: Budget,
    owner: OwnerSeq,
    cost: usize,
    held: Reserved,
    small: bool,
    received: usize,
    beside: Option<Reserved>,
}

impl UploadRoom {
    /// So many bytes more, for what comes beside the file, as long as this room is held.
    ///
    /// # Errors
    /// 503 when there is no room for them in time.
    pub async fn hold(&self, bytes: usize) -> Result<(), Problem> {
        if bytes > 0 {
            let mut room = self.0.lock().await;
            // From where the file takes nothing: who is alone here always finds it.
            let budget = if room.small { &room.large } else { &room.less };
            room.beside = Some(reserve(budget, room.owner, bytes).await?);
        }
        Ok(())
    }

    /// So many more bytes came.
    ///
    /// # Errors
    /// 503 when there is no room for them in time.
    pub async fn take(&self, bytes: usize) -> Result<(), Problem> {
        let mut room = self.0.lock().await;
        room.received = room.received.saturating_add(bytes);
        if room.small && room.received > SMALL_BODY {
            room.held = reserve(&room.large, room.owner, room.cost).await?;
            room.small = false;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_upload_takes_more_when_more_comes() {
        let budgets = Budgets::new(16 * 1024 * 1024, 1);
        let (small, large) = (budgets.small.free(), budgets.large.free());
        let owner = OwnerSeq(1);
        let room = budgets.upload(owner, None, 1_000_000).await.unwrap();
        room.take(SMALL_BODY).await.unwrap();
        assert_eq!((budgets.small.free(), budgets.large.free()), (small - SMALL_COST, large));
        room.take(1).await.unwrap();
        assert_eq!((budgets.small.free(), budgets.large.free()), (small, large - 1_000_000));
        // What is announced counts from the beginning, and no more than it needs.
        let announced = budgets.upload(owner, Some(200_000), 1_000_000).await.unwrap();
        assert_eq!(budgets.large.free(), large - 1_400_000);
        drop((room, announced));
        assert_eq!((budgets.small.free(), budgets.large.free()), (small, large));
    }

    #[tokio::test]
    async fn values_beside_a_file_are_held_with_it() {
        let budgets = Budgets::new(16 * 1024 * 1024, 1);
        let (small, large) = (budgets.small.free(), budgets.large.free());
        let little = budgets.upload(OwnerSeq(1), None, 1_000_000).await.unwrap();
        little.hold(2_000_000).await.unwrap();
        assert_eq!((budgets.small.free(), budgets.large.free()), (small - SMALL_COST, large - 2_000_000));
        drop(little);
        let much = budgets.upload(OwnerSeq(1), Some(1 << 30), 5_000_000).await.unwrap();
        much.hold(2_000_000).await.unwrap();
        assert_eq!((budgets.small.free(), budgets.large.free()), (small - 2_000_000, large - 5_000_000));
        drop(much);
        assert_eq!((budgets.small.free(), budgets.large.free()), (small, large));
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_room_is_told_to_come_again() {
        let budgets = Budgets::new(4 * 1024 * 1024, 1);
        let _all = budgets.upload(OwnerSeq(1), Some(1 << 30), 1 << 30).await.unwrap();
        let problem = budgets.upload(OwnerSeq(2), Some(1 << 20), 1 << 30).await.unwrap_err();
        assert_eq!((problem.status, problem.code.as_str()), (503, "busy"));
        let _read = budgets.read(OwnerSeq(1)).await.unwrap();
        assert_eq!(budgets.read(OwnerSeq(2)).await.unwrap_err().status, 503);
        budgets.upload(OwnerSeq(2), None, 1 << 30).await.expect("small ones have a share of their own");
    }
}
