//! What the answer of a bulk call means: for all of its rows at once, or for each of them.

use penstock_domain::cause::Cause;
use penstock_domain::outcome::{Repetition, Verdict, code};
use penstock_domain::pipeline::bulk::ItemAnswer;
use penstock_domain::pipeline::poll::PollStatus;
use penstock_domain::pipeline::{ItemResult, ResponseView, RowInCall, RowValues, WholeAnswer};
use penstock_downstream::{Failure, Reserved, Response, aside};
use penstock_store::calls::CallEnd;
use penstock_store::work::Held;

use crate::worker::bulk::Together;
use crate::worker::bulk::gather::{ItemReply, Member, Reply};
use crate::worker::progress::Progress;
use crate::worker::row::answer::Answer;
use crate::worker::row::lead::{Prepared, RoundEnd, first_claimed, send};
use crate::worker::row::task::{RowTask, StepAt};

impl RowTask<'_> {
    /// Gives the rows of a call their parts of its answer, unless it refused all of them.
    pub(super) async fn bulk_answered(
        &self,
        at: StepAt<'_>,
        row: &RowValues,
        mut answer: Answer,
        prepared: Prepared,
        progress: &Progress,
    ) -> RoundEnd {
        let status = answer.response.as_ref().map_or(0, |response| response.status);
        let rows = prepared.members.len();
        match &answer.verdict {
            Verdict::Fail { .. } if at.look.is_none() && matches!(status, 400 | 413 | 422) => {
                if rows > 1 {
                    return self.refused(at, row, answer, prepared, progress).await;
                }
                self.whole(at, answer, prepared, true);
                RoundEnd::Wrong
            }
            Verdict::Success => match self.results(at, row, &mut answer, &prepared, progress).await {
                Ok(results) => {
                    self.items(at, &answer, prepared, results);
                    RoundEnd::Over { taken: Some(rows) }
                }
                Err(over) => self.whole(at, answer, prepared, over),
            },
            verdict => {
                let over = is_over(at, verdict, prepared.resumed);
                self.whole(at, answer, prepared, over)
            }
        }
    }

    /// What each row has of an answer that succeeded.
    ///
    /// # Errors
    /// When it speaks for all of them, as `answer` says by then: whether its rows may go with others.
    async fn results(
        &self,
        at: StepAt<'_>,
        row: &RowValues,
        answer: &mut Answer,
        prepared: &Prepared,
        progress: &Progress,
    ) -> Result<Vec<ItemResult>, bool> {
        let context = self.context(row, progress);
        let Some(response) = answer.response.as_ref() else { return Err(false) };
        let view = ResponseView { status: response.status, headers: &response.headers, body: &response.body };
        // Whether the result is waited for, or will never be there, each row finds out by itself.
        let found = aside(response.bytes, || match at.step.poll_status(&context, view) {
            PollStatus::Ready => Ok(at.step.distribute(&context, &prepared.entries, view)),
            PollStatus::Waiting => Err(false),
            PollStatus::Failed => Err(true),
        });
        if let Some(results) = found.await? {
            return Ok(results);
        }
        let sentence = "it has no list of results";
        answer.failure = Some(Failure::with_sentence(Cause::NotJson, sentence));
        let code = code::BAD_RESPONSE.to_owned();
        answer.verdict = match at.step.repetition() {
            Repetition::Harmless => Verdict::Retry { code },
            Repetition::Unsaid | Repetition::Harmful => Verdict::Fail { code },
        };
        Err(is_over(at, &answer.verdict, prepared.resumed))
    }

    /// All rows have the same answer. Those of a recorded call may go with others when it is `over`.
    fn whole(&self, at: StepAt<'_>, mut answer: Answer, prepared: Prepared, over: bool) -> RoundEnd {
        let over = over && prepared.call.is_some();
        let memory = answer.response.as_mut().map(|response| std::mem::take(&mut response.memory));
        let read = self.whole_answer(at, answer.response.as_ref());
        let began = prepared.call.map(|_| first_claimed(&prepared.members));
        let parts =
            Together::of(prepared.members.len(), over, &self.gatherer.writer, memory.unwrap_or_default());
        for (index, (member, part)) in prepared.members.into_iter().zip(parts).enumerate() {
            let call = RowInCall { index, key: prepared.key.clone(), whole: read.clone() };
            send(member, Reply::Whole(Box::new(answer.share()), call), Some(part), began);
        }
        RoundEnd::Over { taken: None }
    }

    /// Each row has its own part.
    fn items(&self, at: StepAt<'_>, answer: &Answer, prepared: Prepared, results: Vec<ItemResult>) {
        let Some(response) = &answer.response else { return };
        let read = self.whole_answer(at, Some(response));
        let over = prepared.call.is_some();
        let parts = Together::of(prepared.members.len(), over, &self.gatherer.writer, Reserved::default());
        let rows = prepared.members.into_iter().zip(results).zip(parts);
        for (index, ((member, result), part)) in rows.enumerate() {
            let call = RowInCall { index, key: prepared.key.clone(), whole: read.clone() };
            send(member, Reply::Item(Box::new(item(answer, response, result, call))), Some(part), None);
        }
    }

    /// What templates read as `whole`.
    fn whole_answer(&self, at: StepAt<'_>, response: Option<&Response>) -> Option<WholeAnswer> {
        let reads = at.step.bulk.as_ref().is_some_and(|bulk| bulk.reads_whole);
        response.filter(|_| reads).map(|response| WholeAnswer::of(&response.body))
    }

    /// The call was refused as wrong, so that nothing was done. Rows that the answer names fail; without such rows it is divided.
    async fn refused(
        &self,
        at: StepAt<'_>,
        row: &RowValues,
        answer: Answer,
        prepared: Prepared,
        progress: &Progress,
    ) -> RoundEnd {
        let Some(response) = &answer.response else { return self.whole(at, answer, prepared, false) };
        let view = ResponseView { status: response.status, headers: &response.headers, body: &response.body };
        let named = at.step.named_errors(&self.context(row, progress), &prepared.entries, view);
        let status = response.status;
        if prepared.call.is_some() && !self.set_free(&prepared.members).await {
            let verdict = Verdict::Retry { code: format!("http_{status}") };
            return self.whole(at, Answer { verdict, ..answer }, prepared, false);
        }
        if named.iter().all(Option::is_none) {
            return RoundEnd::Refused(prepared.members, status);
        }
        let (mut others, mut wrong, mut errors) = (Vec::new(), Vec::new(), Vec::new());
        for (member, error) in prepared.members.into_iter().zip(named) {
            match error {
                Some(error) => {
                    wrong.push(member);
                    errors.push(ItemResult::Rejected(error));
                }
                None => others.push(member),
            }
        }
        self.items(at, &answer, Prepared { members: wrong, call: None, ..prepared }, errors);
        if others.is_empty() { RoundEnd::Over { taken: None } } else { RoundEnd::Without(others) }
    }

    /// The rows of a recorded call may go in others. Before any of them does: those that are left would go again under its key.
    async fn set_free(&self, members: &[Member]) -> bool {
        let freed: Vec<Held> = members.iter().map(|member| (member.lease.row, member.lease.token)).collect();
        let end = CallEnd { settled: &[], kept: &[], freed: &freed, over: false };
        match self.services.store.settle_call(&end, self.services.clock.now()).await {
            Ok(_) => true,
            Err(error) => {
                tracing::warn!(%error, rows = freed.len(), "failed to divide a refused call; it is made again");
                false
            }
        }
    }
}

/// Whether the rows of a recorded call may go with others after such an answer: it says that nothing was done, or what was. A wait or a
/// hold after a try without an answer says nothing about that try.
fn is_over(at: StepAt<'_>, verdict: &Verdict, resumed: bool) -> bool {
    match verdict {
        Verdict::Retry { .. } => false,
        Verdict::Throttled { .. } | Verdict::Hold { .. } => !resumed && at.look.is_none(),
        Verdict::Success => true,
        Verdict::Unknown { .. } | Verdict::Fail { .. } => at.look.is_none(),
    }
}

/// The row's own part of an answer.
fn item(answer: &Answer, response: &Response, result: ItemResult, call: RowInCall) -> ItemReply {
    let (found, rejected) = (result != ItemResult::Missing, matches!(result, ItemResult::Rejected(_)));
    let own = match result {
        ItemResult::Found(own) | ItemResult::Rejected(own) => own,
        ItemResult::Whole => {
            let response = response.share();
            let (ended_at, left_at) = (answer.ended_at, answer.left_at);
            return ItemReply { call, response, found, rejected, own: false, ended_at, left_at };
        }
        ItemResult::Missing => ItemAnswer::default(),
    };
    let is_own = own.status.is_some() || own.headers.is_some();
    let response = Response {
        status: own.status.unwrap_or(response.status),
        headers: own.headers.unwrap_or_else(|| response.headers.clone()),
        body: own.body.into(),
        bytes: response.bytes,
        memory: Reserved::default(),
        signature: response.signature.clone(),
    };
    let (ended_at, left_at) = (answer.ended_at, answer.left_at);
    ItemReply { call, response, found, rejected, own: is_own, ended_at, left_at }
}
