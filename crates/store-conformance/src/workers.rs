//! Processes that hold rows: who counts as dead, and what becomes of its rows.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_domain::ids::RowRef;
use penstock_domain::outcome::code;
use penstock_domain::row::{MOST_CRASHES, RowStatus};
use penstock_domain::time::Timestamp;
use penstock_store::Store;
use penstock_store::control::RetrySelection;
use penstock_store::dispatch::Take;
use penstock_store::extraction::{ExtractionLease, Leased};
use penstock_store::work::{Claim, ClaimedRow, Settled, Settlement};
use penstock_store::workers::{CallWait, ComeBack, Requeued, WorkerLoad};

use crate::fixture::{
    LEASE, START, claim, completed, create, die, extracted, look, new_batch, register, release, requeued,
    token, unique,
};

const QUEUED: ComeBack = ComeBack::Queued { lost_after: Timestamp::from_millis(START.millis() + 60_000) };

async fn claim_as(store: &Arc<dyn Store>, holder: &str, rows: &[RowRef], suspects: bool) -> Vec<ClaimedRow> {
    let claim = Claim { rows, token: token(), holder, also_pending: false, suspects };
    store.claim(&claim, START).await.unwrap()
}

async fn status_of(store: &Arc<dyn Store>, row: RowRef) -> (RowStatus, u16) {
    let row = store.row(row.batch, row.number).await.unwrap().expect("a row");
    (row.status, row.crashes)
}

/// What calls of a process wait for is replaced by what it reports next, and forgotten with its record.
pub async fn waits_are_forgotten_with_their_process(store: &Arc<dyn Store>) {
    let [gone, stays] = ["gone", "stays"].map(|what| format!("{what}-{}", unique()));
    for name in [&gone, &stays] {
        register(store, name, Duration::from_secs(60)).await;
    }
    let wait = |sentence: &str| CallWait {
        identity: "api:1".to_owned(),
        owner: Some("acme".to_owned()),
        dependency: "api".to_owned(),
        reason: "credentials_unavailable".to_owned(),
        sentence: sentence.to_owned(),
        until: START,
    };
    let told = async || -> Vec<String> {
        let waits = store.call_waits().await.unwrap();
        let mut told: Vec<String> = waits.into_iter().map(|wait| wait.sentence).collect();
        told.sort();
        told
    };
    store.set_call_waits(&gone, &[wait("one")]).await.unwrap();
    store.set_call_waits(&stays, &[wait("two"), wait("three")]).await.unwrap();
    assert_eq!(told().await, ["one", "three", "two"]);
    store.set_call_waits(&stays, &[wait("four")]).await.unwrap();
    assert!(store.call_waits().await.unwrap().contains(&wait("four")));
    store.leave(&gone).await.unwrap();
    assert_eq!(told().await, ["four"]);
    store.set_call_waits(&stays, &[]).await.unwrap();
    assert_eq!(told().await, Vec::<String>::new());
    store.leave(&stays).await.unwrap();
}

/// A process that is silent while others look is dead; one that beats never is, however often they look. The dead claims
/// nothing, and its rows and its extraction are free; those of the living stay its own.
pub async fn a_silent_process_is_found_by_looks(store: &Arc<dyn Store>) {
    die(store, START).await;
    let [dead, alive] = ["dead", "alive"].map(|what| format!("{what}-{}", unique()));
    for name in [&dead, &alive] {
        register(store, name, Duration::from_secs(1)).await;
    }
    let load = WorkerLoad { in_flight: 2, waiting: 3 };
    let file = create(store, &new_batch(store, 1).await).await.seq;
    let lease = ExtractionLease { batch: file, token: token(), holder: dead.clone(), until: START + LEASE };
    assert!(matches!(store.lease_extraction(&lease, false, START).await.unwrap(), Leased::Yours(_)));
    let began = Instant::now();
    while !store.look().await.unwrap().contains(&dead) {
        assert!(began.elapsed() < Duration::from_secs(60), "it is never found");
        assert!(store.beat(&alive, load).await.unwrap());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(began.elapsed() > Duration::from_secs(1), "two looks are a second apart");
    let found = store.look().await.unwrap();
    assert!(found.contains(&dead) && !found.contains(&alive), "{found:?}");
    let records = store.workers().await.unwrap();
    let of = |name: &str| records.iter().find(|record| record.name == name).expect("a record");
    assert!(of(&dead).is_silent() && !of(&alive).is_silent(), "{records:?}");
    assert_eq!((of(&alive).load, of(&alive).version.as_str()), (load, "test"));
    assert!(!store.bury(&alive).await.unwrap(), "the living are not buried");
    assert!(store.bury(&dead).await.unwrap());
    assert!(!store.bury(&dead).await.unwrap(), "once");
    assert!(!store.beat(&dead, load).await.unwrap(), "it is told");
    let again = ExtractionLease { token: token(), holder: alive.clone(), ..lease };
    assert!(matches!(store.lease_extraction(&again, false, START).await.unwrap(), Leased::Yours(_)));
    let batch = extracted(store, &new_batch(store, 2).await, 2).await;
    let rows = release(store, batch.seq, 2, START).await;
    assert!(claim_as(store, &dead, &rows, false).await.is_empty(), "who has no record claims nothing");
    assert_eq!(claim_as(store, &alive, &rows, false).await.len(), 2);
    assert_eq!(store.reclaim(QUEUED, START).await.unwrap().rows(), 0);
    // Somebody who was buried too early comes back under its name.
    store.leave(&alive).await.unwrap();
    register(store, &alive, LEASE).await;
    assert_eq!(store.reclaim(QUEUED, START).await.unwrap().rows(), 0, "nobody took them meanwhile");
    assert_eq!(store.held_by(&alive).await.unwrap().len(), 2);
    store.leave(&alive).await.unwrap();
    store.reclaim(ComeBack::Pending, START).await.unwrap();
}

/// Rows of a dead process are queued at once, each counts the death, and are claimed only by who runs suspects alone.
pub async fn what_the_dead_held_comes_back(store: &Arc<dyn Store>) {
    die(store, START).await;
    let (dead, other) = (format!("dead-{}", unique()), format!("other-{}", unique()));
    register(store, &dead, LEASE).await;
    register(store, &other, LEASE).await;
    let batch = extracted(store, &new_batch(store, 5).await, 5).await;
    let rows = release(store, batch.seq, 5, START).await;
    assert_eq!(claim_as(store, &dead, &rows[..3], false).await.len(), 3);
    assert_eq!(claim_as(store, &other, &rows[3..4], false).await.len(), 1);
    store.leave(&dead).await.unwrap();
    let both = tokio::join!(store.reclaim(QUEUED, START), store.reclaim(QUEUED, START));
    let mut back = both.0.unwrap();
    back.add(both.1.unwrap());
    let numbers: HashSet<Requeued> = back.requeued.iter().copied().collect();
    let expected = rows[..3].iter().map(|row| Requeued { row: *row, crashes: 1 }).collect();
    assert_eq!((numbers, back.rows()), (expected, 3), "each once, however many look after them");
    let counts = look(store, batch.seq).await.ledger.counts;
    assert_eq!((counts.queued, counts.processing, counts.pending), (4, 1, 0));
    let claimed = claim_as(store, &other, &rows, false).await;
    assert_eq!(claimed.iter().map(|one| one.row).collect::<Vec<_>>(), rows[4..], "suspects are left out");
    let claimed = claim_as(store, &other, &rows[..3], true).await;
    assert_eq!(claimed.iter().map(|one| one.crashes).collect::<Vec<_>>(), [1, 1, 1]);
    // What was carried out clears a row, what was not does not.
    let mut tokens = store.held_by(&other).await.unwrap();
    tokens.retain(|(row, _)| rows[..3].contains(row));
    tokens.sort_by_key(|(row, _)| row.number);
    let mut waits = requeued(tokens[0].0, tokens[0].1, START);
    if let Settled::Requeued { attempt, .. } = &mut waits.outcome {
        *attempt = false;
    }
    let tried = requeued(tokens[1].0, tokens[1].1, START);
    store.settle(&[waits, tried], START).await.unwrap();
    let released = store.release(&[Take { batch: batch.seq, rows: 9 }], START, START + LEASE).await.unwrap();
    assert_eq!(
        (&released[0].numbers, &released[0].suspects),
        (&vec![rows[1].number], &vec![(rows[0].number, 1)])
    );
    store.leave(&other).await.unwrap();
    store.reclaim(ComeBack::Pending, START).await.unwrap();
}

/// A row whose workers die again and again fails, and says so; a retry takes it up as a suspect.
pub async fn a_row_that_kills_its_workers_ends(store: &Arc<dyn Store>) {
    die(store, START).await;
    let batch = extracted(store, &new_batch(store, 2).await, 2).await;
    let mut rows = release(store, batch.seq, 2, START).await;
    for death in 1..=MOST_CRASHES {
        let held = token();
        assert_eq!(claim(store, &rows, held, START).await.len(), rows.len());
        if death == 1 {
            store.settle(&[completed(rows.pop().expect("the other one"), held)], START).await.unwrap();
        }
        let back = die(store, START).await;
        assert_eq!((back.pending, back.crashed), if death < MOST_CRASHES { (1, 0) } else { (0, 1) });
        assert_eq!(release(store, batch.seq, 2, START).await.len(), usize::from(death < MOST_CRASHES));
    }
    let row = store.row(batch.seq, rows[0].number).await.unwrap().expect("a row");
    assert_eq!((row.status, row.code.as_deref()), (RowStatus::Failed, Some(code::WORKER_CRASHED)));
    assert_eq!((row.attempts, row.crashes, row.holder), (1, MOST_CRASHES, None));
    let ledger = look(store, batch.seq).await.ledger;
    assert!(ledger.is_finished() && ledger.counts.failed == 1, "{ledger:?}");
    let all = RetrySelection { failed: true, ..RetrySelection::default() };
    store.retry(batch.seq, &all, "operator:suite", START).await.unwrap();
    assert_eq!(status_of(store, rows[0]).await, (RowStatus::Pending, 1));
}

/// A row that two processes died of is claimed only by itself: a group of suspects leaves it out, whatever the group's message said.
pub async fn a_row_that_two_died_of_is_claimed_alone(store: &Arc<dyn Store>) {
    die(store, START).await;
    let batch = extracted(store, &new_batch(store, 2).await, 2).await;
    let rows = release(store, batch.seq, 2, START).await;
    for (row, deaths) in [(rows[0], 2), (rows[1], 1)] {
        for _ in 0..deaths {
            release(store, batch.seq, 2, START).await;
            assert_eq!(claim(store, &[row], token(), START).await.len(), 1);
            die(store, START).await;
        }
    }
    release(store, batch.seq, 2, START).await;
    let together = claim(store, &rows, token(), START).await;
    assert_eq!(together.iter().map(|one| (one.row, one.crashes)).collect::<Vec<_>>(), [(rows[1], 1)]);
    let alone = claim(store, &rows[..1], token(), START).await;
    assert_eq!(alone.iter().map(|one| (one.row, one.crashes)).collect::<Vec<_>>(), [(rows[0], 2)]);
    die(store, START).await;
}

/// Rows of a paused batch are pending, those of a cancelled one are cancelled.
pub async fn rows_of_batches_that_do_not_run_are_pending(store: &Arc<dyn Store>) {
    die(store, START).await;
    for (cancel, expected) in [(false, RowStatus::Pending), (true, RowStatus::Cancelled)] {
        let batch = extracted(store, &new_batch(store, 1).await, 1).await;
        let rows = release(store, batch.seq, 1, START).await;
        claim(store, &rows, token(), START).await;
        store.leave(crate::fixture::SUITE).await.unwrap();
        if cancel {
            store.cancel(batch.seq, "operator:suite", START).await.unwrap();
        } else {
            store.pause(batch.seq, "operator:suite", START).await.unwrap();
        }
        let back = store.reclaim(QUEUED, START).await.unwrap();
        assert_eq!((back.pending, back.requeued.len()), (1, 0));
        assert_eq!(status_of(store, rows[0]).await, (expected, 1));
        assert_eq!(look(store, batch.seq).await.ledger.is_finished(), cancel);
    }
}

/// A claim whose answer was lost leaves rows with a process that does not know of them: it lets them go, by their tokens,
/// and nobody died of it.
pub async fn a_process_lets_go_of_what_it_does_not_know(store: &Arc<dyn Store>) {
    let batch = extracted(store, &new_batch(store, 3).await, 3).await;
    let rows = release(store, batch.seq, 3, START).await;
    let (known, lost) = (token(), token());
    claim(store, &rows[..1], known, START).await;
    claim(store, &rows[1..], lost, START).await;
    let held = [(rows[0], lost), (rows[1], lost), (rows[2], lost)];
    let back = store.let_go(&held, QUEUED, START).await.unwrap();
    let expected: Vec<_> = rows[1..].iter().map(|row| Requeued { row: *row, crashes: 0 }).collect();
    assert_eq!(back.requeued, expected);
    assert_eq!(status_of(store, rows[0]).await, (RowStatus::Processing, 0));
    assert_eq!(store.let_go(&held, QUEUED, START).await.unwrap().rows(), 0, "once");
    let outcome = Settled::Completed { result: None, key: None };
    let settled = Settlement { row: rows[0], token: known, outcome };
    assert!(store.settle(&[settled], START).await.unwrap().lost.is_empty());
}

/// Who released rows and did not hear the answer finds them by the moment that it gave them.
pub async fn a_release_whose_answer_was_lost_is_found(store: &Arc<dyn Store>) {
    let batch = extracted(store, &new_batch(store, 3).await, 3).await;
    let take = [Take { batch: batch.seq, rows: 2 }];
    let lost_after = START + Duration::from_millis(61_234);
    assert!(store.released_until(&[batch.seq], lost_after).await.unwrap().is_empty());
    let released = store.release(&take, START, lost_after).await.unwrap();
    assert_eq!(store.released_until(&[batch.seq], lost_after).await.unwrap(), released);
    assert!(store.released_until(&[], lost_after).await.unwrap().is_empty());
}

/// The clock is set back by an hour: what was due in a moment is due in a moment, and what was due already is due. That happens
/// once. `run` carries out statements on the store's database.
pub async fn a_clock_that_is_set_back_moves_deadlines<F: Future<Output = ()>>(
    store: &Arc<dyn Store>,
    run: impl Fn(String) -> F,
) {
    const HOUR_MS: i64 = 3_600_000;
    let now = store.now().await.unwrap();
    assert_eq!(store.follow_clock().await.unwrap(), None, "it shows what it has to");
    let (old, new) = (now + Duration::from_secs(3600), now);
    let batch = extracted(store, &new_batch(store, 3).await, 3).await;
    let rows = release(store, batch.seq, 2, now).await;
    let held = token();
    claim(store, &rows, held, now).await;
    let soon = Duration::from_secs(30);
    let back = [requeued(rows[0], held, old + soon), requeued(rows[1], held, old - soon)];
    store.settle(&back, now).await.unwrap();
    let queued = store.release(&[Take { batch: batch.seq, rows: 1 }], now, old + LEASE).await.unwrap();
    run(format!("UPDATE database_clock SET latest = {}", old.millis())).await;
    run(format!("UPDATE batches SET served_at = {} WHERE seq = {}", old.millis(), batch.seq.0)).await;
    let noticed = store.follow_clock().await.unwrap().expect("it is noticed");
    assert_eq!(status_of(store, rows[0]).await.0, RowStatus::Pending);
    let moved = store.move_deadlines().await.unwrap().expect("they are moved");
    assert!(noticed.as_secs().abs_diff(3600) < 60 && moved.as_secs().abs_diff(3600) < 60, "{moved:?}");
    assert_eq!(store.move_deadlines().await.unwrap(), None, "once");
    assert_eq!(store.follow_clock().await.unwrap(), None);
    let due = async |row: RowRef| {
        let row = store.row(row.batch, row.number).await.unwrap().expect("a row");
        row.not_before.or(row.queued_until).expect("a time").millis() - now.millis()
    };
    let at = |expected: i64, found: i64| assert!((expected - found).abs() < 60_000, "{expected} {found}");
    at(30_000, due(rows[0]).await);
    at(-30_000, due(rows[1]).await);
    let number = queued[0].numbers[0];
    at(60_000, due(RowRef { batch: batch.seq, number }).await);
    let load = store.loads(9, new + soon + LEASE).await.unwrap();
    let offered =
        load.iter().flat_map(|load| &load.batches).find(|one| one.batch == batch.seq).expect("it is");
    at(0, offered.served_at.millis() - now.millis());
    assert!(offered.served_at.millis() < old.millis() - HOUR_MS / 2);
}
