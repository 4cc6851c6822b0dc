//! A bounded amount that owners share: memory of uploads and reports in bytes, the database's time in reads at once.
//!
//! Who needs more than there is waits, and is refused after a while. An owner may hold half of what the others leave, so
//! that the next one always finds something (dynamic thresholds, as for rows in `worker/admission.rs`); those that wait are
//! served by how little their owner holds, then in their order.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use penstock_domain::ids::OwnerSeq;
use tokio::sync::oneshot;

/// How long somebody waits before he is refused.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// There was no room in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too much of this is under way; try again")]
pub struct Exhausted;

/// What is shared, in bytes or in things of a kind. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    total: usize,
    free: usize,
    held: HashMap<OwnerSeq, usize>,
    waiting: Vec<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    owner: OwnerSeq,
    amount: usize,
    granted: oneshot::Sender<Reserved>,
}

/// What somebody holds of it, until this is dropped.
#[derive(Debug)]
pub struct Reserved {
    budget: Budget,
    owner: OwnerSeq,
    amount: usize,
}

impl Budget {
    /// That much, at least one.
    pub fn new(total: usize) -> Self {
        let total = total.max(1);
        Self(Arc::new(Mutex::new(State { total, free: total, held: HashMap::new(), waiting: Vec::new() })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What nobody holds.
    pub fn free(&self) -> usize {
        self.state().free
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.state().waiting.len()
    }

    /// Takes some for an owner; waits for it as long as `patience`. More than there is in all counts as all of it: it goes
    /// alone.
    ///
    /// # Errors
    /// When it was not free in time.
    pub async fn reserve(
        &self,
        owner: OwnerSeq,
        amount: usize,
        patience: Duration,
    ) -> Result<Reserved, Exhausted> {
        let (granted, grant) = oneshot::channel();
        {
            let mut state = self.state();
            let amount = amount.min(state.total);
            state.waiting.push(Waiter { owner, amount, granted });
        }
        // Who gives up, or is dropped, may have kept those behind it waiting.
        let _serve_again = ServesAgain(self);
        self.serve();
        match tokio::time::timeout(patience, grant).await {
            Ok(Ok(reserved)) => Ok(reserved),
            _ => Err(Exhausted),
        }
    }

    /// Serves those that wait, as far as there is room.
    fn serve(&self) {
        // What is granted to somebody who has given up comes back here, and may be another's.
        while let Some((waiter, reserved)) = self.next() {
            drop(waiter.granted.send(reserved));
        }
    }

    fn next(&self) -> Option<(Waiter, Reserved)> {
        let mut state = self.state();
        state.waiting.retain(|waiter| !waiter.granted.is_closed());
        let (place, waiter) = state
            .waiting
            .iter()
            .enumerate()
            .filter(|(_, waiter)| state.may_hold(waiter.owner, waiter.amount))
            .min_by_key(|(place, waiter)| (state.held_by(waiter.owner), *place))?;
        // The first in line is not passed over permanently by those that need less.
        if waiter.amount > state.free {
            return None;
        }
        let waiter = state.waiting.remove(place);
        state.free -= waiter.amount;
        *state.held.entry(waiter.owner).or_default() += waiter.amount;
        let reserved = Reserved { budget: self.clone(), owner: waiter.owner, amount: waiter.amount };
        Some((waiter, reserved))
    }

    fn release(&self, owner: OwnerSeq, amount: usize) {
        let mut state = self.state();
        state.free += amount;
        let held = state.held_by(owner) - amount;
        if held == 0 {
            state.held.remove(&owner);
        } else {
            state.held.insert(owner, held);
        }
    }
}

/// Serves those that wait when somebody no longer does.
struct ServesAgain<'a>(&'a Budget);

impl Drop for ServesAgain<'_> {
    fn drop(&mut self) {
        self.0.serve();
    }
}

impl State {
    fn held_by(&self, owner: OwnerSeq) -> usize {
        self.held.get(&owner).copied().unwrap_or(0)
    }

    /// Whether an owner may hold so much more, room or not: half of what the others leave, and one thing in any case.
    fn may_hold(&self, owner: OwnerSeq, amount: usize) -> bool {
        let held = self.held_by(owner);
        held == 0 || held + amount <= (self.free + held) / 2
    }
}

impl Reserved {
    /// Releases what is no longer needed.
    pub fn shrink(&mut self, to: usize) {
        let less = self.amount.saturating_sub(to);
        if less > 0 {
            self.amount -= less;
            self.budget.release(self.owner, less);
            self.budget.serve();
        }
    }

    /// How much is held.
    pub fn amount(&self) -> usize {
        self.amount
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.budget.release(self.owner, self.amount);
        self.budget.serve();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;
    const SOON: Duration = Duration::from_secs(10);

    fn owner(number: i64) -> OwnerSeq {
        OwnerSeq(number)
    }

    #[tokio::test(start_paused = true)]
    async fn an_owner_leaves_something_to_the_next() {
        let budget = Budget::new(64);
        let mut held = Vec::new();
        for number in 1..=4 {
            while let Ok(more) = budget.reserve(owner(number), 4, NOW).await {
                held.push(more);
            }
            let of = held.iter().filter(|one| one.owner == owner(number)).count() * 4;
            assert_eq!(of, [32, 16, 8, 4][number as usize - 1], "owner {number}");
        }
        assert_eq!(budget.free(), 4);
        drop(held);
        assert_eq!((budget.free(), budget.waiting()), (64, 0));
        assert!(budget.state().held.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_wait_are_served_by_how_little_their_owner_holds() {
        let budget = Budget::new(8);
        let first = budget.reserve(owner(1), 4, NOW).await.unwrap();
        let second = budget.reserve(owner(2), 4, NOW).await.unwrap();
        let mut line = Vec::new();
        for number in [1, 3] {
            let budget = budget.clone();
            line.push(tokio::spawn(async move {
                budget.reserve(owner(number), 4, SOON).await.map(|reserved| (number, reserved))
            }));
            tokio::task::yield_now().await;
        }
        drop(second);
        tokio::task::yield_now().await;
        assert!(line[1].is_finished() && !line[0].is_finished(), "owner 1 holds something already");
        drop(first);
        let (number, _reserved) = line.remove(0).await.unwrap().unwrap();
        assert_eq!(number, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_too_long_is_refused_and_blocks_nobody() {
        let budget = Budget::new(8);
        let held = budget.reserve(owner(1), 6, NOW).await.unwrap();
        assert_eq!(budget.reserve(owner(2), 4, SOON).await.unwrap_err(), Exhausted);
        // One who needs less does not overtake one who waits for more.
        let large = tokio::spawn({
            let budget = budget.clone();
            async move { budget.reserve(owner(2), 4, SOON).await.map(drop) }
        });
        tokio::task::yield_now().await;
        assert_eq!(budget.reserve(owner(3), 1, NOW).await.unwrap_err(), Exhausted);
        drop(held);
        large.await.unwrap().unwrap();
        assert_eq!((budget.free(), budget.waiting()), (8, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_larger_than_everything_goes_alone() {
        let budget = Budget::new(8);
        let mut all = budget.reserve(owner(1), 100, NOW).await.unwrap();
        assert_eq!((all.amount(), budget.free()), (8, 0));
        all.shrink(2);
        assert_eq!(budget.free(), 6);
        budget.reserve(owner(2), 5, NOW).await.unwrap();
    }
}
