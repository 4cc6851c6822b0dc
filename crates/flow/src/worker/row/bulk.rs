//! A row's part in a bulk call: it joins, waits, and goes on with what the answer has for it.

use penstock_domain::outcome::{self, Happened, Verdict, code};
use penstock_domain::pipeline::{ResponseView, RowValues};
use penstock_domain::ruling;
use penstock_domain::time::Timestamp;
use penstock_downstream::{Reserved, Response, Spend, wait_until};
use penstock_store::work::Settled;
use tokio::sync::oneshot;

use crate::worker::bulk::Together;
use crate::worker::bulk::gather::{Alike, ItemReply, Key, Member, Replied, Reply};
use crate::worker::kept_answers;
use crate::worker::kept_answers::KeptAnswer;
use crate::worker::kept_polls::{Kept, KeptPoll};
use crate::worker::progress::Progress;
use crate::worker::row::answer::Answer;
use crate::worker::row::judge::StepResult;
use crate::worker::row::lead::is_recorded;
use crate::worker::row::problem::Problem;
use crate::worker::row::task::{RowTask, StepAt};

impl RowTask<'_> {
    /// Goes together with other rows of the batch.
    pub(super) async fn bulk_step(
        &self,
        at: StepAt<'_>,
        row: &RowValues,
        progress: &mut Progress,
    ) -> StepResult {
        let call = progress.call.take();
        if call.is_some_and(|call| !call.complete) {
            return self.broken(at, progress);
        }
        let spend = match self.spend(at, row, progress).await {
            Ok(spend) => spend,
            Err(settled) => return StepResult::Settled(settled),
        };
        let (key, wanted) = match call {
            Some(call) => (Key::Recorded(call.call), usize::try_from(call.rows).unwrap_or(usize::MAX)),
            None => (self.fresh_key(at, &spend, progress), self.most_rows(at)),
        };
        let (reply, replied) = oneshot::channel();
        let member = Member {
            lease: self.lease.clone(),
            values: row.clone(),
            outputs: progress.outputs.clone(),
            receipts: progress.receipts.clone(),
            spend,
            first_claimed_at: progress.first_claimed_at,
            reply,
        };
        if let Some(coming) = &mut progress.coming {
            coming.has_come();
        }
        if let Some(gathering) = self.gatherer.join(&key, wanted, member) {
            self.lead(at, row, &key, &gathering, progress).await;
            return self.replied(at, row, replied.await, progress).await;
        }
        // It takes no slot: the row that leads has one for all.
        let rides = (self.rides)();
        let replied = replied.await;
        drop(rides);
        self.replied(at, row, replied, progress).await
    }

    fn fresh_key(&self, at: StepAt<'_>, spend: &Spend, progress: &Progress) -> Key {
        let attempts = if is_recorded(at) { progress.attempts } else { 0 };
        let alike = Alike { values: spend.values.clone(), crashes: progress.crashes, attempts };
        Key::Fresh(self.work.seq, at.index, alike)
    }

    /// Rows of a call of the step at most. Looks at results of calls that are not recorded any more are made one by one.
    pub(super) fn most_rows(&self, at: StepAt<'_>) -> usize {
        if at.look.is_some() {
            return 1;
        }
        self.gatherer.sizes.most((self.work.pipeline.version, at.index), at.step.rows_per_call())
    }

    async fn replied(
        &self,
        at: StepAt<'_>,
        row: &RowValues,
        replied: Result<Replied, oneshot::error::RecvError>,
        progress: &mut Progress,
    ) -> StepResult {
        let Ok(Replied { reply, together, first_claimed_at }) = replied else {
            // The row that led panicked, and nobody knows how far it came.
            let message = format!("step `{}`: {}", at.step.name, outcome::sentence(code::OUTCOME_UNKNOWN));
            return StepResult::Settled(self.failed(
                at,
                Problem::new(code::OUTCOME_UNKNOWN, message),
                progress,
            ));
        };
        progress.together = together;
        if let Some(first) = first_claimed_at {
            progress.began_at(first);
        }
        match reply {
            Reply::NotMade(not_made) => StepResult::Settled(self.not_made(at, not_made, progress)),
            Reply::Whole(answer, call) => self.judge(at, &row.in_call(call), *answer, progress).await,
            Reply::Item(item) => self.judge_item(at, row, *item, progress).await,
            Reply::Unsendable(code, message) => {
                StepResult::Settled(self.failed(at, Problem::new(code, message), progress))
            }
            Reply::Broken => StepResult::Settled(self.failed(at, broken(at), progress)),
            Reply::LeaseLost => StepResult::LeaseLost,
            Reply::NotDue => {
                let kept = at.look.cloned().unwrap_or_default();
                StepResult::Settled(self.wait_for_look(at, row, kept, None, progress))
            }
            Reply::TimedOut => StepResult::Settled(self.poll_timed_out(at, row, progress)),
        }
    }

    /// The row was recorded for a call that cannot be made again with the same rows.
    fn broken(&self, at: StepAt<'_>, progress: &mut Progress) -> StepResult {
        let over = at.deletes_incomplete_call();
        progress.together = Together::of(1, over, &self.gatherer.writer, Reserved::default()).pop();
        StepResult::Settled(self.failed(at, broken(at), progress))
    }

    /// Judges the row's own part of an answer.
    async fn judge_item(
        &self,
        at: StepAt<'_>,
        row: &RowValues,
        item: ItemReply,
        progress: &mut Progress,
    ) -> StepResult {
        // A result is there: nobody looks for it any more.
        let at = StepAt { look: None, ..at };
        progress.polling = false;
        let (row, now) = (row.in_call(item.call.clone()), item.ended_at);
        if !item.found {
            let settled = self.no_result(at, &item.response, progress);
            return self.without_look(at, StepResult::Settled(settled));
        }
        let wait =
            if item.own { wait_until(item.response.status, &item.response.headers, now) } else { None };
        let verdict = self.item_verdict(at, &row, &item, wait, progress);
        let answer = Answer {
            ended_at: now,
            left_at: item.left_at,
            verdict,
            response: Some(item.response),
            failure: None,
            not_before: wait,
            probe: false,
            alone: true,
            item: true,
        };
        let result = self.judge(at, &row, answer, progress).await;
        self.without_look(at, result)
    }

    /// The row does not look at this call's result again: its next try goes into another call.
    fn without_look(&self, at: StepAt<'_>, mut result: StepResult) -> StepResult {
        let receipts = match &mut result {
            StepResult::Settled(Settled::Requeued { receipts, .. }) => Some(receipts),
            StepResult::Settled(Settled::Failed(failure)) => Some(&mut failure.receipts),
            _ => None,
        };
        if let (Some(receipts), Some(step), true) = (receipts, at.stored_index(), at.step.poll.is_some())
            && receipts.iter().all(|receipt| receipt.step != step)
        {
            receipts.push(self.receipt(step, &Kept::nothing()));
        }
        result
    }

    fn item_verdict(
        &self,
        at: StepAt<'_>,
        row: &RowValues,
        item: &ItemReply,
        wait_until: Option<Timestamp>,
        progress: &Progress,
    ) -> Verdict {
        let response = &item.response;
        let view = ResponseView { status: response.status, headers: &response.headers, body: &response.body };
        let happened = Happened::Answer { status: response.status, json: true, wait_until };
        let repetition = at.step.item_repetition();
        match at.step.item_ruling(&self.context(row, progress), view) {
            Some(ruling) => ruling::judge(ruling, happened, repetition, item.ended_at),
            None => match outcome::judge(happened, repetition) {
                Verdict::Success if item.rejected => {
                    Verdict::Fail { code: format!("http_{}", response.status) }
                }
                verdict => verdict,
            },
        }
    }

    /// The call succeeded, and its answer has nothing for the row. It may have had its effect, so that nobody is called again.
    fn no_result(&self, at: StepAt<'_>, response: &Response, progress: &mut Progress) -> Settled {
        let sentence = "the answer has no result for this row";
        let kept = KeptAnswer {
            status: response.status,
            headers: response.headers.clone(),
            body: serde_json::Value::Null,
            fault: Some(sentence.to_owned()),
            signature: Vec::new(),
        };
        let message = format!(
            "step `{}` was answered with HTTP status {} ({} bytes), but {sentence}",
            at.step.name, response.status, response.bytes
        );
        let problem = Problem {
            http_status: Some(response.status),
            answer: Some(kept).filter(|_| !kept_answers::is_called_again(at.step)),
            ..Problem::new(code::BAD_RESPONSE, message)
        };
        self.failed(at, problem, progress)
    }

    /// Looks at the result of a bulk call, with all of its rows.
    pub(super) async fn bulk_look(
        &self,
        at: StepAt<'_>,
        kept: KeptPoll,
        row: &RowValues,
        progress: &mut Progress,
    ) -> StepResult {
        progress.polling = true;
        let kept = match kept.since {
            Some(_) => kept,
            None => {
                let (since, clock) = (Some(self.services.clock.now()), Some(progress.first_claimed_at));
                KeptPoll { since, clock, ..kept }
            }
        };
        let at = StepAt { look: Some(&kept), ..at };
        self.bulk_step(at, row, progress).await
    }
}

fn broken(at: StepAt<'_>) -> Problem {
    let message = format!(
        "step `{}`: a call with this row and others had no answer, and cannot be made again without the others; {}",
        at.step.name,
        outcome::sentence(code::OUTCOME_UNKNOWN)
    );
    Problem::new(code::OUTCOME_UNKNOWN, message)
}
