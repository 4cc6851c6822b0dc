//! Pages: by rows, by bytes, by how many are looked at.

use std::sync::Arc;
use std::time::Duration;

use penstock_domain::batch::{BatchStatus, Outcome};
use penstock_domain::ids::RowRef;
use penstock_domain::row::RowStatus;
use penstock_store::Store;
use penstock_store::batches::{BatchFilter, NewBatch};
use penstock_store::extraction::{ExtractionFailure, NewRow};
use penstock_store::reading::{LOOKED_AT, RowFilter};
use penstock_store::work::{LongRow, Settled, Settlement};

use crate::fixture::{
    START, behind, claim, create, extracted, extraction_lease, failed, new_batch, release, requeued, row,
    token,
};

/// All rows that a filter finds, page by page: how many rows and sealed bytes each page had, and the rows' numbers.
async fn pages(
    store: &Arc<dyn Store>,
    batch: penstock_domain::ids::BatchSeq,
    mut filter: RowFilter,
) -> (Vec<(usize, usize)>, Vec<u32>) {
    let (mut sizes, mut numbers) = (Vec::new(), Vec::new());
    loop {
        let page = store.rows(batch, &filter).await.unwrap();
        let bytes = page.rows.iter().map(penstock_store::reading::RowRecord::sealed_bytes).sum();
        sizes.push((page.rows.len(), bytes));
        numbers.extend(page.rows.iter().map(|row| row.number));
        let Some(next) = page.next else { return (sizes, numbers) };
        assert!(next > filter.after, "a page leads on");
        filter.after = next;
    }
}

/// What an owner keeps is its own batches until they are erased.
pub async fn what_an_owner_keeps_is_counted(store: &Arc<dyn Store>) {
    let first = new_batch(store, 1).await;
    let (owner, before) = (first.owner, store.kept(first.owner).await.unwrap());
    create(store, &first).await;
    let second = NewBatch { file_bytes: 1 << 40, ..new_batch(store, 1).await };
    assert_ne!(second.owner, owner, "each has an owner of its own");
    create(store, &NewBatch { owner, ..second }).await;
    let kept = store.kept(owner).await.unwrap();
    assert_eq!(kept.batches, before.batches + 2);
    assert_eq!(kept.bytes, before.bytes + first.file_bytes + (1 << 40));
}

/// A manifest that an earlier release wrote has no more than it knew: its upload is by the owner.
pub async fn an_upload_that_an_earlier_release_wrote_down_is_taken(store: &Arc<dyn Store>) {
    let new = new_batch(store, 1).await;
    let mut written = serde_json::to_value(&new).unwrap();
    assert!(written.as_object_mut().unwrap().remove("actor").is_some());
    let made = create(store, &serde_json::from_value(written).unwrap()).await;
    let done = store.batch_commands(made.id, 10).await.unwrap();
    let entries: Vec<_> =
        done.iter().map(|line| (line.entry.action.as_str(), line.entry.actor.as_str())).collect();
    assert_eq!(entries, [("batch.create", format!("owner:{}", made.owner_name).as_str())]);
}

/// A page ends with the row by which it has its bytes, however many rows were asked for; no row is left out or comes twice.
pub async fn a_page_has_its_bytes_and_no_more(store: &Arc<dyn Store>) {
    let new = NewBatch { rows: Some(40), ..new_batch(store, 1).await };
    let made = create(store, &new).await;
    let lease = extraction_lease(made.seq, START);
    store.lease_extraction(&lease, false, START).await.unwrap();
    let long = |number: u32| NewRow {
        payload: vec![7; if number.is_multiple_of(10) { 50_000 } else { 1000 }],
        ..row(number)
    };
    let rows: Vec<NewRow> = (1..=40).map(long).collect();
    store.commit_chunk(&lease, &rows, made.checkpoint, behind(40), START).await.unwrap();
    let batch = store.finish_extraction(&lease, 40, START).await.unwrap().seq;
    let row_ref = |number| RowRef { batch, number };
    let asked: Vec<RowRef> = [9, 10, 11, 20, 99].map(row_ref).to_vec();
    let mut long = store.longer_than(1000, &asked).await.unwrap();
    long.sort();
    let alone = |number| LongRow { row: row_ref(number), first: row_ref(number), bytes: 50_000 };
    assert_eq!(long, [alone(10), alone(20)]);
    let all: Vec<u32> = (1..=40).collect();
    let filter = RowFilter { limit: 500, max_bytes: Some(5_000), payload: true, ..RowFilter::default() };
    let (sizes, numbers) = pages(store, batch, filter.clone()).await;
    assert_eq!(numbers, all);
    assert!(sizes.iter().all(|(rows, bytes)| *rows > 0 && *bytes < 60_000), "{sizes:?}");
    assert_eq!(sizes.len(), 8, "{sizes:?}");
    // Without payloads there is next to nothing to count; without a limit on bytes the rows alone count.
    let (sizes, numbers) = pages(store, batch, RowFilter { payload: false, ..filter.clone() }).await;
    assert_eq!((sizes.len(), &numbers), (1, &all));
    let (sizes, numbers) =
        pages(store, batch, RowFilter { max_bytes: None, limit: 15, ..filter.clone() }).await;
    assert_eq!((sizes.iter().map(|(rows, _)| *rows).collect::<Vec<_>>(), &numbers), (vec![15, 15, 10], &all));
    let (sizes, _) = pages(store, batch, RowFilter { max_bytes: None, limit: 20, ..filter.clone() }).await;
    assert_eq!(sizes.len(), 2, "no page behind the last row");
    // The smallest bound still gives a row.
    let (sizes, _) = pages(store, batch, RowFilter { max_bytes: Some(0), ..filter }).await;
    assert_eq!(sizes.len(), 40);
}

/// Of the rows that wait one with an error is found, however many wait that nobody was called for.
pub async fn what_a_waiting_row_was_told_is_found(store: &Arc<dyn Store>) {
    let batch = extracted(store, &new_batch(store, 1).await, 6).await.seq;
    let rows = release(store, batch, 6, START).await;
    let token = token();
    claim(store, &rows, token, START).await;
    assert_eq!(store.waiting_with_error(batch).await.unwrap(), None);
    let waits = |row: RowRef, seconds: u64| Settlement {
        row,
        token,
        outcome: Settled::Requeued {
            not_before: START + Duration::from_secs(seconds),
            attempt: false,
            trouble: None,
            receipts: Vec::new(),
            expires: None,
            hold: None,
            polling: false,
        },
    };
    let at = |seconds: u64| START + Duration::from_secs(seconds);
    let outcomes = [
        waits(rows[0], 100),
        requeued(rows[1], token, at(10)),
        requeued(rows[2], token, at(20)),
        waits(rows[3], 90),
        failed(rows[4], token),
    ];
    store.settle(&outcomes, at(1)).await.unwrap();
    assert_eq!(store.waiting_with_error(batch).await.unwrap(), Some(rows[2].number));
}

/// Few rows of many are found page by page: none looks at more than its share of the batch.
pub async fn a_filtered_page_looks_at_its_share(store: &Arc<dyn Store>) {
    let total = LOOKED_AT * 2 + 500;
    let made = create(store, &NewBatch { rows: Some(total), ..new_batch(store, 1).await }).await;
    let lease = extraction_lease(made.seq, START);
    store.lease_extraction(&lease, false, START).await.unwrap();
    let mut done = 0;
    while done < total {
        let next = (done + 5000).min(total);
        let rows: Vec<NewRow> = (done + 1..=next).map(row).collect();
        let at = if done == 0 { made.checkpoint } else { behind(done) };
        store.commit_chunk(&lease, &rows, at, behind(next), START).await.unwrap();
        done = next;
    }
    let batch = store.finish_extraction(&lease, total, START).await.unwrap().seq;
    let first = release(store, batch, 3, START).await;
    let held = token();
    claim(store, &first, held, START).await;
    store.settle(&[failed(first[1], held)], START).await.unwrap();
    let of = |status, code: Option<&str>| RowFilter {
        status,
        code: code.map(str::to_owned),
        limit: 100,
        ..RowFilter::default()
    };
    let step = store.rows(batch, &of(vec![RowStatus::Failed], None)).await.unwrap().rows[0].step;
    let at = |step, code| RowFilter { step: Some(step), ..of(Vec::new(), code) };
    let step = step.expect("it failed at a step");
    for (filter, found) in [
        (of(vec![RowStatus::Failed], None), vec![2]),
        (at(step, None), vec![2]),
        (at(step, Some("http_500")), vec![2]),
        (at(step, Some("http_404")), vec![]),
        (at(step + 1, None), vec![]),
        (of(Vec::new(), Some("http_500")), vec![2]),
        (of(vec![RowStatus::Processing], None), vec![1, 3]),
        (of(vec![RowStatus::Completed], None), vec![]),
        (of(vec![RowStatus::Cancelled], None), vec![]),
    ] {
        let (sizes, numbers) = pages(store, batch, filter.clone()).await;
        assert_eq!((sizes.len(), &numbers), (3, &found), "{filter:?}");
    }
    // What matches is on full pages all the same.
    let pending = RowFilter { limit: 1000, ..of(vec![RowStatus::Pending], None) };
    let (sizes, numbers) = pages(store, batch, pending).await;
    assert_eq!(numbers.len() as u32, total - 3);
    assert!(sizes.len() as u32 <= total / 1000 + 4, "{}", sizes.len());
}

/// Batches are listed page by page, by number and by how many are looked at.
pub async fn batches_are_listed_in_pages(store: &Arc<dyn Store>) {
    let new = new_batch(store, 1).await;
    let mut seqs = Vec::new();
    for number in 0..10_u128 {
        let id = penstock_domain::ids::BatchId(uuid::Uuid::from_u128(new.id.0.as_u128() + (number << 8)));
        let key = penstock_store::batches::SealedKey { wrapped: vec![1, 2, 3], ..new.key.clone() };
        let object_key = format!("{}{number}", new.object_key);
        let name = Some(format!("Autumn {number}0%_!"));
        let labels = if number == 3 { vec!["Red shoes".into(), "vip".into()] } else { Vec::new() };
        let more = NewBatch { id, key, object_key, name, labels, ..new.clone() };
        let batch = create(store, &more).await;
        if number.is_multiple_of(2) {
            let lease = extraction_lease(batch.seq, START);
            store.lease_extraction(&lease, false, START).await.unwrap();
            let failure = ExtractionFailure { clear: "{\"code\":\"invalid_file\"}".into(), sealed: None };
            store.fail_extraction(&lease, &failure, START).await.unwrap();
        }
        seqs.push(batch.seq);
    }
    seqs.reverse();
    let base = BatchFilter { owner: Some(new.owner), limit: 100, ..BatchFilter::default() };
    let listed = async |mut filter: BatchFilter| {
        let (mut sizes, mut found) = (Vec::new(), Vec::new());
        loop {
            let page = store.list_batches(&filter).await.unwrap();
            sizes.push(page.batches.len());
            found.extend(page.batches.iter().map(|batch| batch.seq));
            let Some(next) = page.next else { return (sizes, found) };
            filter.before = Some(next);
        }
    };
    assert_eq!(listed(base.clone()).await, (vec![10], seqs.clone()));
    assert_eq!(listed(BatchFilter { limit: 4, ..base.clone() }).await, (vec![4, 4, 2], seqs.clone()));
    assert_eq!(listed(BatchFilter { limit: 5, ..base.clone() }).await, (vec![5, 5], seqs.clone()));
    let narrow = BatchFilter { status: vec![BatchStatus::Failed], looked_at: Some(3), ..base.clone() };
    let (sizes, found) = listed(narrow.clone()).await;
    assert_eq!(found, seqs.iter().skip(1).step_by(2).copied().collect::<Vec<_>>());
    assert!(sizes.iter().all(|size| *size <= 2) && sizes.len() == 4, "{sizes:?}");
    let none = BatchFilter { status: vec![BatchStatus::Completed], ..narrow };
    assert_eq!(listed(none).await, (vec![0, 0, 0, 0], vec![]));
    let failures = BatchFilter { outcome: vec![Outcome::Failure], ..base.clone() };
    assert_eq!(listed(failures).await.1, seqs.iter().skip(1).step_by(2).copied().collect::<Vec<_>>());
    let successes = BatchFilter { outcome: vec![Outcome::Success], ..base.clone() };
    assert!(listed(successes).await.1.is_empty());
    // The case of letters is no difference, and no character stands for others.
    for (text, found) in [
        ("autUMN", 10),
        ("n 30%_!", 1),
        ("%", 10),
        ("0%_!", 10),
        ("_0", 0),
        ("3%", 0),
        ("x", 0),
        ("D SH", 1),
        ("shoesvip", 0),
    ] {
        let named = BatchFilter { search: Some(text.into()), ..base.clone() };
        assert_eq!(listed(named).await.1.len(), found, "{text}");
    }
    // A label is found as a whole, and as it is written.
    for (labels, found) in [
        (vec!["vip"], 1),
        (vec!["vip", "Red shoes"], 1),
        (vec!["vip", "x"], 0),
        (vec!["VIP"], 0),
        (vec!["Red"], 0),
    ] {
        let labels: Vec<String> = labels.into_iter().map(str::to_owned).collect();
        let marked = BatchFilter { labels: labels.clone(), ..base.clone() };
        assert_eq!(listed(marked).await.1.len(), found, "{labels:?}");
    }
}

/// The running batches of an owner are found among all others, those of the highest priority first.
pub async fn running_batches_are_those_of_one_owner(store: &Arc<dyn Store>) {
    let ours = extracted(store, &new_batch(store, 3).await, 3).await;
    let theirs = extracted(store, &new_batch(store, 3).await, 3).await;
    let waiting = NewBatch { owner: ours.owner, ..new_batch(store, 1).await };
    assert_eq!(create(store, &waiting).await.owner, ours.owner);
    let found = store.running_batches(ours.owner, 10).await.unwrap();
    assert_eq!(found.iter().map(|batch| batch.seq).collect::<Vec<_>>(), [ours.seq]);
    let urgent = NewBatch { owner: ours.owner, priority: 5, ..new_batch(store, 3).await };
    let urgent = extracted(store, &urgent, 3).await;
    let found = store.running_batches(ours.owner, 1).await.unwrap();
    assert_eq!(found.iter().map(|batch| batch.seq).collect::<Vec<_>>(), [urgent.seq]);
    let found = store.running_batches(theirs.owner, 10).await.unwrap();
    assert_eq!(found.iter().map(|batch| batch.seq).collect::<Vec<_>>(), [theirs.seq]);
}
