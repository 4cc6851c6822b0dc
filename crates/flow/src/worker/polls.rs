//! Rows that wait for a result, or for the answer to another row's call, are brought back by the workers themselves: about twice a second each worker queues what is due
//! for a look, fairly between owners. The dispatcher, which may run once a minute, has no part in it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use penstock_domain::fair::{self, BatchOffer, OwnerOffer};
use penstock_domain::ids::{BatchSeq, OwnerSeq, RowRef};
use penstock_domain::time::Timestamp;
use penstock_queue::{Message, PACKET_ROWS, Packet};
use penstock_store::dispatch::{Released, Take};
use penstock_store::polls::DuePolls;
use tokio::time::{Instant, MissedTickBehavior};

use crate::context::error::FlowError;
use crate::dispatch::dead_workers;
use crate::dispatch::release::find_release;
use crate::worker::state::Worker;

/// How often a worker queues what is due.
const EVERY: Duration = Duration::from_millis(500);

/// The same of a worker none of whose definitions has `poll` or `cache`: batches of an earlier one may.
const SELDOM: Duration = Duration::from_secs(5);

/// Looks of an owner that are queued or under way at most. Further ones are due, and wait in SQL.
const LOOKS_PER_OWNER: u32 = 2000;

/// Rows that one worker queues at a time at most.
const ROWS: u32 = 4000;

/// While the database is unavailable, that is logged at most this often.
const LOG_EVERY: Duration = Duration::from_secs(30);

impl Worker {
    /// Queues what is due for a look until the worker drains.
    pub(super) async fn queue_due_polls(self: Arc<Self>) {
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut looked, mut logged) = (None::<Instant>, None::<Instant>);
        while !self.draining.load(Ordering::SeqCst) {
            tick.tick().await;
            let polls = self.services.pipelines.iter().any(|pipeline| pipeline.awaits());
            if !polls && looked.is_some_and(|at| at.elapsed() < SELDOM) {
                continue;
            }
            looked = Some(Instant::now());
            match self.queue_due_once().await {
                Ok(()) => logged = None,
                Err(error) if logged.is_none_or(|at| at.elapsed() >= LOG_EVERY) => {
                    tracing::warn!(%error, "failed to queue rows that are due for a look; will retry");
                    logged = Some(Instant::now());
                }
                Err(_) => {}
            }
        }
    }

    async fn queue_due_once(&self) -> Result<(), FlowError> {
        let services = &self.services;
        let now = services.clock.now();
        let pipelines = services.pipelines.names_since_start();
        let due = services.store.due_polls(&pipelines, LOOKS_PER_OWNER, now).await?;
        let takes = takes(&due, &mut || services.id_generator.unit());
        if takes.is_empty() {
            return Ok(());
        }
        let lost_after = now + self.policy.lost_after;
        let queued = match services.store.queue_due_polls(&takes, now, lost_after).await {
            Err(error) if error.is_transient() => find_release(services, &takes, lost_after, error).await?,
            queued => queued?,
        };
        let pipelines = due.iter().map(|batch| (batch.batch, batch.pipeline.as_str())).collect();
        dead_workers::enqueue(services, messages(&pipelines, &queued, now)).await;
        Ok(())
    }
}

/// What is queued of each batch: fair between owners, and no more than an owner may have under way.
fn takes(due: &[DuePolls], tie_breaker: fair::TieBreaker<'_>) -> Vec<Take> {
    let mut owners: BTreeMap<OwnerSeq, (OwnerOffer, u32)> = BTreeMap::new();
    for batch in due {
        let (offer, looking) = owners.entry(batch.owner).or_insert_with(|| {
            let (quota, weight) = (LOOKS_PER_OWNER, batch.weight);
            let served_at = Timestamp::from_millis(0);
            (OwnerOffer { quota, weight, served_at, rooms: vec![quota], batches: Vec::new() }, 0)
        });
        *looking += batch.looking;
        // Those that are due longest come first.
        let served_at = Timestamp::from_millis(i64::try_from(offer.batches.len()).unwrap_or(i64::MAX));
        // A batch whose rows are only looked at counts for its owner, and is offered nothing.
        if batch.due == 0 {
            continue;
        }
        let (batch, priority, rows) = (batch.batch, batch.priority, batch.due);
        offer.batches.push(BatchOffer { batch, room: 0, priority, served_at, rows });
    }
    let offers: Vec<OwnerOffer> = owners
        .into_values()
        .map(|(offer, looking)| OwnerOffer { quota: offer.quota.saturating_sub(looking), ..offer })
        .collect();
    let shares = fair::plan(&offers, Some(ROWS), tie_breaker).into_iter();
    shares.filter(|share| share.rows > 0).map(|share| Take { batch: share.batch, rows: share.rows }).collect()
}

/// The rows in packets by pipeline, batches in turn; those that a worker died of by themselves.
pub(super) fn messages(
    pipelines: &BTreeMap<BatchSeq, &str>,
    queued: &[Released],
    now: Timestamp,
) -> Vec<Message> {
    let mut rows: BTreeMap<&str, Vec<(usize, RowRef)>> = BTreeMap::new();
    let mut suspects = Vec::new();
    for released in queued {
        let row = |number: u32| RowRef { batch: released.batch, number };
        suspects.extend(released.suspects.iter().map(|(number, crashes)| (row(*number), *crashes)));
        let Some(pipeline) = pipelines.get(&released.batch) else { continue };
        let turns = released.numbers.iter().enumerate().map(|(turn, number)| (turn, row(*number)));
        rows.entry(pipeline).or_default().extend(turns);
    }
    let mut messages = Vec::new();
    for (pipeline, mut rows) in rows {
        rows.sort_by_key(|(turn, _)| *turn);
        for chunk in rows.chunks(PACKET_ROWS) {
            let mut packet = Packet::new(pipeline, now.millis());
            chunk.iter().for_each(|(_, row)| packet.push(*row, 0));
            messages.push(Message::Rows(packet));
        }
    }
    messages.extend(dead_workers::suspect_messages(&suspects));
    messages
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(owner: i64, batch: i64, due: u32, looking: u32) -> DuePolls {
        let (owner, batch, pipeline) = (OwnerSeq(owner), BatchSeq(batch), format!("p{batch}"));
        DuePolls { batch, pipeline, owner, weight: 1, priority: 0, due, looking }
    }

    #[test]
    fn an_owner_with_many_due_rows_leaves_room_for_others() {
        let due = [
            due(1, 1, 2000, 0),
            due(1, 2, 2000, 500),
            due(2, 3, 2000, 0),
            due(3, 4, 10, 0),
            due(4, 5, 9, 2000),
            due(5, 6, 9, 0),
            due(5, 7, 0, 1995),
        ];
        let takes = takes(&due, &mut || 0.5);
        let of = |batches: &[i64]| -> u32 {
            takes.iter().filter(|take| batches.contains(&take.batch.0)).map(|take| take.rows).sum()
        };
        assert_eq!((of(&[4]), of(&[5])), (10, 0));
        assert_eq!(of(&[6, 7]), 5, "what another batch of it has under way counts too");
        assert_eq!(of(&[1, 2]), 1500, "what it has under way counts");
        assert_eq!(of(&[3]), 2000);
        assert!(takes.iter().map(|take| take.rows).sum::<u32>() <= ROWS);
    }

    #[test]
    fn batches_take_turns_in_a_packet_and_suspects_go_apart() {
        let pipelines = BTreeMap::from([(BatchSeq(1), "p1"), (BatchSeq(2), "p1")]);
        let queued = [
            Released { batch: BatchSeq(1), numbers: vec![1, 2], suspects: vec![] },
            Released { batch: BatchSeq(2), numbers: vec![1, 2], suspects: vec![(3, 1)] },
        ];
        let messages = messages(&pipelines, &queued, Timestamp::from_millis(0));
        let [Message::Rows(packet), Message::Suspects(suspects)] = messages.as_slice() else {
            panic!("{messages:?}")
        };
        let order: Vec<(i64, u32)> = packet.iter().map(|(row, _)| (row.batch.0, row.number)).collect();
        assert_eq!(order, [(1, 1), (2, 1), (1, 2), (2, 2)]);
        assert_eq!(suspects.iter().count(), 1);
    }
}
