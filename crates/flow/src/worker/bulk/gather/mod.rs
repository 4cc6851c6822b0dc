//! Where rows wait for company: a gathering for each batch and step, and for each recorded call.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use penstock_domain::ids::{BatchSeq, CallId};
use penstock_domain::pipeline::{RowInCall, RowValues};
use penstock_domain::row::Receipt;
use penstock_domain::time::Timestamp;
use penstock_downstream::{Response, Spend};
use serde_json::{Map, Value};
use tokio::sync::{Notify, oneshot};

use crate::worker::bulk::ends::{CallWriter, Together};
use crate::worker::bulk::sizes::Sizes;
use crate::worker::leases::RowLease;
use crate::worker::row::answer::{Answer, NotMade};

/// Which rows go together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// Rows of a batch at a step that are alike.
    Fresh(BatchSeq, usize, Alike),
    /// The rows of a call that was recorded.
    Recorded(CallId),
}

/// In what rows of a call are alike.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Alike {
    /// The values of limits that are each value's own.
    pub values: Vec<Option<String>>,
    /// How many processes died while they held them: those of which one may have been the cause are kept apart.
    pub crashes: u16,
    /// Attempts that failed, where the call is recorded: without an answer all of its rows go again, or none.
    pub attempts: u16,
}

/// A row that waits for its part of an answer.
pub(crate) struct Member {
    /// Its lease.
    pub lease: Arc<RowLease>,
    /// Its values.
    pub values: RowValues,
    /// The outputs of its earlier steps.
    pub outputs: Map<String, Value>,
    /// Those that are not saved yet.
    pub receipts: Vec<Receipt>,
    /// What it adds to what the call takes of limits.
    pub spend: Spend,
    /// When its first attempt began.
    pub first_claimed_at: Timestamp,
    /// Takes what became of the call.
    pub reply: oneshot::Sender<Replied>,
}

/// What a row is told of its call.
pub(crate) struct Replied {
    /// What became of it.
    pub reply: Reply,
    /// The row's part in the end of the call.
    pub together: Option<Together>,
    /// Of a recorded call: when the first attempt of any of its rows began. Their time is over together, or they could not go together
    /// again.
    pub first_claimed_at: Option<Timestamp>,
}

/// What became of a call, for one of its rows.
pub(crate) enum Reply {
    /// It was not made.
    NotMade(NotMade),
    /// Its answer, or the want of one, speaks for all of its rows.
    Whole(Box<Answer>, RowInCall),
    /// The row's own part of a call that succeeded.
    Item(Box<ItemReply>),
    /// The row makes no request; a sentence with its reason, and its code.
    Unsendable(&'static str, String),
    /// The row was recorded for a call that cannot be made again.
    Broken,
    /// Somebody else has the row by now.
    LeaseLost,
    /// The result that is waited for is not due for a look.
    NotDue,
    /// The result did not come in time.
    TimedOut,
}

/// The row's own part of an answer.
pub(crate) struct ItemReply {
    /// The row's place in the call.
    pub call: RowInCall,
    /// The row's own result as an answer; without one its body is null.
    pub response: Response,
    /// Whether there is one.
    pub found: bool,
    /// Whether it is an entry in the list of errors.
    pub rejected: bool,
    /// Whether it has a status or headers of its own.
    pub own: bool,
    /// When the answer came.
    pub ended_at: Timestamp,
    /// When the call left.
    pub left_at: Timestamp,
}

/// Rows that wait for each other.
pub(crate) struct Gathering {
    members: Mutex<Option<Vec<Member>>>,
    /// How many it can have.
    pub wanted: usize,
    changed: Notify,
}

impl Gathering {
    fn lock(&self) -> MutexGuard<'_, Option<Vec<Member>>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether as many rows as it can have are there.
    pub fn is_full(&self) -> bool {
        self.lock().as_ref().is_none_or(|members| members.len() >= self.wanted)
    }

    /// Waits until a row joins, or does not come.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// Whether the rows of a recorded call can still make it together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mates {
    /// All of them have come, or may come.
    #[default]
    Coming,
    /// One of them was requeued without coming to its step, until then: the call is made once all of them are claimed again.
    Requeued(Timestamp),
    /// One of them has ended without coming to its step: the others cannot go without it.
    Broken,
}

/// All gatherings of a process.
pub struct Gatherer {
    open: Mutex<HashMap<Key, Arc<Gathering>>>,
    /// The recorded calls whose rows were claimed.
    claimed: Mutex<HashMap<CallId, (usize, Mates)>>,
    /// Of each batch with a bulk step, rows in flight here that have not come to it yet.
    coming: Mutex<HashMap<BatchSeq, usize>>,
    /// What is known of the sizes of calls.
    pub sizes: Sizes,
    /// Writes what calls' rows come to.
    pub writer: CallWriter,
}

impl Gatherer {
    /// Without any row yet.
    pub fn new(writer: CallWriter) -> Self {
        let (open, claimed, coming, sizes) = Default::default();
        Self { open, claimed, coming, sizes, writer }
    }

    /// A row joins a gathering of up to `wanted` rows. It leads when it is the first one.
    pub(crate) fn join(&self, key: &Key, wanted: usize, member: Member) -> Option<Arc<Gathering>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gathering) = open.get(key).cloned() {
            let mut members = gathering.lock();
            if let Some(members) = members.as_mut() {
                members.push(member);
                let full = members.len() >= gathering.wanted;
                // Whoever comes now begins another one.
                if full {
                    open.remove(key);
                }
            }
            drop(members);
            gathering.changed.notify_one();
            return None;
        }
        let members = Mutex::new(Some(vec![member]));
        let gathering = Arc::new(Gathering { members, wanted, changed: Notify::new() });
        if wanted > 1 {
            open.insert(key.clone(), gathering.clone());
        }
        Some(gathering)
    }

    /// Closes a gathering, and returns its rows in the order of their numbers.
    pub(crate) fn close(&self, key: &Key, gathering: &Arc<Gathering>) -> Vec<Member> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.get(key).is_some_and(|one| Arc::ptr_eq(one, gathering)) {
            open.remove(key);
        }
        let mut members = gathering.lock().take().unwrap_or_default();
        drop(open);
        members.sort_by_key(|member| member.lease.row.number);
        members
    }

    /// The rows of a recorded call were claimed, and their tasks are about to start.
    pub fn expect_call(&self, call: CallId, rows: usize) {
        let mut claimed = self.claimed.lock().unwrap_or_else(PoisonError::into_inner);
        claimed.insert(call, (rows, Mates::Coming));
    }

    /// Whether a recorded call's rows can still make it together.
    pub fn mates(&self, call: CallId) -> Mates {
        let claimed = self.claimed.lock().unwrap_or_else(PoisonError::into_inner);
        claimed.get(&call).map_or(Mates::Broken, |(_, mates)| *mates)
    }

    /// A row of a recorded call has ended.
    fn has_ended(&self, call: CallId, without_it: Mates) {
        {
            let mut claimed = self.claimed.lock().unwrap_or_else(PoisonError::into_inner);
            let Some((rows, mates)) = claimed.get_mut(&call) else { return };
            *rows = rows.saturating_sub(1);
            *mates = without_it.max(*mates);
            if *rows == 0 {
                claimed.remove(&call);
            }
        }
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gathering) = open.get(&Key::Recorded(call)) {
            gathering.changed.notify_one();
        }
    }

    /// A row of a batch is in flight, and may come to a bulk step.
    pub fn expect(self: &Arc<Self>, batch: BatchSeq, call: Option<CallId>) -> Coming {
        self.count(batch, true);
        Coming { gatherer: self.clone(), batch, call, comes: true, without_it: Mates::Broken }
    }

    /// Rows of a batch in flight here that may still come to a bulk step.
    pub fn coming(&self, batch: BatchSeq) -> usize {
        let coming = self.coming.lock().unwrap_or_else(PoisonError::into_inner);
        coming.get(&batch).copied().unwrap_or(0)
    }

    fn count(&self, batch: BatchSeq, one_more: bool) {
        {
            let mut coming = self.coming.lock().unwrap_or_else(PoisonError::into_inner);
            let rows = coming.entry(batch).or_default();
            *rows = if one_more { *rows + 1 } else { rows.saturating_sub(1) };
            if *rows > 0 {
                return;
            }
            coming.remove(&batch);
        }
        // Those that wait for the last one wait no longer.
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let of_batch = open.iter().filter(|(key, _)| matches!(key, Key::Fresh(of, ..) if *of == batch));
        of_batch.for_each(|(_, gathering)| gathering.changed.notify_one());
    }
}

/// A row in flight that may come to a bulk step.
pub struct Coming {
    gatherer: Arc<Gatherer>,
    batch: BatchSeq,
    call: Option<CallId>,
    /// Whether it counts as one that comes.
    comes: bool,
    /// What the other rows of its recorded call can do when it ends now.
    without_it: Mates,
}

impl Coming {
    /// It has come.
    pub fn has_come(&mut self) {
        self.is_elsewhere();
        self.without_it = Mates::Coming;
    }

    /// It does not come for as long as it waits for something else, or has ended without a call.
    pub fn is_elsewhere(&mut self) {
        if std::mem::replace(&mut self.comes, false) {
            self.gatherer.count(self.batch, false);
        }
    }

    /// It is requeued until then.
    pub fn requeued(&mut self, until: Timestamp) {
        if self.without_it == Mates::Broken {
            self.without_it = Mates::Requeued(until);
        }
    }

    /// It goes on, perhaps to another bulk step.
    pub fn goes_on(&mut self) {
        if !std::mem::replace(&mut self.comes, true) {
            self.gatherer.count(self.batch, true);
        }
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        if self.comes {
            self.gatherer.count(self.batch, false);
        }
        if let Some(call) = self.call {
            self.gatherer.has_ended(call, self.without_it);
        }
    }
}

#[cfg(test)]
mod tests;
