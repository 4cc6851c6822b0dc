//! Whose turn it is: fair shares of a dispatcher run.
//!
//! An owner is entitled to its quota less what it has in flight. When a whole run is capped, owners share the cap by
//! weighted max-min fairness (Bertsekas & Gallager, *Data Networks*, 6.5.2): nobody gets more than it can use, and
//! what it leaves goes to the others by their weights. Inside an owner batches of the highest priority go first and
//! those of one priority share alike, so that ten rows never wait behind somebody's million (promise 7).
//!
//! Rows are whole and shares are not, and a run remembers nothing of the one before: so each share is rounded down or up
//! such that over many runs everybody gets exactly its share (systematic sampling, Madow 1949: one random start, and a row
//! to whoever stands at each whole step from there). Where equals share fewer rows than they are, they take turns instead.

use std::collections::BTreeMap;

use crate::ids::BatchSeq;
use crate::time::Timestamp;

/// What an owner could use in this run.
#[derive(Clone, Debug)]
pub struct OwnerOffer {
    /// Its quota less its rows in flight.
    pub quota: u32,
    /// Its share when the run's cap is short.
    pub weight: u32,
    /// When rows of it were last released.
    pub served_at: Timestamp,
    /// The same by pipeline: room left, by an index that the batches name.
    pub rooms: Vec<u32>,
    /// Its batches with work.
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
    /// When rows of it were last released.
    pub served_at: Timestamp,
    /// Rows that it could release.
    pub rows: u32,
}

/// A batch's share: at most this many rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Index of the owner in the offers.
    pub owner: usize,
    /// The batch.
    pub batch: BatchSeq,
    /// Rows.
    pub rows: u32,
}

/// Numbers in [0, 1). Each decision takes its own: one number for an owner's odd row and for its batch's would give an
/// owner's rows to the same batch every time.
pub type TieBreaker<'a> = &'a mut dyn FnMut() -> f64;

/// Shares of a run, owner by owner in the order given.
pub fn plan(owners: &[OwnerOffer], cap: Option<u32>, tie_breaker: TieBreaker<'_>) -> Vec<Share> {
    let wanted: Vec<Vec<(usize, u32)>> =
        owners.iter().map(|owner| batch_shares(owner, owner.quota, tie_breaker)).collect();
    let claims: Vec<Claim> = owners
        .iter()
        .zip(&wanted)
        .map(|(owner, shares)| Claim {
            demand: shares.iter().map(|(_, rows)| rows).sum(),
            weight: owner.weight.max(1),
            served_at: owner.served_at,
        })
        .collect();
    let granted = max_min(&claims, cap.unwrap_or(u32::MAX), tie_breaker);
    let mut plan = Vec::new();
    for (index, owner) in owners.iter().enumerate() {
        let shares = if granted[index] == claims[index].demand {
            wanted[index].clone()
        } else {
            batch_shares(owner, granted[index], tie_breaker)
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
fn batch_shares(owner: &OwnerOffer, quota: u32, tie_breaker: TieBreaker<'_>) -> Vec<(usize, u32)> {
    let mut by_priority: BTreeMap<i16, Vec<usize>> = BTreeMap::new();
    for (index, batch) in owner.batches.iter().enumerate() {
        by_priority.entry(batch.priority).or_default().push(index);
    }
    let mut rooms = owner.rooms.clone();
    let mut left = quota;
    let mut shares = Vec::new();
    for group in by_priority.values().rev() {
        let mut claims: Vec<Claim> = group
            .iter()
            .map(|index| &owner.batches[*index])
            .map(|batch| Claim { demand: batch.rows, weight: 1, served_at: batch.served_at })
            .collect();
        for (room, room_left) in rooms.iter().enumerate() {
            let members: Vec<usize> =
                (0..group.len()).filter(|member| owner.batches[group[*member]].room == room).collect();
            let asked: Vec<Claim> = members.iter().map(|member| claims[*member]).collect();
            for (member, rows) in members.into_iter().zip(max_min(&asked, *room_left, tie_breaker)) {
                claims[member].demand = rows;
            }
        }
        for (member, rows) in max_min(&claims, left, tie_breaker).into_iter().enumerate() {
            let index = group[member];
            left -= rows;
            rooms[owner.batches[index].room] -= rows;
            shares.push((index, rows));
        }
    }
    shares
}

/// One of those that share.
#[derive(Clone, Copy, Debug)]
struct Claim {
    demand: u32,
    weight: u32,
    served_at: Timestamp,
}

/// Weighted max-min shares of `capacity`, in whole rows.
fn max_min(claims: &[Claim], capacity: u32, tie_breaker: TieBreaker<'_>) -> Vec<u32> {
    let mut granted = vec![0; claims.len()];
    let mut left = capacity;
    let mut weight: u64 = claims.iter().map(|claim| u64::from(claim.weight)).sum();
    // Who wants least for its weight comes first: as soon as one does not get all that it wants, nobody after it does.
    let mut open: Vec<usize> = (0..claims.len()).collect();
    open.sort_by(|one, other| {
        let (one, other) = (&claims[*one], &claims[*other]);
        let wants = |claim: &Claim, of: &Claim| u64::from(claim.demand) * u64::from(of.weight);
        wants(one, other).cmp(&wants(other, one))
    });
    let sated = open.iter().take_while(|index| {
        let Claim { demand, weight: own, .. } = claims[**index];
        let all = u128::from(demand) * u128::from(weight) <= u128::from(left) * u128::from(own);
        if all {
            granted[**index] = demand;
            left -= demand;
            weight -= u64::from(own);
        }
        all
    });
    let sated = sated.count();
    open.drain(..sated);
    if open.is_empty() || left == 0 {
        return granted;
    }
    let equals = open.iter().all(|index| claims[*index].weight == claims[open[0]].weight);
    if equals && (left as usize) < open.len() {
        // Whoever was served longest ago; the tie breaker decides between those that were served together.
        let mut turns: Vec<(Timestamp, f64, usize)> =
            open.iter().map(|index| (claims[*index].served_at, tie_breaker(), *index)).collect();
        turns.sort_by(|one, other| one.0.cmp(&other.0).then(one.1.total_cmp(&other.1)));
        for (_, _, index) in turns.into_iter().take(left as usize) {
            granted[index] = 1;
        }
        return granted;
    }
    // Shares lie end to end on a line; a row falls to the share in which a whole step ends. A share that is not whole
    // is below what is wanted, so that what is rounded up is not above it.
    let (left, weight) = (u128::from(left), u128::from(weight));
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "any number in [0, weight) will do"
    )]
    let start = ((tie_breaker() * weight as f64) as u128).min(weight - 1);
    let mut stands = start;
    for index in open {
        let ends = stands + left * u128::from(claims[index].weight);
        granted[index] = u32::try_from(ends / weight - stands / weight).unwrap_or(u32::MAX);
        stands = ends;
    }
    granted
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A generator with a seed (Steele et al. 2014, SplitMix64).
    fn tie_breaker(mut seed: u64) -> impl FnMut() -> f64 {
        move || {
            seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            f64::from(u32::try_from((mixed ^ (mixed >> 31)) >> 32).unwrap()) / (f64::from(u32::MAX) + 1.0)
        }
    }

    const NEVER: Timestamp = Timestamp::from_millis(0);

    fn owner(quota: u32, weight: u32, batches: &[(i64, i16, u32)]) -> OwnerOffer {
        let batches = batches
            .iter()
            .map(|(seq, priority, rows)| BatchOffer {
                batch: BatchSeq(*seq),
                room: 0,
                priority: *priority,
                served_at: NEVER,
                rows: *rows,
            })
            .collect();
        OwnerOffer { quota, weight, served_at: NEVER, rooms: vec![quota], batches }
    }

    fn planned(owners: &[OwnerOffer], cap: Option<u32>) -> Vec<(i64, u32)> {
        plan(owners, cap, &mut tie_breaker(1)).iter().map(|share| (share.batch.0, share.rows)).collect()
    }

    /// This many runs, each after the other, with the database's order: what every batch got, by the order of batches.
    /// Offers stay as they are: what is released is done before the next run.
    fn runs(owners: &mut [OwnerOffer], cap: Option<u32>, runs: i64, seed: u64) -> Vec<u32> {
        let mut tie_breaker = tie_breaker(seed);
        let mut got: BTreeMap<BatchSeq, u32> =
            owners.iter().flat_map(|owner| &owner.batches).map(|batch| (batch.batch, 0)).collect();
        for run in 1..=runs {
            owners.sort_by_key(|owner| (owner.served_at, owner.batches.iter().map(|one| one.batch).min()));
            for owner in owners.iter_mut() {
                owner.batches.sort_by_key(|batch| (batch.served_at, batch.batch));
            }
            for share in plan(owners, cap, &mut tie_breaker) {
                *got.get_mut(&share.batch).unwrap() += share.rows;
                let owner = &mut owners[share.owner];
                owner.served_at = Timestamp::from_millis(run);
                let batch = owner.batches.iter_mut().find(|batch| batch.batch == share.batch).unwrap();
                batch.served_at = Timestamp::from_millis(run);
            }
        }
        got.into_values().collect()
    }

    /// Jain's index of fairness (Jain, Chiu & Hawe 1984): 1 when all get the same.
    fn jain(got: &[u32]) -> f64 {
        let sum: f64 = got.iter().map(|rows| f64::from(*rows)).sum();
        let squares: f64 = got.iter().map(|rows| f64::from(*rows).powi(2)).sum();
        sum * sum / (squares * f64::from(u32::try_from(got.len()).unwrap()))
    }

    #[test]
    fn a_small_batch_does_not_wait_behind_a_large_one() {
        let planned = planned(&[owner(100, 1, &[(1, 0, 1_000_000), (2, 0, 10)])], None);
        assert_eq!(planned, [(1, 90), (2, 10)]);
    }

    #[test]
    fn priority_goes_first_and_leaves_the_rest() {
        let planned = planned(&[owner(100, 1, &[(1, 0, 1000), (2, 5, 60)])], None);
        assert_eq!(planned, [(2, 60), (1, 40)]);
    }

    #[test]
    fn a_cap_is_shared_by_weight_and_what_one_leaves_goes_to_the_others() {
        let owners =
            [owner(1000, 1, &[(1, 0, 1000)]), owner(1000, 2, &[(2, 0, 1000)]), owner(1000, 4, &[(3, 0, 5)])];
        assert_eq!(planned(&owners, Some(65)), [(1, 20), (2, 40), (3, 5)]);
    }

    #[test]
    fn a_cap_smaller_than_the_number_of_owners_serves_those_who_waited_longest() {
        let mut owners: Vec<OwnerOffer> = (1..=3).map(|seq| owner(10, 1, &[(seq, 0, 10)])).collect();
        owners[0].served_at = Timestamp::from_millis(5);
        assert_eq!(planned(&owners, Some(2)), [(2, 1), (3, 1)]);
    }

    #[test]
    fn a_pipeline_has_room_of_its_own() {
        let mut one = owner(100, 1, &[(1, 0, 500), (2, 0, 500)]);
        one.rooms = vec![30, 100];
        one.batches[1].room = 1;
        assert_eq!(planned(&[one], None), [(1, 30), (2, 70)]);
    }

    #[test]
    fn rates_follow_weights_however_few_rows_a_run_has() {
        for cap in [1, 2, 5, 7, 10, 11, 40] {
            let mut owners = [1, 2, 4].map(|weight| owner(1000, weight, &[(i64::from(weight), 0, 1000)]));
            let got = runs(&mut owners, Some(cap), 40_000, u64::from(cap));
            for (rows, weight) in got.iter().zip([1.0, 2.0, 4.0]) {
                let share = f64::from(*rows) / (40_000.0 * f64::from(cap) * weight / 7.0);
                assert!((share - 1.0).abs() < 0.03, "cap {cap}: {got:?}");
            }
        }
    }

    #[test]
    fn equal_owners_get_the_same_whatever_the_cap() {
        for cap in [1, 3, 9, 10, 11, 15, 19, 25] {
            let mut owners: Vec<OwnerOffer> = (1..=10).map(|seq| owner(100, 1, &[(seq, 0, 1000)])).collect();
            let got = runs(&mut owners, Some(cap), 400, 7);
            assert!(jain(&got) > 0.99, "cap {cap}: {got:?}");
        }
    }

    /// An odd row of an owner goes neither to the same batch every time nor, of two batches, to each other owner's first.
    #[test]
    fn batches_of_one_owner_get_the_same_whatever_its_quota() {
        for (quota, cap) in
            [(1, None), (2, None), (4, None), (5, None), (10, None), (10, Some(3)), (10, Some(7))]
        {
            let mut owners = [
                owner(quota, 1, &[(1, 0, 1000), (2, 0, 1000), (3, 0, 1000)]),
                owner(quota, 1, &[(4, 0, 1000), (5, 0, 1000)]),
            ];
            let got = runs(&mut owners, cap, 3000, 3);
            for batches in [&got[..3], &got[3..]] {
                assert!(jain(batches) > 0.999, "quota {quota}, cap {cap:?}: {got:?}");
            }
        }
    }

    #[test]
    fn who_shares_a_single_row_takes_turns() {
        let three = |quota| [owner(quota, 1, &[(1, 0, 1000), (2, 0, 1000), (3, 0, 1000)])];
        for seed in 0..20 {
            assert_eq!(runs(&mut three(1), None, 3, seed), [1, 1, 1]);
            assert!(runs(&mut three(2), None, 2, seed).iter().all(|rows| *rows > 0));
        }
    }

    proptest::proptest! {
        #[test]
        fn nobody_gets_more_than_it_may_and_no_capacity_is_wasted(
            claims in proptest::collection::vec((0_u32..500, 1_u32..8, 0_i64..3), 1..20),
            capacity in 0_u32..3000,
            seed: u64,
        ) {
            let claims: Vec<Claim> = claims
                .into_iter()
                .map(|(demand, weight, at)| Claim { demand, weight, served_at: Timestamp::from_millis(at) })
                .collect();
            let granted = max_min(&claims, capacity, &mut tie_breaker(seed));
            for (got, claim) in granted.iter().zip(&claims) {
                proptest::prop_assert!(*got <= claim.demand);
            }
            let total: u32 = granted.iter().sum();
            proptest::prop_assert_eq!(total, capacity.min(claims.iter().map(|claim| claim.demand).sum()));
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config::with_cases(60))]
        #[test]
        fn over_many_runs_rates_follow_weights(
            weights in proptest::collection::vec(1_u32..8, 2..8),
            cap in 1_u32..60,
            seed: u64,
        ) {
            const RUNS: u32 = 3000;
            let mut owners: Vec<OwnerOffer> =
                (1..).zip(&weights).map(|(seq, weight)| owner(1000, *weight, &[(seq, 0, 1000)])).collect();
            let got = runs(&mut owners, Some(cap), i64::from(RUNS), seed);
            let total: u32 = weights.iter().sum();
            for (rows, weight) in got.iter().zip(&weights) {
                let share = f64::from(cap) * f64::from(*weight) / f64::from(total);
                let rate = f64::from(*rows) / f64::from(RUNS);
                // Six times the deviation of what is rounded, which a thousand cases do not see by chance.
                let odd = share.fract() * (1.0 - share.fract());
                let slack = 6.0 * (odd / f64::from(RUNS)).sqrt() + 1e-3;
                proptest::prop_assert!((rate - share).abs() < slack, "{got:?} of {weights:?} under {cap}");
            }
        }
    }
}
