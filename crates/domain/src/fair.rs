//! Whose turn it is: fair shares of a dispatcher run.
//!
//! An owner is entitled to its quota less what it has in flight. When a whole run is capped, owners share the cap by
//! weighted max-min fairness (Bertsekas & Gallager, *Data Networks*, 6.5.2): nobody gets more than it can use, and
//! what it leaves goes to the others by their weights. Inside an owner batches of the highest priority go first and
//! those of one priority share alike, so that ten rows never wait behind somebody's million (promise 7).

use std::collections::BTreeMap;

use crate::ids::BatchSeq;

/// What an owner could use in this run.
#[derive(Clone, Debug)]
pub struct OwnerOffer {
    /// Its quota less its rows in flight.
    pub quota: u32,
    /// Its share when the run's cap is short.
    pub weight: u32,
    /// The same by pipeline: room left, by an index that the batches name.
    pub rooms: Vec<u32>,
    /// Its batches with work, in the order of their turns.
    pub batches: Vec<BatchOffer>,
}

/// What a batch could use in this run.
#[derive(Clone, Debug)]
pub struct BatchOffer {
    /// The batch.
    pub batch: BatchSeq,
    /// Which of the owner's `rooms` it uses.
    pub room: usize,
    /// Higher goes first.
    pub priority: i16,
    /// Rows that it could release.
    pub rows: u32,
}

/// A batch's share: at most so many rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Index of the owner in the offers.
    pub owner: usize,
    /// The batch.
    pub batch: BatchSeq,
    /// Rows.
    pub rows: u32,
}

/// Shares of a run, owner by owner in the order given (who was served longest ago stands first and gets the odd row).
pub fn plan(owners: &[OwnerOffer], cap: Option<u32>) -> Vec<Share> {
    let wanted: Vec<Vec<(usize, u32)>> =
        owners.iter().map(|owner| batch_shares(owner, owner.quota)).collect();
    let demands: Vec<u32> = wanted.iter().map(|shares| shares.iter().map(|(_, rows)| rows).sum()).collect();
    let weights: Vec<u32> = owners.iter().map(|owner| owner.weight.max(1)).collect();
    let granted = match cap {
        None => demands.clone(),
        Some(cap) => max_min(&demands, &weights, cap),
    };
    let mut plan = Vec::new();
    for (index, owner) in owners.iter().enumerate() {
        let shares = if granted[index] == demands[index] {
            wanted[index].clone()
        } else {
            batch_shares(owner, granted[index])
        };
        plan.extend(shares.into_iter().filter(|(_, rows)| *rows > 0).map(|(batch, rows)| Share {
            owner: index,
            batch: owner.batches[batch].batch,
            rows,
        }));
    }
    plan
}

/// An owner's `quota` shared among its batches: (index, rows).
fn batch_shares(owner: &OwnerOffer, quota: u32) -> Vec<(usize, u32)> {
    let mut by_priority: BTreeMap<i16, Vec<usize>> = BTreeMap::new();
    for (index, batch) in owner.batches.iter().enumerate() {
        by_priority.entry(batch.priority).or_default().push(index);
    }
    let mut rooms = owner.rooms.clone();
    let mut left = quota;
    let mut shares = Vec::new();
    for group in by_priority.values().rev() {
        let mut wants: Vec<u32> = group.iter().map(|index| owner.batches[*index].rows).collect();
        for (room, room_left) in rooms.iter().enumerate() {
            let members: Vec<usize> =
                (0..group.len()).filter(|member| owner.batches[group[*member]].room == room).collect();
            let demands: Vec<u32> = members.iter().map(|member| wants[*member]).collect();
            let granted = max_min(&demands, &vec![1; demands.len()], *room_left);
            for (member, rows) in members.into_iter().zip(granted) {
                wants[member] = rows;
            }
        }
        let granted = max_min(&wants, &vec![1; wants.len()], left);
        for (member, rows) in granted.into_iter().enumerate() {
            let index = group[member];
            left -= rows;
            rooms[owner.batches[index].room] -= rows;
            shares.push((index, rows));
        }
    }
    shares
}

/// Weighted max-min shares of `capacity`. Odd units go to the first ones that can use them.
fn max_min(demands: &[u32], weights: &[u32], capacity: u32) -> Vec<u32> {
    let mut granted = vec![0_u32; demands.len()];
    let mut left = u64::from(capacity);
    loop {
        let open: Vec<usize> = (0..demands.len()).filter(|index| granted[*index] < demands[*index]).collect();
        let weight: u64 = open.iter().map(|index| u64::from(weights[*index])).sum();
        if left == 0 || weight == 0 {
            return granted;
        }
        let mut given = 0;
        for index in &open {
            let fair = left * u64::from(weights[*index]) / weight;
            let rows = fair.min(u64::from(demands[*index] - granted[*index]));
            granted[*index] += u32::try_from(rows).unwrap_or(u32::MAX);
            given += rows;
        }
        left -= given;
        if given == 0 {
            for index in open.into_iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
                granted[index] += 1;
            }
            return granted;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(quota: u32, weight: u32, batches: &[(i64, i16, u32)]) -> OwnerOffer {
        let batches = batches
            .iter()
            .map(|(seq, priority, rows)| BatchOffer {
                batch: BatchSeq(*seq),
                room: 0,
                priority: *priority,
                rows: *rows,
            })
            .collect();
        OwnerOffer { quota, weight, rooms: vec![quota], batches }
    }

    fn rows(plan: &[Share]) -> Vec<(i64, u32)> {
        plan.iter().map(|share| (share.batch.0, share.rows)).collect()
    }

    #[test]
    fn a_small_batch_does_not_wait_behind_a_large_one() {
        let plan = plan(&[owner(100, 1, &[(1, 0, 1_000_000), (2, 0, 10)])], None);
        assert_eq!(rows(&plan), [(1, 90), (2, 10)]);
    }

    #[test]
    fn priority_goes_first_and_leaves_the_rest() {
        let plan = plan(&[owner(100, 1, &[(1, 0, 1000), (2, 5, 60)])], None);
        assert_eq!(rows(&plan), [(2, 60), (1, 40)]);
    }

    #[test]
    fn a_cap_is_shared_by_weight_and_what_one_leaves_goes_to_the_others() {
        let owners =
            [owner(1000, 1, &[(1, 0, 1000)]), owner(1000, 2, &[(2, 0, 1000)]), owner(1000, 4, &[(3, 0, 5)])];
        assert_eq!(rows(&plan(&owners, Some(65))), [(1, 20), (2, 40), (3, 5)]);
    }

    #[test]
    fn a_cap_smaller_than_the_number_of_owners_serves_the_first() {
        let owners = [owner(10, 1, &[(1, 0, 10)]), owner(10, 1, &[(2, 0, 10)]), owner(10, 1, &[(3, 0, 10)])];
        assert_eq!(rows(&plan(&owners, Some(2))), [(1, 1), (2, 1)]);
    }

    #[test]
    fn a_pipeline_has_room_of_its_own() {
        let mut one = owner(100, 1, &[(1, 0, 500), (2, 0, 500)]);
        one.rooms = vec![30, 100];
        one.batches[1].room = 1;
        assert_eq!(rows(&plan(&[one], None)), [(1, 30), (2, 70)]);
    }

    proptest::proptest! {
        #[test]
        fn nobody_gets_more_than_it_may_and_no_capacity_is_wasted(
            demands in proptest::collection::vec(0_u32..500, 1..20),
            weights in proptest::collection::vec(1_u32..8, 20),
            capacity in 0_u32..3000,
        ) {
            let granted = max_min(&demands, &weights[..demands.len()], capacity);
            for (got, want) in granted.iter().zip(&demands) {
                proptest::prop_assert!(got <= want);
            }
            let total: u32 = granted.iter().sum();
            proptest::prop_assert_eq!(total, capacity.min(demands.iter().sum()));
        }
    }
}
