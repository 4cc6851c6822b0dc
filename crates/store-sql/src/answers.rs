//! Answers that rows have in common.
//!
//! A question is taken by a guarded write: it succeeds only for a record that is still as it was read (`version`). Whether the row
//! that asked is still at it is known by its own record, so nothing has to be renewed, and what a crash leaves is free at once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use async_trait::async_trait;
use penstock_domain::ids::{BatchSeq, RowRef};
use penstock_domain::time::Timestamp;
use penstock_store::StoreResult;
use penstock_store::answers::{AnswerCount, AnswerEnd, AnswerOutcome, Answers, FoundAnswer, WantedAnswer};
use penstock_store::duplicates::KeyHash;

use crate::{Group, Row, SqlStore, Tx, sql};

/// A record without an answer is forgotten after this time, when nobody touches it.
const QUESTION_KEPT: Duration = Duration::from_secs(86_400);

/// A record as it was read.
struct Known {
    version: i64,
    answer: Option<Vec<u8>>,
    expires_at: Timestamp,
    failure: Option<(Vec<u8>, Timestamp)>,
    /// Who asks, if he is at it.
    asking: Option<RowRef>,
    until: Option<Timestamp>,
}

fn known(row: &Row) -> StoreResult<(Vec<u8>, Known)> {
    let c = row.of("cached_answers");
    let failure = c.opt_bytes("failure")?.zip(c.opt_time("failed_at")?);
    let asking = match (c.opt_i64("asking_batch")?, c.opt_u32("asking_number")?) {
        (Some(batch), Some(number)) if c.flag("is_asking")? => {
            Some(RowRef { batch: BatchSeq(batch), number })
        }
        _ => None,
    };
    let known = Known {
        version: c.i64("version")?,
        answer: c.opt_bytes("answer")?,
        expires_at: c.time("expires_at")?,
        failure,
        asking,
        until: c.opt_time("asking_until")?,
    };
    Ok((c.bytes("key")?, known))
}

/// What a record says to a row; none: the row may ask.
fn said(known: &Known, wanted: &WantedAnswer, now: Timestamp) -> Option<FoundAnswer> {
    if let Some(answer) = known.answer.as_ref().filter(|_| known.expires_at > now && !wanted.unreadable) {
        return Some(FoundAnswer::Kept { sealed: answer.clone(), expires_at: known.expires_at });
    }
    if let Some((failure, at)) = &known.failure
        && wanted.waits_since.is_some_and(|since| since <= *at)
    {
        return Some(FoundAnswer::Failed { sealed: failure.clone() });
    }
    known.asking.filter(|row| *row != wanted.row).map(|_| FoundAnswer::Awaited { until: known.until })
}

#[async_trait]
impl Answers for SqlStore {
    async fn find_answers(&self, wanted: &[WantedAnswer], now: Timestamp) -> StoreResult<Vec<FoundAnswer>> {
        let statement = sql(
            "cached_answer_list",
            "WITH j(wanted_key) AS ({rows}) SELECT a.key, a.version, a.answer, a.expires_at, a.failure, a.failed_at, \
             a.asking_batch, a.asking_number, a.asking_until, \
             (a.asking_token IS NOT NULL AND s.status IS NOT NULL AND (s.status = {row processing} OR \
             (s.status IN ({row pending}, {row queued}) AND coalesce(a.asking_until, 0) > $1))) AS is_asking \
             FROM j JOIN cached_answers a ON a.key = j.wanted_key \
             LEFT JOIN row_state s ON s.batch = a.asking_batch AND s.number = a.asking_number",
        );
        let keys: BTreeMap<&KeyHash, ()> = wanted.iter().map(|one| (&one.key, ())).collect();
        let group = Group::new().column(keys.keys().map(|key| key.as_slice()));
        let found = self.db.fetch(statement.bind(now).rows(group)).await?;
        let found: HashMap<Vec<u8>, Known> = found.iter().map(known).collect::<StoreResult<_>>()?;
        let mut answers: Vec<Option<FoundAnswer>> = Vec::with_capacity(wanted.len());
        // One for each key, in their order: two workers do not wait for each other.
        let mut asking: BTreeMap<KeyHash, (usize, i64)> = BTreeMap::new();
        for (place, one) in wanted.iter().enumerate() {
            let known = found.get(one.key.as_slice());
            let answer = known.and_then(|known| said(known, one, now));
            if answer.is_none() {
                asking.entry(one.key).or_insert((place, known.map_or(0, |known| known.version)));
            }
            answers.push(answer);
        }
        let taken = self.take_questions(wanted, &asking, now).await?;
        let asks = |place: usize, one: &WantedAnswer| {
            taken.contains(one.key.as_slice())
                && asking.get(&one.key).is_some_and(|(first, _)| *first == place)
        };
        let answers = answers.into_iter().enumerate().map(|(place, answer)| match answer {
            Some(answer) => answer,
            None if asks(place, &wanted[place]) => FoundAnswer::Ask,
            None => FoundAnswer::Awaited { until: None },
        });
        Ok(answers.collect())
    }

    async fn end_answers(&self, ends: &[AnswerEnd], now: Timestamp) -> StoreResult<()> {
        let mut tx = self.db.write("end_answers").await?;
        // One for each key, in their order; an answer counts for more than what another row of this worker says.
        let mut by_key: BTreeMap<KeyHash, &AnswerEnd> = BTreeMap::new();
        for end in ends {
            let is_kept = matches!(end.outcome, AnswerOutcome::Kept { .. });
            if is_kept || !by_key.contains_key(&end.key) {
                by_key.insert(end.key, end);
            }
        }
        let ends: Vec<&AnswerEnd> = by_key.into_values().collect();
        keep(&mut tx, &ends).await?;
        let_go(&mut tx, &ends, now).await?;
        tx.commit().await
    }

    async fn count_answers(&self, counts: &[AnswerCount]) -> StoreResult<()> {
        let statement = sql(
            "cached_answer_count_add",
            "WITH j(batch, step, found, asked) AS ({rows}) INSERT INTO cached_answer_counts (batch, step, found, asked) \
             SELECT batch, step, found, asked FROM j WHERE true ORDER BY batch, step ON CONFLICT (batch, step) DO UPDATE SET \
             found = cached_answer_counts.found + excluded.found, asked = cached_answer_counts.asked + excluded.asked",
        );
        let rows =
            counts.iter().map(|one| [one.batch.into(), one.step.into(), one.found.into(), one.asked.into()]);
        self.db.execute(statement.rows(Group::of_rows(rows))).await.map(|_| ())
    }

    async fn answer_counts(&self, batch: BatchSeq) -> StoreResult<Vec<AnswerCount>> {
        let statement = sql(
            "cached_answer_count_list",
            "SELECT step, found, asked FROM cached_answer_counts WHERE batch = $1 ORDER BY step",
        );
        let count = |row: &Row| {
            let c = row.of("cached_answer_counts");
            Ok(AnswerCount { batch, step: c.u16("step")?, found: c.u32("found")?, asked: c.u32("asked")? })
        };
        self.db.fetch(statement.bind(batch)).await?.iter().map(count).collect()
    }

    async fn drop_expired_answers(&self, now: Timestamp, limit: u32) -> StoreResult<u64> {
        let statement = sql(
            "cached_answer_delete_if_expired",
            "DELETE FROM cached_answers WHERE key IN \
             (SELECT key FROM cached_answers WHERE expires_at < $1 ORDER BY expires_at LIMIT $2)",
        );
        self.db.execute(statement.bind(now).bind(limit)).await
    }
}

impl SqlStore {
    /// Takes questions whose records are still as they were read. Which keys it took.
    async fn take_questions(
        &self,
        wanted: &[WantedAnswer],
        asking: &BTreeMap<KeyHash, (usize, i64)>,
        now: Timestamp,
    ) -> StoreResult<HashSet<Vec<u8>>> {
        if asking.is_empty() {
            return Ok(HashSet::new());
        }
        let statement = sql(
            "cached_answer_ask_if_unchanged",
            "WITH j(key, of_batch, row_batch, row_number, token, version, expires_at) AS ({rows}) \
             INSERT INTO cached_answers (key, batch, asking_batch, asking_number, asking_token, version, expires_at) \
             SELECT j.key, j.of_batch, j.row_batch, j.row_number, j.token, j.version, j.expires_at FROM j WHERE true ORDER BY j.key \
             ON CONFLICT (key) DO UPDATE SET asking_batch = excluded.asking_batch, asking_number = excluded.asking_number, \
             asking_token = excluded.asking_token, asking_until = NULL, answer = NULL, version = excluded.version, \
             expires_at = excluded.expires_at WHERE cached_answers.version = excluded.version - 1 RETURNING key",
        );
        let of = |place: &usize| &wanted[*place];
        let group = Group::new()
            .column(asking.keys().map(KeyHash::as_slice))
            .column(asking.values().map(|(place, _)| of(place).of_batch))
            .column(asking.values().map(|(place, _)| of(place).row.batch))
            .column(asking.values().map(|(place, _)| of(place).row.number))
            .column(asking.values().map(|(place, _)| of(place).token))
            .column(asking.values().map(|(_, version)| version + 1))
            .column(asking.values().map(|_| now + QUESTION_KEPT));
        let taken = self.db.fetch_written(statement.rows(group)).await?;
        taken.iter().map(|row| row.of("cached_answers").bytes("key")).collect()
    }
}

/// Keeps answers, unless one is there that lasts as long, or the batch was erased.
async fn keep(tx: &mut Tx, ends: &[&AnswerEnd]) -> StoreResult<()> {
    let kept: Vec<(&AnswerEnd, &[u8], Timestamp)> = ends
        .iter()
        .filter_map(|end| match &end.outcome {
            AnswerOutcome::Kept { sealed, expires_at } => Some((*end, sealed.as_slice(), *expires_at)),
            _ => None,
        })
        .collect();
    let statement = sql(
        "cached_answer_put_if_not_erased",
        "WITH j(key, of_batch, answer, expires_at) AS ({rows}) \
         INSERT INTO cached_answers (key, batch, answer, version, expires_at) \
         SELECT j.key, j.of_batch, j.answer, 1, j.expires_at FROM j LEFT JOIN batches b ON b.seq = j.of_batch \
         WHERE b.erased_at IS NULL ORDER BY j.key \
         ON CONFLICT (key) DO UPDATE SET answer = excluded.answer, expires_at = excluded.expires_at, failure = NULL, failed_at = NULL, \
         asking_batch = NULL, asking_number = NULL, asking_token = NULL, asking_until = NULL, version = cached_answers.version + 1 \
         WHERE cached_answers.answer IS NULL OR cached_answers.expires_at < excluded.expires_at",
    );
    let group = Group::new()
        .column(kept.iter().map(|(end, ..)| end.key.as_slice()))
        .column(kept.iter().map(|(end, ..)| end.of_batch))
        .column(kept.iter().map(|(_, sealed, _)| *sealed))
        .column(kept.iter().map(|(.., expires_at)| *expires_at));
    tx.execute(statement.rows(group)).await.map(|_| ())
}

/// Ends questions that have no answer, where they are still the row's.
async fn let_go(tx: &mut Tx, ends: &[&AnswerEnd], now: Timestamp) -> StoreResult<()> {
    let open: Vec<_> = ends
        .iter()
        .filter_map(|end| match &end.outcome {
            AnswerOutcome::Kept { .. } => None,
            AnswerOutcome::Failed { sealed, at, expires_at } => {
                Some((*end, Some(sealed.as_slice()), Some(*at), None, *expires_at))
            }
            AnswerOutcome::AsksAgain { until } => {
                Some((*end, None, None, Some(*until), *until + QUESTION_KEPT))
            }
            AnswerOutcome::NotAsked => Some((*end, None, None, None, now + QUESTION_KEPT)),
        })
        .collect();
    let statement = sql(
        "cached_answer_end_if_asking",
        "WITH j(wanted_key, row_batch, row_number, token, new_failure, new_failed_at, new_until, new_expiry) AS ({rows}) \
         UPDATE cached_answers AS a SET failure = coalesce(j.new_failure, a.failure), failed_at = coalesce(j.new_failed_at, a.failed_at), \
         asking_token = CASE WHEN j.new_until IS NULL THEN NULL ELSE a.asking_token END, asking_until = j.new_until, \
         expires_at = j.new_expiry, version = a.version + 1 FROM j WHERE a.key = j.wanted_key AND a.asking_batch = j.row_batch \
         AND a.asking_number = j.row_number AND a.asking_token IS NOT NULL AND coalesce(j.token, a.asking_token) = a.asking_token",
    );
    let group = Group::new()
        .column(open.iter().map(|(end, ..)| end.key.as_slice()))
        .column(open.iter().map(|(end, ..)| end.row.batch))
        .column(open.iter().map(|(end, ..)| end.row.number))
        .column(open.iter().map(|(end, ..)| end.token))
        .column(open.iter().map(|(_, sealed, ..)| *sealed))
        .column(open.iter().map(|(_, _, at, ..)| *at))
        .column(open.iter().map(|(_, _, _, until, _)| *until))
        .column(open.iter().map(|(.., over)| *over));
    tx.execute(statement.rows(group)).await.map(|_| ())
}
