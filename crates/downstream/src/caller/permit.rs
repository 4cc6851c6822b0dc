//! The permit that a call needs: asked for, waited for, confirmed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use penstock_domain::limit::{self, Ask, Decision, Denied, Feedback, Reason};
use tokio::time::Instant;

use super::{Caller, Note, PATIENCE};
use crate::limiter::{CallLimits, Permit};
use crate::wait_queue::{Position, WaitQueue};

/// A permit that was granted for the end of the patience and refused then may be asked for again for this much longer.
const LAST_TRY: Duration = Duration::from_millis(500);

/// A call that took longer than this to record asks for another permit: its slot may end before the call does.
const RECORDED_WITHIN: Duration = Duration::from_millis(500);

/// Two questions are at least this far apart.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);

/// Makes a mark that lives as long as a call waits for a limit.
pub(super) type Waiting<'a> = &'a (dyn Fn() -> Box<dyn Send> + Sync);

/// Why a call has no permit.
pub(super) enum Refusal {
    /// A limit.
    Denied(Denied),
    /// It could not be recorded.
    NotRecorded,
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        Self::Denied(denied)
    }
}

/// What a call has with it while it waits for its permit.
struct PermitWait<'a> {
    /// The queue of the calls with the same value, or of the same owner, where such calls have limits of their own; and how far
    /// apart these calls are.
    own: Option<(Arc<WaitQueue>, Duration)>,
    /// What has to be recorded once there is a permit.
    note: Option<&'a dyn Note>,
    waiting: Waiting<'a>,
    mark: Option<Box<dyn Send>>,
    position: Option<Position>,
}

impl PermitWait<'_> {
    fn mark(&mut self) {
        self.mark.get_or_insert_with(self.waiting);
    }

    /// How long the call waits for a limit of its own. Where others wait for it already, it waits as long as those before it need.
    fn patience(&self, deadline: Instant) -> Duration {
        let Some((queue, apart)) = &self.own else { return Duration::ZERO };
        let left = deadline.saturating_duration_since(Instant::now()).min(PATIENCE);
        let others = queue.waiting().saturating_sub(usize::from(self.position.is_some()));
        let before = if self.position.is_some() { 0 } else { u32::try_from(others).unwrap_or(u32::MAX) };
        left.saturating_sub(apart.saturating_mul(before))
    }
}

impl Caller {
    /// A permit for a call here and now; waits for it as long as that is short.
    pub(super) async fn permit(
        &self,
        limits: &CallLimits,
        ask: &Ask,
        note: Option<&dyn Note>,
        waiting: Waiting<'_>,
    ) -> Result<Permit, Refusal> {
        let mut deadline = Instant::now() + PATIENCE + LAST_TRY;
        let queue = limits.slots().map(|slots| self.wait_queues.at(slots));
        let own = limits.own().map(|(key, apart)| (self.wait_queues.at((&key, 1)), limit::duration(apart)));
        let mut wait = PermitWait { own, note, waiting, mark: None, position: None };
        if let Some(queue) = queue.as_ref().filter(|queue| queue.waiting() > 0) {
            wait.mark();
            wait.position = Some(in_time(deadline, queue.position()).await?);
        }
        loop {
            // A token of its own for each try: a late report of an earlier one must not be taken for this one's.
            let token = self.tokens.fetch_add(1, Ordering::Relaxed) & 0x000F_FFFF_FFFF_FFFF;
            let patience_us = limit::micros(wait.patience(deadline));
            let ask = Ask { token, patience_us, ..*ask };
            let was_recorded = wait.note.is_none();
            let denied = match self.try_permit(limits, ask, &mut wait).await {
                Err(Refusal::Denied(denied)) => denied,
                ended => return ended,
            };
            if !was_recorded && wait.note.is_none() {
                // However long recording took, it was done for this call.
                deadline = Instant::now() + PATIENCE + LAST_TRY;
            }
            let pause = limit::duration(denied.retry_after).max(SHORTEST_PAUSE);
            if pause > PATIENCE || Instant::now() + pause > deadline {
                return Err(denied.into());
            }
            wait.mark();
            if let Some((own, _)) = wait.own.clone().filter(|_| denied.is_own()) {
                if wait.position.is_none() {
                    let behind_others = own.waiting() > 0;
                    // Who does not come to be the first in time asks once more, for a turn.
                    wait.position = tokio::time::timeout_at(deadline - LAST_TRY, own.position()).await.ok();
                    if behind_others && wait.position.is_some() {
                        // What it was told was before the others had their calls.
                        continue;
                    }
                }
                tokio::time::sleep(pause).await;
                continue;
            }
            match queue.as_ref().filter(|_| denied.reason == Reason::Concurrency) {
                Some(queue) if wait.position.is_none() => {
                    wait.position = Some(in_time(deadline, queue.position()).await?);
                }
                // The pause ends it in any case: most slots are released elsewhere.
                Some(queue) => drop(tokio::time::timeout(pause, queue.slot_freed()).await),
                None => tokio::time::sleep(pause).await,
            }
        }
    }

    /// Asks once. A call that has to be recorded asks for a moment that leaves time for that, and is recorded after everything
    /// that could refuse it was asked: a worker that dies while a row waits has not called for it. A call that is late all the
    /// same is not made, and asks again; it is recorded by then.
    async fn try_permit(
        &self,
        limits: &CallLimits,
        ask: Ask,
        wait: &mut PermitWait<'_>,
    ) -> Result<Permit, Refusal> {
        let lead = self.limiter.lead().await?;
        let recording_us = if wait.note.is_some() { self.recording.expected_us() } else { 0.0 };
        let ask = Ask { lead_us: lead.answer_us + recording_us, ..ask };
        self.uses.record(self.limiter.as_ref(), limits, self.clock.as_ref()).await?;
        let made = self.reserver.made();
        let (moment, slack, probe, confirm) = match self.limiter.acquire(limits, &ask).await {
            Decision::Granted { wait, slack, probe, confirm } => (wait, slack, probe, confirm),
            Decision::Denied(denied) => return Err(denied.into()),
            Decision::Unreserved { meter } => {
                self.reserver.reserve(self.limiter.as_ref(), limits, meter, made).await?;
                return Err(Denied::of_row(0.0, Reason::Rate).into());
            }
        };
        let answered = Instant::now();
        let permit = Permit { token: ask.token, limits: limits.clone(), probe };
        // While this one waits for its moment others in the queue may ask for later ones.
        wait.position = None;
        self.known.permitted(limits, probe);
        if moment > 0.0 {
            self.known.remember(limits, Reason::Rate, answered + limit::duration(moment), None);
            wait.mark();
        }
        let before = |lead_us: f64| tokio::time::sleep_until(answered + limit::duration(moment - lead_us));
        let mut refused = None;
        if confirm {
            let lead_us = lead.round_trip_us + recording_us;
            before(lead_us).await;
            refused = self.limiter.confirm(limits, &Ask { lead_us, ..ask }).await.err();
        }
        if refused.is_none()
            && let Some(note) = wait.note
        {
            before(recording_us).await;
            let began = Instant::now();
            if !note.write().await {
                self.return_unused(permit).await;
                return Err(Refusal::NotRecorded);
            }
            wait.note = None;
            let took = began.elapsed();
            self.recording.took(took);
            refused = (took > RECORDED_WITHIN).then_some(Denied::new(0.0, Reason::Late));
        }
        if refused.is_none() {
            before(0.0).await;
        }
        if refused.is_none() && limits.paced() {
            let by = limit::micros(answered.elapsed()) - moment - slack;
            refused = self.lateness.judge(by, &lead);
        }
        let Some(denied) = refused else { return Ok(permit) };
        self.return_unused(permit).await;
        Err(denied.into())
    }

    /// The call of a permit is not made.
    pub(super) async fn return_unused(&self, permit: Permit) {
        let unused = Feedback { probe: permit.probe, ..Feedback::default() };
        self.report(permit, unused).await;
    }
}

async fn in_time<T>(deadline: Instant, position: impl Future<Output = T>) -> Result<T, Denied> {
    let late = Denied::new(0.0, Reason::Concurrency);
    tokio::time::timeout_at(deadline, position).await.map_err(|_| late)
}
