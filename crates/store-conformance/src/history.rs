//! Random legal histories, and the promises after every step.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use penstock_domain::ids::{BatchSeq, CallId, LeaseToken, RowRef};
use penstock_domain::time::Timestamp;
use penstock_store::Store;
use penstock_store::calls::{CallEnd, CallRecord};
use penstock_store::control::RetrySelection;
use penstock_store::reading::RowFilter;
use penstock_store::work::{ClaimedRow, Settled, Settlement};

use crate::fixture::{
    LEASE, START, claim, completed, die, extracted, failed, look, new_batch, release, requeued, token, unique,
};
use crate::rng::Rng;

const STEPS: u32 = 60;
const ACTOR: &str = "operator:suite";

struct Walk<'a> {
    store: &'a Arc<dyn Store>,
    batch: BatchSeq,
    rng: Rng,
    now: Timestamp,
    /// What workers that live believe to hold; a crash forgets it.
    held: HashMap<RowRef, LeaseToken>,
    /// Leases that were forgotten or passed on.
    stale: Vec<(RowRef, LeaseToken)>,
    queued: Vec<RowRef>,
    /// Rows that completed: they must never be handed out again.
    done: HashSet<RowRef>,
    /// The rows of recorded bulk calls that are not over, and how many they were at first.
    calls: HashMap<CallId, (BTreeSet<RowRef>, usize)>,
    progress: (u32, u8),
    log: Vec<String>,
}

/// Walks one history and then brings the batch to its end.
pub async fn walk(store: &Arc<dyn Store>, seed: u64) {
    let mut rng = Rng::new(seed);
    let rows = 1 + rng.roll(6);
    let mut new = new_batch(store, rows).await;
    new.allow_failures = rng.lucky(75);
    let batch = extracted(store, &new, rows).await;
    let mut walk = Walk {
        store,
        batch: batch.seq,
        rng,
        now: START,
        held: HashMap::new(),
        stale: Vec::new(),
        queued: Vec::new(),
        done: HashSet::new(),
        calls: HashMap::new(),
        progress: (1, 0),
        log: vec![format!("seed {seed}: {rows} rows, allow_failures {}", new.allow_failures)],
    };
    for _ in 0..STEPS {
        walk.step().await;
        walk.check().await;
    }
    walk.end().await;
}

impl Walk<'_> {
    async fn step(&mut self) {
        self.now = self.now + Duration::from_secs(u64::from(self.rng.roll(20)));
        match self.rng.roll(17) {
            0..=2 => self.release().await,
            3..=5 => self.claim().await,
            6..=8 => self.settle().await,
            9 => self.stale().await,
            10 => self.crash().await,
            11 => self.sweep().await,
            12 => self.control().await,
            13 | 14 => self.record().await,
            15 => self.settle_call().await,
            _ => self.retry().await,
        }
    }

    fn note(&mut self, what: impl Into<String>) {
        self.log.push(what.into());
    }

    async fn release(&mut self) {
        let wanted = 1 + self.rng.roll(4);
        let rows = release(self.store, self.batch, wanted, self.now).await;
        self.note(format!("release {rows:?}"));
        for row in &rows {
            assert!(!self.done.contains(row), "a finished row was released: {:#?}", self.log);
        }
        self.queued.extend(rows);
    }

    async fn claim(&mut self) {
        let rows: Vec<RowRef> = self.queued.iter().copied().filter(|_| self.rng.lucky(60)).collect();
        let held = token();
        let claimed = claim(self.store, &rows, held, self.now).await;
        self.note(format!(
            "claim of {rows:?} got {:?}",
            claimed.iter().map(|one| one.row.number).collect::<Vec<_>>()
        ));
        self.claimed_by_calls(&claimed);
        for one in claimed {
            assert!(!self.done.contains(&one.row), "a finished row was claimed: {:#?}", self.log);
            assert_eq!(one.payload, vec![7; 40]);
            // Whoever held it before holds it no longer.
            if let Some(before) = self.held.insert(one.row, held) {
                self.stale.push((one.row, before));
            }
            self.queued.retain(|row| *row != one.row);
        }
    }

    /// Rows of a recorded call come together, or are told that some are missing.
    fn claimed_by_calls(&self, claimed: &[ClaimedRow]) {
        let mut calls: HashMap<CallId, (BTreeSet<RowRef>, bool)> = HashMap::new();
        for one in claimed {
            let known =
                self.calls.iter().find(|(_, (rows, _))| rows.contains(&one.row)).map(|(call, _)| *call);
            assert_eq!(one.call.map(|of| of.call), known, "row {:?}: {:#?}", one.row, self.log);
            if let Some(of) = one.call {
                let (rows, complete) = calls.entry(of.call).or_insert((BTreeSet::new(), of.complete));
                rows.insert(one.row);
                assert_eq!(*complete, of.complete, "{:#?}", self.log);
            }
        }
        for (call, (rows, complete)) in calls {
            let (known, recorded) = &self.calls[&call];
            assert_eq!(
                complete,
                rows == *known && rows.len() == *recorded,
                "{call:?} of {rows:?}: {:#?}",
                self.log
            );
        }
    }

    /// Rows that one worker holds are recorded for a bulk call.
    async fn record(&mut self) {
        let Some(lease) = self.held.values().next().copied() else { return };
        let is_free = |row: &RowRef| !self.calls.values().any(|(rows, _)| rows.contains(row));
        let rows: Vec<(RowRef, LeaseToken)> = self
            .held
            .iter()
            .map(|(row, held)| (*row, *held))
            .filter(|(row, held)| *held == lease && is_free(row))
            .collect();
        if rows.len() < 2 {
            return;
        }
        let call = CallId(uuid::Uuid::from_u128(u128::from(unique()) << 64 | 0x0ca1));
        let record = CallRecord { call, rows: &rows, once: None, receipts: &[] };
        let recorded = self.store.record_call(&record).await.unwrap();
        self.note(format!("record {call:?} of {rows:?}: {recorded}"));
        if recorded {
            let recorded = rows.len();
            self.calls.insert(call, (rows.into_iter().map(|(row, _)| row).collect(), recorded));
        }
    }

    /// A call all of whose rows are held ends: it is over, or goes again.
    async fn settle_call(&mut self) {
        let is_held = |rows: &BTreeSet<RowRef>| rows.iter().all(|row| self.held.contains_key(row));
        let Some((call, rows)) = self.calls.iter().find(|(_, (rows, _))| is_held(rows)) else { return };
        let (call, rows) = (*call, rows.0.clone());
        let over = self.rng.lucky(50);
        let mut settled = Vec::new();
        for row in rows {
            let Some(held) = self.held.remove(&row) else { continue };
            let ends = over && self.rng.lucky(60);
            settled.push(if ends { completed(row, held) } else { requeued(row, held, self.now) });
        }
        let end = CallEnd { settled: &settled, kept: &[], freed: &[], over };
        let report = self.store.settle_call(&end, self.now).await.unwrap();
        self.note(format!("settle {call:?}, over {over}, {settled:?}: {report:?}"));
        let counts = |one: &&Settlement| !report.lost.contains(&one.held());
        let written: Vec<&Settlement> = settled.iter().filter(counts).collect();
        let completes = |one: &&&Settlement| matches!(one.outcome, Settled::Completed { .. });
        self.done.extend(written.iter().filter(completes).map(|one| one.row));
        if over && let Some((rows, _)) = self.calls.get_mut(&call) {
            // Those that were lost stay of a call that is not whole any more.
            rows.retain(|row| !written.iter().any(|one| one.row == *row));
        }
        self.calls.retain(|_, (rows, _)| !rows.is_empty());
    }

    async fn settle(&mut self) {
        let rows: Vec<(RowRef, LeaseToken)> =
            self.held.iter().map(|(row, held)| (*row, *held)).filter(|_| self.rng.lucky(60)).collect();
        let mut group = Vec::new();
        let mut completes = HashSet::new();
        // In the same group, before and behind those that count: somebody whose lease is gone.
        let stale: Vec<_> = self.stale.drain(..).collect();
        let (before, behind) = stale.split_at(stale.len() / 2);
        group.extend(before.iter().map(|(row, held)| completed(*row, *held)));
        for (row, held) in rows {
            self.held.remove(&row);
            group.push(match self.rng.roll(4) {
                0 => failed(row, held),
                1 => requeued(row, held, self.now + Duration::from_secs(u64::from(self.rng.roll(5)))),
                _ => {
                    completes.insert((row, held));
                    completed(row, held)
                }
            });
        }
        group.extend(behind.iter().map(|(row, held)| completed(*row, *held)));
        let report = self.store.settle(&group, self.now).await.unwrap();
        self.note(format!("settle {group:?}: {report:?}"));
        assert!(stale.iter().all(|one| report.lost.contains(one)), "{:#?}", self.log);
        let counts = |one: &(RowRef, LeaseToken)| !report.lost.contains(one);
        self.done.extend(completes.into_iter().filter(counts).map(|(row, _)| row));
    }

    /// Somebody whose lease is gone: nothing that he says counts.
    async fn stale(&mut self) {
        let Some((row, held)) = self.stale.pop() else { return };
        let report = self.store.settle(&[completed(row, held)], self.now).await.unwrap();
        self.note(format!("stale settlement of {row:?}"));
        assert_eq!(report.lost, [(row, held)], "{:#?}", self.log);
    }

    /// A worker dies with what it holds and what it has heard of.
    async fn crash(&mut self) {
        self.note("crash");
        self.queued.clear();
        let dead: Vec<_> = self.held.drain().collect();
        if self.rng.lucky(50) {
            let back = die(self.store, self.now).await;
            self.note(format!("reclaimed {back:?}"));
            self.stale.extend(dead);
        }
    }

    async fn sweep(&mut self) {
        self.now = self.now + Duration::from_secs(u64::from(self.rng.roll(90)));
        let swept = self.store.sweep(self.now, 30_000, false).await.unwrap();
        self.note(format!("sweep at {:?}: {swept:?}", self.now));
        let again = self.store.sweep(self.now, 30_000, false).await.unwrap();
        assert_eq!((again.lost_rows, again.expired_rows, again.finished), (0, 0, 0), "a sweep sweeps all");
    }

    async fn control(&mut self) {
        let what = self.rng.roll(5);
        let done = match what {
            0 | 1 => self.store.pause(self.batch, ACTOR, self.now).await,
            2 | 3 => self.store.resume(self.batch, ACTOR, self.now).await,
            _ => self.store.cancel(self.batch, ACTOR, self.now).await,
        };
        self.note(format!(
            "{}: {}",
            ["pause", "pause", "resume", "resume", "cancel"][what as usize],
            done.is_ok()
        ));
    }

    async fn retry(&mut self) {
        let selection = RetrySelection {
            failed: true,
            cancelled: self.rng.lucky(50),
            numbers: if self.rng.lucky(30) { vec![1, 2] } else { Vec::new() },
            ..RetrySelection::default()
        };
        let done = self.store.retry(self.batch, &selection, ACTOR, self.now).await;
        self.note(format!("retry {selection:?}: {:?}", done.as_ref().map(|(_, rows)| *rows)));
    }

    /// The promises that hold at every moment.
    async fn check(&mut self) {
        let batch = look(self.store, self.batch).await;
        let ledger = &batch.ledger;
        let mut by_status: BTreeMap<_, u32> = BTreeMap::new();
        let page = RowFilter { limit: 100, ..RowFilter::default() };
        for row in self.store.rows(self.batch, &page).await.unwrap().rows {
            *by_status.entry(row.status.name()).or_default() += 1;
            let at = RowRef { batch: self.batch, number: row.number };
            if self.done.contains(&at) {
                assert_eq!(row.status.name(), "completed", "row {}: {:#?}", row.number, self.log);
            }
        }
        let counted = |name| by_status.get(name).copied().unwrap_or(0);
        let counts = ledger.counts;
        assert_eq!(
            [
                counts.pending,
                counts.queued,
                counts.processing,
                counts.completed,
                counts.failed,
                counts.cancelled
            ],
            ["pending", "queued", "processing", "completed", "failed", "cancelled"].map(counted),
            "the ledger and the rows differ: {:#?}",
            self.log
        );
        let open = counts.pending + counts.queued + counts.processing;
        assert_eq!(ledger.is_finished(), open == 0, "{counts:?} {:?} {:#?}", ledger.status, self.log);
        assert_eq!(ledger.progress() == 100, ledger.is_finished(), "{:#?}", self.log);
        let progress = (ledger.run, ledger.progress());
        assert!(
            progress.0 > self.progress.0 || progress.1 >= self.progress.1,
            "progress fell: {:#?}",
            self.log
        );
        self.progress = progress;
    }

    /// Lets everything run out: the batch ends, and says so once for each run.
    async fn end(mut self) {
        for _ in 0..20 {
            // Refused when there is nothing to resume.
            let _ = self.store.resume(self.batch, ACTOR, self.now).await;
            self.now = self.now + LEASE + LEASE;
            die(self.store, self.now).await;
            self.store.sweep(self.now, 30_000, false).await.unwrap();
            let rows = release(self.store, self.batch, 100, self.now).await;
            let held = token();
            // Each by itself: a row that two processes died of is claimed with no other one.
            for row in rows {
                claim(self.store, &[row], held, self.now).await;
                self.store.settle(&[completed(row, held)], self.now).await.unwrap();
            }
            if look(self.store, self.batch).await.ledger.is_finished() {
                break;
            }
        }
        let batch = look(self.store, self.batch).await;
        assert!(batch.ledger.is_finished(), "{:?} {:#?}", batch.ledger, self.log);
        let said = self.store.callbacks(None, Some(self.batch), None, 1000).await.unwrap();
        let finished = said.iter().filter(|callback| callback.event == "batch.finished").count();
        assert_eq!(finished, batch.ledger.run as usize, "{:#?}", self.log);
        assert_eq!(
            self.store
                .count_mismatches(Timestamp::from_millis(0))
                .await
                .unwrap()
                .iter()
                .filter(|one| one.seq == self.batch)
                .count(),
            0
        );
    }
}
