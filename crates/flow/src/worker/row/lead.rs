//! The row that leads makes a bulk call for all that have gathered: it waits for company, calls, divides a call that was refused as a
//! whole, and gives each row its part of the answer.

use std::sync::Arc;
use std::time::Duration;

use penstock_domain::ids::CallId;
use penstock_domain::outcome::{Repetition, code};
use penstock_domain::pipeline::bulk::Search;
use penstock_domain::pipeline::{Entry, RenderedRequest, RowContext, RowInCall, RowValues, Target};
use penstock_domain::time::Timestamp;
use penstock_downstream::{Demand, Note, Reserved, Spend};
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::crash;
use crate::worker::bulk::Together;
use crate::worker::bulk::gather::{Gathering, Key, Mates, Member, Replied, Reply};
use crate::worker::progress::Progress;
use crate::worker::row::answer::{Answer, NotMade};
use crate::worker::row::poll::poll_ends;
use crate::worker::row::render::forbidden;
use crate::worker::row::task::{RowTask, StepAt};

/// How often a row that leads looks whether the worker drains.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How often it asks the database whether more rows of the batch can come.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// Rows that make a call together.
struct Round {
    members: Vec<Member>,
    /// The call that they were recorded for, and claimed together.
    recorded: Option<CallId>,
}

/// What came of a round.
pub(super) enum RoundEnd {
    /// All of its rows have their replies. `taken` is how many were in a call that was not refused as a whole.
    Over { taken: Option<usize> },
    /// The call was refused as a whole, with this status.
    Refused(Vec<Member>, u16),
    /// The call of a single row was refused with such a status, and it has its reply.
    Wrong,
    /// The call was refused because of rows that its answer names; the others go again.
    Without(Vec<Member>),
}

/// A call that is ready to be made.
pub(super) struct Prepared {
    pub(super) members: Vec<Member>,
    pub(super) entries: Vec<Entry>,
    pub(super) key: Option<String>,
    pub(super) call: Option<CallId>,
    /// Whether it is recorded before it is made.
    pub(super) is_new: bool,
    /// Whether the call was made before, and nobody knows what came of it.
    pub(super) resumed: bool,
}

impl RowTask<'_> {
    /// Makes the calls for all rows of a gathering, this one among them.
    pub(super) async fn lead(
        &self,
        at: StepAt<'_>,
        row: &RowValues,
        key: &Key,
        gathering: &Arc<Gathering>,
        progress: &Progress,
    ) {
        let mark = (self.limited)();
        let members = self.gathered(at, key, gathering).await;
        drop(mark);
        let recorded = match key {
            Key::Recorded(call) => Some(*call),
            Key::Fresh(..) => None,
        };
        if let Some(call) = recorded.filter(|_| members.len() < gathering.wanted) {
            return self.reply_apart(at, members, call);
        }
        let full = at.step.rows_per_call();
        let (step, sizes) = ((self.work.pipeline.version, at.index), &self.gatherer.sizes);
        let (mut search, mut recorded) = (Search::new(members), recorded);
        loop {
            // A recorded call is made with exactly its rows.
            let most = if recorded.is_some() { usize::MAX } else { self.most_rows(at) };
            let Some(members) = search.next(most, sizes.largest(step)) else { return };
            let round = Round { members, recorded: recorded.take() };
            match self.round(at, row, round, progress).await {
                RoundEnd::Over { taken: None } => search.ended(),
                RoundEnd::Over { taken: Some(taken) } => {
                    sizes.taken(step, taken, full);
                    if let Some(refusal) = search.taken(taken) {
                        sizes.too_large(step, refusal);
                    }
                }
                RoundEnd::Wrong => {
                    sizes.wrong(step, full);
                    search.ended();
                }
                RoundEnd::Without(members) => search.left_over(members),
                RoundEnd::Refused(members, status) => search.refused(members, status),
            }
        }
    }

    /// Not all rows of a recorded call have come.
    fn reply_apart(&self, at: StepAt<'_>, members: Vec<Member>, call: CallId) {
        let not_made = match self.gatherer.mates(call) {
            Mates::Broken if !(self.draining)() => {
                return self.reply_all(members, Some(call), at.deletes_incomplete_call(), || Reply::Broken);
            }
            Mates::Requeued(until) => NotMade::NotAlone(until),
            Mates::Coming | Mates::Broken => NotMade::NotNow,
        };
        self.reply_all(members, Some(call), false, || Reply::NotMade(not_made.clone()));
    }

    /// Waits until the call is full, or nobody else comes in time.
    async fn gathered(&self, at: StepAt<'_>, key: &Key, gathering: &Arc<Gathering>) -> Vec<Member> {
        let wait = at.step.bulk.as_ref().map(|bulk| bulk.max_wait).unwrap_or_default();
        let until = Instant::now() + wait;
        let mut ask_at = Instant::now();
        while !gathering.is_full() && !(self.draining)() {
            let now = Instant::now();
            let mut pause = LOOK_AGAIN;
            match key {
                Key::Recorded(call) if self.gatherer.mates(*call) != Mates::Coming => break,
                Key::Recorded(_) => {}
                Key::Fresh(..) if now >= until => break,
                Key::Fresh(_, _, alike) => {
                    pause = pause.min(until - now);
                    if now >= ask_at && (self.company)() == 0 && self.gatherer.coming(self.work.seq) == 0 {
                        // While rows of dead workers run, nobody else begins.
                        if alike.crashes > 0 || self.nobody_waits().await {
                            break;
                        }
                        ask_at = Instant::now() + ASK_AGAIN;
                    }
                }
            }
            // A row that joins ends the pause.
            let _ = tokio::time::timeout(pause, gathering.changed()).await;
        }
        self.gatherer.close(key, gathering)
    }

    /// Whether no row of the batch waits anywhere, so that none can come.
    async fn nobody_waits(&self) -> bool {
        match self.services.store.batches_by_seq(&[self.work.seq]).await {
            Ok(batches) => batches.first().is_some_and(|batch| {
                let counts = &batch.ledger.counts;
                counts.pending == 0 && counts.queued == 0
            }),
            Err(error) => {
                tracing::debug!(%error, "failed to read a batch's counters; a call waits for company");
                false
            }
        }
    }

    /// One call, as far as it can be made.
    async fn round(&self, at: StepAt<'_>, row: &RowValues, round: Round, progress: &Progress) -> RoundEnd {
        let over = RoundEnd::Over { taken: None };
        if (self.draining)() || self.is_held(progress) {
            self.reply_all(round.members, round.recorded, false, || Reply::NotMade(NotMade::NotNow));
            return over;
        }
        if let Some(reply) = self.look_is_not_made(at, progress) {
            self.reply_all(round.members, round.recorded, false, reply);
            return over;
        }
        let Some(prepared) = self.prepare(at, round) else { return over };
        let row = row.in_call(RowInCall { key: prepared.key.clone(), ..RowInCall::default() });
        let context = self.context(&row, progress);
        let request = match at.look {
            Some(kept) => at.step.look(&context, kept.target.as_deref().map(Target::from_kept)),
            None => at.step.bulk_request(&context, &prepared.entries),
        };
        let unsendable = match &request {
            Ok(request) => forbidden(at.step, &request.target, self.dependency(at)),
            Err(error) => Some((code::TEMPLATE_ERROR, error.to_string())),
        };
        let request = match (request, unsendable) {
            (Ok(request), None) => request,
            (_, unsendable) => {
                let (code, message) = unsendable.unwrap_or_default();
                let Prepared { members, call, resumed, .. } = prepared;
                self.reply_all(members, call, resumed, || Reply::Unsendable(code, message.clone()));
                return over;
            }
        };
        let spend = sum(at, &prepared.members);
        match self.bulk_call(at, &row, request, &spend, &prepared, progress).await {
            Ok(answer) => {
                crash::point(crash::AFTER_CALL);
                self.correct(at, &row, &spend, &answer, progress).await;
                self.bulk_answered(at, &row, answer, prepared, progress).await
            }
            Err(not_made) => {
                self.reply_all(prepared.members, prepared.call, false, || Reply::NotMade(not_made.clone()));
                over
            }
        }
    }

    /// Why a look at the result of a call is not made now.
    fn look_is_not_made(&self, at: StepAt<'_>, progress: &Progress) -> Option<fn() -> Reply> {
        let next = at.look?.next?;
        let now = self.services.clock.now();
        if poll_ends(at, progress).is_some_and(|end| now >= end && next >= end) {
            return Some(|| Reply::TimedOut);
        }
        (next > now).then_some(|| Reply::NotDue)
    }

    /// The entries of a call's rows. Rows of which none can be made have their replies.
    fn prepare(&self, at: StepAt<'_>, round: Round) -> Option<Prepared> {
        if round.recorded.is_some() && round.members.iter().any(|member| member.lease.is_lost()) {
            // Whoever has that row now has the whole call.
            self.reply_all(round.members, round.recorded, false, || Reply::NotMade(NotMade::NotNow));
            return None;
        }
        let is_new = round.recorded.is_none() && at.look.is_none() && is_recorded(at);
        let call = round.recorded.or_else(|| is_new.then(|| self.services.id_generator.call_id()));
        let key = call.filter(|_| at.step.keyed && at.look.is_none()).map(|call| call.0.to_string());
        let (rows, resumed) = (round.members.len(), round.recorded.is_some() && at.look.is_none());
        let (members, entries) = Default::default();
        let mut prepared = Prepared { members, entries, key, call, is_new, resumed };
        for member in round.members {
            if member.lease.is_lost() {
                send(member, Reply::LeaseLost, None, None);
                continue;
            }
            let index = prepared.members.len();
            let values = member.values.in_call(RowInCall { index, key: prepared.key.clone(), whole: None });
            let now = self.services.clock.now();
            let entry = at.step.entry(&RowContext { values: &values, steps: &member.outputs, now });
            match entry {
                Ok(entry) => {
                    prepared.entries.push(entry);
                    prepared.members.push(member);
                }
                Err(error) => {
                    let reply = Reply::Unsendable(code::TEMPLATE_ERROR, error.to_string());
                    send(member, reply, None, None);
                }
            }
        }
        if prepared.members.len() < rows && round.recorded.is_some() {
            self.reply_all(prepared.members, round.recorded, at.deletes_incomplete_call(), || Reply::Broken);
            return None;
        }
        Some(prepared).filter(|prepared| !prepared.members.is_empty())
    }

    /// Makes the call when the leases of all of its rows cover it and its permit has come.
    async fn bulk_call(
        &self,
        at: StepAt<'_>,
        row: &RowValues,
        request: RenderedRequest,
        spend: &Spend,
        prepared: &Prepared,
        progress: &Progress,
    ) -> Result<Answer, NotMade> {
        let timeout = self.timeout(at);
        let span = self.call_span(at, &request);
        // A call that nobody may repeat is recorded for each try: a settlement between two tries takes the record of the first.
        let harmful = at.look.is_none() && at.step.repetition() == Repetition::Harmful;
        let recording = prepared
            .call
            .filter(|_| prepared.is_new || harmful)
            .map(|call| self.recording(at, call, &prepared.members));
        let demand = Demand {
            note: recording.as_ref().map(|recording| recording as &dyn Note),
            ..self.demand(at, row, spend.clone(), progress, &span)
        };
        self.lease.covered(timeout, self.draining).await;
        let covers = |member: &Member| member.lease.covers(timeout);
        let covered = || prepared.members.iter().all(covers) && !self.is_held(progress);
        let sent = (request.method, self.work.secret_values.masked(request.target.path()));
        let called =
            self.caller.call(&demand, request, &covered, self.limited).instrument(span.clone()).await;
        self.observed(at, called, &sent, &span)
    }

    /// Gives all rows the same reply. A recorded call that is `over` is settled as one, and its rows may go with others.
    fn reply_all(&self, members: Vec<Member>, call: Option<CallId>, over: bool, reply: impl Fn() -> Reply) {
        let parts = if over {
            Together::of(members.len(), true, &self.gatherer.writer, Reserved::default())
        } else {
            Vec::new()
        };
        let (mut parts, began) = (parts.into_iter(), call.map(|_| first_claimed(&members)));
        for member in members {
            send(member, reply(), parts.next(), began);
        }
    }
}

/// Whether a step's call is recorded with its rows before it is made: it must not be made twice with others, or at all, or it has a
/// result for all of them that is waited for.
pub(super) fn is_recorded(at: StepAt<'_>) -> bool {
    at.step.keyed || at.step.poll.is_some() || at.step.repetition() == Repetition::Harmful
}

/// What a call takes of limits: what its step says once, what its rows say in all.
fn sum(at: StepAt<'_>, members: &[Member]) -> Spend {
    let mut spends = members.iter().map(|member| &member.spend);
    let mut whole = spends.next().cloned().unwrap_or_else(|| Spend::of(at.step.cost));
    if at.step.costs.are_fixed() {
        return whole;
    }
    for spend in spends {
        whole.cost = whole.cost.saturating_add(spend.cost);
        for (name, cost) in &spend.named {
            if let Some((_, sum)) = whole.named.iter_mut().find(|(other, _)| other == name) {
                *sum = sum.saturating_add(*cost);
            }
        }
    }
    whole
}

/// When the first attempt of any of the rows began.
pub(super) fn first_claimed(members: &[Member]) -> Timestamp {
    members.iter().map(|member| member.first_claimed_at).min().unwrap_or_default()
}

/// The row's task may be gone.
pub(super) fn send(
    member: Member,
    reply: Reply,
    together: Option<Together>,
    first_claimed_at: Option<Timestamp>,
) {
    let _ = member.reply.send(Replied { reply, together, first_claimed_at });
}
