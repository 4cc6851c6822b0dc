//! A step whose answers rows have in common: a row finds the answer, waits for another row's call, or asks for all of them.

use std::sync::Arc;
use std::time::Duration;

use penstock_domain::ids::LeaseToken;
use penstock_domain::outcome::{code, sentence};
use penstock_domain::pipeline::RowValues;
use penstock_domain::pipeline::cache::{Cache, CacheScope};
use penstock_domain::row::RowError;
use penstock_domain::time::Timestamp;
use penstock_store::answers::{AnswerEnd, AnswerOutcome, FoundAnswer, WantedAnswer};
use penstock_store::duplicates::KeyHash;
use penstock_store::work::{RowFailure, Settled};
use serde_json::Value;

use crate::context::secrets::SecretLocation;
use crate::telemetry::worker_counters::CacheLookup;
use crate::worker::answers::{Flight, FlightEnd, Known, Outputs, SharedFailure, end_of};
use crate::worker::kept_polls::Kept;
use crate::worker::progress::Progress;
use crate::worker::row::judge::StepResult;
use crate::worker::row::problem::Problem;
use crate::worker::row::settlement::requeued;
use crate::worker::row::task::{RowTask, StepAt};

/// A row waits for another one of its worker this long; then it goes back to the database.
const WAITS_HERE: Duration = Duration::from_secs(1);

/// A row that waits in the database looks again after half the time for which it has waited, between these.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// A row that is to ask again is waited for this much longer: a dispatcher may run once a minute.
const ASKS_AGAIN_WITHIN: Duration = Duration::from_secs(90);

/// How long rows that have waited for a call that failed find its failure.
const FAILURE_KEPT: Duration = Duration::from_secs(3600);

/// A row whose answer cannot be looked up is tried again after this time.
const LATER: Duration = Duration::from_secs(30);

/// What a row does about its answer.
enum Finding {
    /// It is there.
    Found(Outputs),
    /// The row is to ask.
    Asks(Question),
    /// The row ends here, or waits.
    Settled(Settled),
}

/// A row that asks for others.
struct Question {
    flight: Flight,
    token: LeaseToken,
}

impl RowTask<'_> {
    /// Carries out a step whose answers are kept.
    pub(super) async fn shared_step(
        &self,
        at: StepAt<'_>,
        cache: &Cache,
        kept: Option<Kept>,
        row: &RowValues,
        progress: &mut Progress,
    ) -> StepResult {
        let key = match self.answer_key(at, cache, row, progress).await {
            Ok(key) => key,
            Err(settled) => return StepResult::Settled(*settled),
        };
        // What is kept, or recorded with other rows, is of a question that the row asked before.
        if progress.call.is_some() || !matches!(kept, None | Some(Kept::Nothing)) {
            let result = self.called_step(at, kept, row, progress).await;
            return self.answered(at, cache, key, None, result, progress).await;
        }
        match self.skipped(at, row, progress) {
            Ok(false) => {}
            Ok(true) => return StepResult::Done,
            Err(settled) => return StepResult::Settled(*settled),
        }
        match self.find_answer(at, cache, &key, progress).await {
            Finding::Found(outputs) => {
                self.finish_step(at, outputs.as_ref().clone(), progress);
                StepResult::Done
            }
            Finding::Settled(settled) => StepResult::Settled(settled),
            Finding::Asks(question) => {
                let result = self.called_step(at, kept, row, progress).await;
                self.answered(at, cache, key, Some(question), result, progress).await
            }
        }
    }

    /// The key's hash. Another definition may make other outputs of an answer, so its answers are its own.
    async fn answer_key(
        &self,
        at: StepAt<'_>,
        cache: &Cache,
        row: &RowValues,
        progress: &mut Progress,
    ) -> Result<KeyHash, Box<Settled>> {
        let key = match at.step.cache_key(&self.context(row, progress)) {
            Ok(key) => key.unwrap_or_default(),
            Err(error) => {
                let problem = Problem::new(code::TEMPLATE_ERROR, error.to_string());
                return Err(Box::new(self.failed(at, problem, progress)));
            }
        };
        let pipeline = &self.work.pipeline;
        let batch = self.work.id;
        let of: &[u8] = match cache.scope {
            CacheScope::Batch => batch.as_bytes(),
            CacheScope::Owner => self.work.owner_name.as_bytes(),
            CacheScope::Pipeline => b"",
        };
        let scope = [cache.scope as u8];
        let parts = [
            scope.as_slice(),
            of,
            pipeline.name.as_bytes(),
            pipeline.version.as_bytes(),
            at.step.name.as_bytes(),
            key.as_bytes(),
        ];
        let hash = self.lookups.answer_hash(self.services, &parts, cache.scope).await;
        match hash {
            Ok(hash) => Ok(hash),
            Err(error) => {
                tracing::warn!(%error, batch = %batch, row = self.number(), "the key of the row's answer cannot be made");
                Err(Box::new(self.answered_later(at, progress)))
            }
        }
    }

    async fn find_answer(
        &self,
        at: StepAt<'_>,
        cache: &Cache,
        key: &KeyHash,
        progress: &mut Progress,
    ) -> Finding {
        let began = tokio::time::Instant::now();
        loop {
            if (self.draining)() {
                return Finding::Settled(self.awaits(at, Some(self.services.clock.now()), progress));
            }
            match self.lookups.answers.look(key, self.services.clock.now()) {
                Known::Kept(outputs) => return self.found(at, CacheLookup::Hit, outputs),
                Known::First(flight) => return self.find_stored(at, cache, key, flight, progress).await,
                Known::UnderWay(flight) => {
                    match self.wait_for_flight(end_of(flight), began, progress).await {
                        Ok(Some(FlightEnd::Kept(outputs))) => {
                            return self.found(at, CacheLookup::Waited, outputs);
                        }
                        Ok(Some(FlightEnd::Failed(failure))) => {
                            return Finding::Settled(self.shares(at, failure.as_ref().clone(), progress));
                        }
                        Ok(Some(FlightEnd::Later(until))) => {
                            return Finding::Settled(self.awaits(at, until, progress));
                        }
                        // It ended without a word: another one goes on.
                        Ok(Some(FlightEnd::UnderWay) | None) => {}
                        Err(_) => return Finding::Settled(self.awaits(at, None, progress)),
                    }
                }
            }
        }
    }

    /// Waits for another row's call. That one may wait for rows that go with it: not for those that wait for it.
    async fn wait_for_flight<E>(
        &self,
        end: impl Future<Output = E>,
        began: tokio::time::Instant,
        progress: &mut Progress,
    ) -> Result<E, tokio::time::error::Elapsed> {
        let _rides = (self.rides)();
        if let Some(coming) = &mut progress.coming {
            coming.is_elsewhere();
        }
        let end = tokio::time::timeout_at(began + WAITS_HERE, end).await;
        if let Some(coming) = &mut progress.coming {
            coming.goes_on();
        }
        end
    }

    fn found(&self, at: StepAt<'_>, lookup: CacheLookup, outputs: Outputs) -> Finding {
        self.lookups.count(self.work, at.stored_index(), lookup);
        Finding::Found(outputs)
    }

    /// What the database knows; the row goes on for others of its worker.
    async fn find_stored(
        &self,
        at: StepAt<'_>,
        cache: &Cache,
        key: &KeyHash,
        flight: Flight,
        progress: &mut Progress,
    ) -> Finding {
        let token = self.services.id_generator.lease_token();
        let mut wanted = WantedAnswer {
            key: *key,
            of_batch: self.of_batch(cache),
            row: self.lease.row,
            token,
            waits_since: progress.awaits_since(&at.step.name),
            unreadable: false,
        };
        loop {
            match self.lookups.answers.find(wanted).await {
                Some(FoundAnswer::Kept { sealed, expires_at }) => {
                    let Some(outputs) = self.open_answer(cache, key, "answer", &sealed) else {
                        // Another one is needed, and this row asks for it.
                        wanted.unreadable = true;
                        continue;
                    };
                    let outputs = Arc::new(outputs);
                    flight.kept(&outputs, expires_at);
                    let waited = wanted.waits_since.is_some();
                    return self.found(
                        at,
                        if waited { CacheLookup::Waited } else { CacheLookup::Hit },
                        outputs,
                    );
                }
                Some(FoundAnswer::Failed { sealed }) => {
                    let Some(failure) = self.open_answer::<SharedFailure>(cache, key, "failure", &sealed)
                    else {
                        wanted.waits_since = None;
                        continue;
                    };
                    flight.ended(FlightEnd::Failed(Arc::new(failure.clone())));
                    return Finding::Settled(self.shares(at, failure, progress));
                }
                Some(FoundAnswer::Ask) => {
                    self.lookups.count(self.work, at.stored_index(), CacheLookup::Asked);
                    progress.awaits = None;
                    return Finding::Asks(Question { flight, token });
                }
                Some(FoundAnswer::Awaited { until }) => {
                    // It is waited for longer than until it may ask again.
                    let until = until.map(|until| until - ASKS_AGAIN_WITHIN);
                    flight.ended(FlightEnd::Later(until));
                    return Finding::Settled(self.awaits(at, until, progress));
                }
                None => return Finding::Settled(self.answered_later(at, progress)),
            }
        }
    }

    /// What came of the row's question, for all that wait for it.
    async fn answered(
        &self,
        at: StepAt<'_>,
        cache: &Cache,
        key: KeyHash,
        question: Option<Question>,
        result: StepResult,
        progress: &Progress,
    ) -> StepResult {
        let now = self.services.clock.now();
        let (flight, token) = question.map(|question| (question.flight, question.token)).unzip();
        let (outcome, end) = match &result {
            StepResult::Done => {
                let outputs = progress.outputs.get(&at.step.name).and_then(Value::as_object);
                let outputs: Outputs = Arc::new(outputs.cloned().unwrap_or_default());
                let expires_at = now + cache.ttl;
                let sealed = self.seal_answer(cache, &key, "answer", outputs.as_ref());
                // Those that wait here need not wait for the database.
                if let Some(flight) = flight {
                    flight.kept(&outputs, expires_at);
                }
                let kept = sealed.map(|sealed| AnswerOutcome::Kept { sealed, expires_at });
                return self
                    .end_question(cache, key, token, kept.unwrap_or(AnswerOutcome::NotAsked), result)
                    .await;
            }
            StepResult::Settled(settled) => self.not_answered(cache, &key, settled, now),
            StepResult::LeaseLost => (AnswerOutcome::NotAsked, None),
        };
        let result = self.end_question(cache, key, token, outcome, result).await;
        // Without a word another row goes on.
        if let Some((flight, end)) = flight.zip(end) {
            flight.ended(end);
        }
        result
    }

    async fn end_question(
        &self,
        cache: &Cache,
        key: KeyHash,
        token: Option<LeaseToken>,
        outcome: AnswerOutcome,
        result: StepResult,
    ) -> StepResult {
        let of_batch = self.of_batch(cache);
        self.lookups.answers.end(AnswerEnd { key, of_batch, row: self.lease.row, token, outcome }).await;
        result
    }

    /// What rows that wait learn when the row that asked has no answer.
    fn not_answered(
        &self,
        cache: &Cache,
        key: &KeyHash,
        settled: &Settled,
        now: Timestamp,
    ) -> (AnswerOutcome, Option<FlightEnd>) {
        match settled {
            Settled::Failed(failure) => {
                let shared = self.shared_failure(failure);
                let Some((shared, sealed)) = shared.and_then(|shared| {
                    let sealed = self.seal_answer(cache, key, "failure", &shared)?;
                    Some((shared, sealed))
                }) else {
                    return (AnswerOutcome::NotAsked, None);
                };
                let outcome = AnswerOutcome::Failed { sealed, at: now, expires_at: now + FAILURE_KEPT };
                (outcome, Some(FlightEnd::Failed(Arc::new(shared))))
            }
            Settled::Requeued { not_before, attempt, trouble, polling, hold: None, .. }
                if *attempt || *polling || is_throttled(trouble.as_ref()) =>
            {
                let until = (*not_before).max(now) + ASKS_AGAIN_WITHIN;
                (AnswerOutcome::AsksAgain { until }, Some(FlightEnd::Later(Some(*not_before))))
            }
            _ => (AnswerOutcome::NotAsked, None),
        }
    }

    /// A failure that is the call's, so that other rows' calls would end the same; none: it is the row's own.
    fn shared_failure(&self, failure: &RowFailure) -> Option<SharedFailure> {
        let own = [code::TEMPLATE_ERROR, code::FORBIDDEN_URL, code::DEADLINE_EXCEEDED, code::INTERNAL_ERROR];
        if own.contains(&failure.code.as_str()) {
            return None;
        }
        let location = SecretLocation::Error(self.number());
        let error: RowError = self.work.secrets.open_json(location, failure.error.as_ref()?).ok()?;
        Some(SharedFailure {
            code: failure.code.clone(),
            api_code: failure.api_code.as_deref().map(str::to_owned),
            http_status: failure.http_status,
            message: error.message,
            detail: error.detail,
        })
    }

    /// The row fails as the one that it waited for.
    fn shares(&self, at: StepAt<'_>, failure: SharedFailure, progress: &mut Progress) -> Settled {
        self.lookups.count(self.work, at.stored_index(), CacheLookup::SharedFailure);
        let SharedFailure { code, api_code, http_status, message, detail } = failure;
        let problem = Problem { api_code, http_status, detail, ..Problem::new(&code, message) };
        progress.awaits = None;
        self.failed(at, problem, progress)
    }

    /// The row waits for another row's call, in the database: it holds neither slot nor lease.
    fn awaits(&self, at: StepAt<'_>, until: Option<Timestamp>, progress: &mut Progress) -> Settled {
        let now = self.services.clock.now();
        let since = progress.awaits_since(&at.step.name).unwrap_or(now);
        progress.awaits = Some((at.step.name.clone(), since));
        progress.polling = true;
        let pause = (now.since(since) / 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        // Rows that wait for one answer do not come back all at once.
        let pause = pause.mul_f64(1.0 + self.services.id_generator.unit() / 2.0);
        let not_before = until.map_or(now + pause, |until| until.max(now + pause));
        let code = code::ANSWER_AWAITED;
        let failure = self.uncounted(at, Problem::new(code, sentence(code)), progress);
        let expiry = progress.expiry(&self.work.pipeline.retry, &at.step.name);
        requeued(not_before, false, Some(failure), std::mem::take(&mut progress.receipts), expiry)
    }

    /// The database did not answer what was asked of it.
    fn answered_later(&self, at: StepAt<'_>, progress: &mut Progress) -> Settled {
        self.not_called(at, self.services.clock.now() + LATER, None, progress)
    }
}

fn is_throttled(failure: Option<&RowFailure>) -> bool {
    failure.is_some_and(|failure| failure.code == code::THROTTLED && failure.http_status.is_some())
}
