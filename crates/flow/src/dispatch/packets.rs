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
    /// Rows that share a call, and so start together.
    rows_per_call: usize,
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
        let definition = services.pipelines.get(pipeline);
        let spread = definition.as_ref().and_then(|one| one.dispatch.spread).unwrap_or(interval);
        let rows_per_call = definition.map_or(1, |one| one.rows_per_call());
        let owner =
            self.lanes.entry(pipeline.to_owned()).or_default().entry(load.owner.0).or_insert_with(|| {
                OwnerSchedule {
                    weight: load.weight.max(1),
                    rows_per_call,
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

/// A row's place among the others: when it may start, its turn by its owner's weight, what decides between equals.
type Place = (u64, u64, u32);

fn packets(lane: &str, owners: HashMap<i64, OwnerSchedule>, now: Timestamp) -> Vec<Message> {
    let rows_per_call = owners.values().map(|owner| owner.rows_per_call).max().unwrap_or(1);
    let mut rows: Vec<(Place, RowRef)> = owners.into_values().flat_map(places).collect();
    rows.sort_unstable();
    let mut packets = Vec::new();
    let mut rest = rows.as_slice();
    while !rest.is_empty() {
        let (chunk, others) = rest.split_at(packet_rows(rest, rows_per_call));
        let mut packet = Packet::new(lane, now.millis());
        for ((delay, ..), row) in chunk {
            packet.push(*row, u32::try_from(*delay).unwrap_or(u32::MAX));
        }
        packets.push(Message::Rows(packet));
        rest = others;
    }
    packets
}

/// How many of these rows make a packet. Rows of a call stay together, or two workers would each make a part of it.
fn packet_rows(rows: &[(Place, RowRef)], rows_per_call: usize) -> usize {
    if rows.len() <= PACKET_ROWS || rows_per_call <= 1 {
        return rows.len().min(PACKET_ROWS);
    }
    let is_cut = |at: &usize| rows[*at].0 != rows[at - 1].0 || rows[*at].1.batch != rows[at - 1].1.batch;
    (1..=PACKET_ROWS).rev().find(is_cut).unwrap_or(PACKET_ROWS)
}

/// The places of an owner's rows. Its batches alternate: row by row, or call by call where rows share calls.
fn places(owner: OwnerSchedule) -> Vec<(Place, RowRef)> {
    let OwnerSchedule { weight, rows_per_call, tie_breaker: of_owner, batches } = owner;
    let mut order: Vec<(usize, u32, RowRef, Duration)> = batches
        .into_values()
        .flat_map(|BatchSchedule { tie_breaker, spread, rows }| {
            let calls = rows.into_iter().enumerate();
            calls.map(move |(position, row)| (position / rows_per_call, tie_breaker, row, spread))
        })
        .collect();
    order.sort_unstable_by_key(|(call, tie_breaker, row, _)| (*call, *tie_breaker, *row));
    let count = order.len().max(1) as u64;
    let (mut first, mut of) = (0, None);
    let mut places = Vec::with_capacity(order.len());
    for (index, (call, _, row, spread)) in order.into_iter().enumerate() {
        // A call starts when its first row does: apart, its rows would not find each other.
        if of != Some((call, row.batch)) {
            (first, of) = (index as u64, Some((call, row.batch)));
        }
        let spread_ms = u64::try_from(spread.as_millis()).unwrap_or(u64::MAX);
        let delay = spread_ms.saturating_mul(first) / count;
        places.push(((delay, (first + 1) * 1000 / u64::from(weight), of_owner), row));
    }
    places
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
                    rows_per_call: 1,
                    tie_breaker: if ours_first { 1 } else { 9 },
                    batches: [schedule(1, one, 2), schedule(2, other, 2)].into(),
                };
                let theirs = OwnerSchedule {
                    weight: 1,
                    rows_per_call: 1,
                    tie_breaker: 5,
                    batches: [schedule(3, 5, 1)].into(),
                };
                let first = if one < other { (1, 2) } else { (2, 1) };
                let mut expected = vec![(first.0, 1), (first.1, 1), (first.0, 2), (first.1, 2)];
                expected.insert(usize::from(ours_first), (3, 1));
                assert_eq!(order([(1, ours), (2, theirs)]), expected);
            }
        }
    }

    /// The rows of a call start together, batches alternate by calls, and no call is cut by the end of a packet.
    #[test]
    fn rows_of_a_call_stay_together() {
        let spread = Duration::from_secs(1);
        let batches = [schedule(1, 1, 150), schedule(2, 2, 150)];
        let batches = batches.map(|(seq, batch)| (seq, BatchSchedule { spread, ..batch })).into();
        let owner = OwnerSchedule { weight: 1, rows_per_call: 70, tie_breaker: 0, batches };
        let mut found = Vec::new();
        for message in packets("noop", [(1, owner)].into(), Timestamp::from_millis(0)) {
            let Message::Rows(packet) = message else { panic!("rows") };
            let mut calls: Vec<(i64, i64, usize)> = Vec::new();
            for (row, at) in packet.iter() {
                match calls.last_mut() {
                    Some((batch, due, rows)) if (*batch, *due) == (row.batch.0, at) => *rows += 1,
                    _ => calls.push((row.batch.0, at, 1)),
                }
            }
            found.push(calls);
        }
        let calls =
            [vec![(1, 0, 70), (2, 233, 70)], vec![(1, 466, 70), (2, 700, 70), (1, 933, 10), (2, 966, 10)]];
        assert_eq!(found, calls);
    }
}
