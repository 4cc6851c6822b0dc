//! Released rows as messages: each owner's rows evenly over the run's interval, owners interleaved by weight, in packets.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use penstock_domain::ids::{BatchSeq, RowRef};
use penstock_domain::time::Timestamp;
use penstock_queue::{Message, PACKET_ROWS, Packet};
use penstock_store::dispatch::{BatchLoad, OwnerLoad, Released};

use crate::context::services::Services;
use crate::dispatch::dead_workers;

/// The released rows, by pipeline and owner, with the time at which each may start.
#[derive(Default)]
pub(super) struct Schedule {
    lanes: BTreeMap<String, HashMap<i64, OwnerSchedule>>,
    /// Rows that run alone, each with its crashes.
    suspects: Vec<(RowRef, u16)>,
}

struct OwnerSchedule {
    weight: u32,
    /// Decides which of the owners that are due at the same time is first.
    tie_breaker: u32,
    batches: HashMap<BatchSeq, BatchSchedule>,
}

struct BatchSchedule {
    /// The same among its owner's batches.
    tie_breaker: u32,
    spread: Duration,
    rows: Vec<RowRef>,
}

/// A random number that decides between equals.
fn tie_breaker(services: &Services) -> u32 {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is in [0, 2³²)")]
    let number = (services.id_generator.unit() * 4_294_967_296.0) as u32;
    number
}

impl Schedule {
    /// Adds the released rows of a batch.
    pub(super) fn add(
        &mut self,
        services: &Services,
        load: &OwnerLoad,
        batch: &BatchLoad,
        released: &Released,
        interval: Duration,
    ) {
        let row = |number: u32| RowRef { batch: batch.batch, number };
        self.suspects.extend(released.suspects.iter().map(|(number, crashes)| (row(*number), *crashes)));
        if released.numbers.is_empty() {
            return;
        }
        let pipeline = batch.pipeline.as_str();
        let spread = services
            .pipelines
            .get(pipeline)
            .and_then(|pipeline| pipeline.dispatch.spread)
            .unwrap_or(interval);
        let owner =
            self.lanes.entry(pipeline.to_owned()).or_default().entry(load.owner.0).or_insert_with(|| {
                OwnerSchedule {
                    weight: load.weight.max(1),
                    tie_breaker: tie_breaker(services),
                    batches: HashMap::new(),
                }
            });
        let schedule = owner.batches.entry(batch.batch).or_insert_with(|| BatchSchedule {
            tie_breaker: tie_breaker(services),
            spread,
            rows: Vec::new(),
        });
        schedule.rows.extend(released.numbers.iter().map(|number| row(*number)));
    }

    /// Each owner's rows evenly over the spread, owners interleaved by weight, in packets.
    pub(super) fn into_messages(self, now: Timestamp) -> Vec<Message> {
        let lanes = self.lanes.into_iter().flat_map(|(lane, owners)| packets(&lane, owners, now));
        lanes.chain(dead_workers::suspect_messages(&self.suspects)).collect()
    }
}

fn packets(lane: &str, owners: HashMap<i64, OwnerSchedule>, now: Timestamp) -> Vec<Message> {
    let mut rows: Vec<(u64, u64, u32, RowRef)> = Vec::new();
    for owner in owners.into_values() {
        // Batches of one owner alternate too: by the row's position in its own batch.
        let mut order: Vec<(usize, u32, RowRef, Duration)> = owner
            .batches
            .into_values()
            .flat_map(|BatchSchedule { tie_breaker, spread, rows }| {
                rows.into_iter().enumerate().map(move |(position, row)| (position, tie_breaker, row, spread))
            })
            .collect();
        order.sort_unstable_by_key(|(position, tie_breaker, row, _)| (*position, *tie_breaker, row.batch));
        let count = order.len().max(1) as u64;
        for (index, (_, _, row, spread)) in order.into_iter().enumerate() {
            let spread_ms = u64::try_from(spread.as_millis()).unwrap_or(u64::MAX);
            let delay = spread_ms.saturating_mul(index as u64) / count;
            rows.push((delay, (index as u64 + 1) * 1000 / u64::from(owner.weight), owner.tie_breaker, row));
        }
    }
    rows.sort_unstable();
    rows.chunks(PACKET_ROWS)
        .map(|chunk| {
            let mut packet = Packet::new(lane, now.millis());
            for (delay, _, _, row) in chunk {
                packet.push(*row, u32::try_from(*delay).unwrap_or(u32::MAX));
            }
            Message::Rows(packet)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(batch: i64, tie_breaker: u32, rows: u32) -> (BatchSeq, BatchSchedule) {
        let batch = BatchSeq(batch);
        let rows = (1..=rows).map(|number| RowRef { batch, number }).collect();
        (batch, BatchSchedule { tie_breaker, spread: Duration::ZERO, rows })
    }

    fn order(owners: [(i64, OwnerSchedule); 2]) -> Vec<(i64, u32)> {
        let messages = packets("noop", owners.into(), Timestamp::from_millis(0));
        let packets = messages.iter().filter_map(|message| match message {
            Message::Rows(packet) => Some(packet),
            _ => None,
        });
        packets.flat_map(Packet::iter).map(|(row, _)| (row.batch.0, row.number)).collect()
    }

    /// Of owners, and of an owner's batches, that are due at the same time, the tie-breaker decides which is first.
    #[test]
    fn the_tie_breaker_decides_between_equals() {
        for ours_first in [true, false] {
            for (one, other) in [(1, 2), (2, 1)] {
                let ours = OwnerSchedule {
                    weight: 1,
                    tie_breaker: if ours_first { 1 } else { 9 },
                    batches: [schedule(1, one, 2), schedule(2, other, 2)].into(),
                };
                let theirs = OwnerSchedule { weight: 1, tie_breaker: 5, batches: [schedule(3, 5, 1)].into() };
                let first = if one < other { (1, 2) } else { (2, 1) };
                let mut expected = vec![(first.0, 1), (first.1, 1), (first.0, 2), (first.1, 2)];
                expected.insert(usize::from(ours_first), (3, 1));
                assert_eq!(order([(1, ours), (2, theirs)]), expected);
            }
        }
    }
}
