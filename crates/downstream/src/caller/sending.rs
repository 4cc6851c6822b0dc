//! A call that may be made: its token, its signature, and once more with a fresh token.

use std::time::Duration;

use hyper::header::HeaderValue;
use penstock_domain::limit::{self, Denied, Feedback, Reason};
use penstock_domain::outcome::{Happened, Verdict};
use penstock_domain::pipeline::{Auth, Dependency, OAuth2, SecretValues};
use tokio::time::Instant;

use super::budgets::{End, NotNow, PartAsked, Taken};
use super::call_waits::{WaitsFor, Whose};
use super::permit::{Refusal, Waiting};
use super::{Called, Caller, Demand};
use crate::budget::{self, Budget};
use crate::client::{Prepared, Sent};
use crate::credentials::oauth2::{Asked, Fetching, Token};
use crate::limiter::{CallLimits, Permit};
use crate::reported_windows::WindowAsk;
use crate::response::Response;

/// A row waits so long for more of what an API says is left; for a longer wait it is requeued.
const BUDGET_PATIENCE: Duration = Duration::from_secs(10);

/// How often a call waits for another moment because its token has ended meanwhile.
const TOKEN_TRIES: u32 = 4;

/// What a call is made with.
pub(super) struct Outgoing<'a> {
    pub(super) limits: &'a CallLimits,
    pub(super) ask: limit::Ask,
    pub(super) covered: &'a (dyn Fn() -> bool + Sync),
    pub(super) waiting: Waiting<'a>,
}

/// What came of a call that was made.
pub(super) struct Made<'a> {
    pub(super) permit: Permit,
    /// The call of what the API says is left.
    pub(super) taken: Taken<'a>,
    pub(super) sent: Sent,
    pub(super) elapsed: Duration,
    /// The token that it was made with.
    token: Option<Token>,
}

/// How one call is made.
#[derive(Clone, Copy)]
struct Send<'a> {
    /// Where its token comes from.
    auth: Option<&'a OAuth2>,
    /// Whether it was made before, and answered 401.
    again: bool,
}

impl Made<'_> {
    fn is_unauthorized(&self) -> bool {
        matches!(self.sent.happened, Happened::Answer { status: 401, .. })
    }
}

impl Caller {
    /// Makes a call when its limits allow it. With a token of an endpoint a 401 is followed by one fresh token and one more
    /// call: the answer says that nothing was done (RFC 6750, 3.1).
    pub(super) async fn send(
        &self,
        demand: &Demand<'_>,
        request: Prepared,
        outgoing: &Outgoing<'_>,
    ) -> Result<Made<'_>, Called> {
        let Some(Auth::OAuth2(auth)) = &demand.dependency.auth else {
            if !is_signed(demand.dependency) {
                // They could be read. A token is another matter, and a signature is made of each call.
                self.waits.over(Whose::credentials(demand), WaitsFor::Credentials);
            }
            return self
                .send_once(demand, request, outgoing, Send { auth: None, again: false })
                .await?
                .ok_or(Called::NotCovered);
        };
        let once = Send { auth: None, again: false };
        if self.client.stage.as_ref().is_some_and(|stage| stage.is_offline()) {
            let mut request = request;
            request.authorize(HeaderValue::from_static("Bearer token"));
            return self.send_once(demand, request, outgoing, once).await?.ok_or(Called::NotCovered);
        }
        let made = self.send_with_token(demand, &request, outgoing, auth, false).await?;
        let fetching = self.fetching(demand.dependency, auth);
        let is_refused = |made: &Made<'_>, fresh: bool| {
            let Some(token) = &made.token else { return false };
            if !made.is_unauthorized() {
                // No answer at all says nothing about it.
                if made.sent.response.is_some() {
                    token.was_accepted();
                }
                return false;
            }
            self.access_tokens.refused(&fetching, token, fresh)
        };
        if !is_refused(&made, false) {
            return Ok(made);
        }
        self.answered_401(demand, made).await;
        let made = self.send_with_token(demand, &request, outgoing, auth, true).await?;
        is_refused(&made, true);
        Ok(made)
    }

    /// Makes a call with a token that is valid when the call leaves: it may have waited for its moment for longer than a token
    /// lives, and waits for another moment then.
    async fn send_with_token(
        &self,
        demand: &Demand<'_>,
        request: &Prepared,
        outgoing: &Outgoing<'_>,
        auth: &OAuth2,
        again: bool,
    ) -> Result<Made<'_>, Called> {
        for _ in 0..TOKEN_TRIES {
            self.token(demand, auth, Instant::now()).await?;
            let how = Send { auth: Some(auth), again };
            if let Some(made) = self.send_once(demand, request.clone(), outgoing, how).await? {
                return Ok(made);
            }
        }
        let reason = "a token ends before a call can leave";
        Err(self.no_credentials(demand, reason, super::CREDENTIALS_AFTER))
    }

    /// The first of two calls is over, as far as the limits know.
    async fn answered_401(&self, demand: &Demand<'_>, made: Made<'_>) {
        let name = &demand.dependency.name;
        let verdict = Verdict::Retry { code: "http_401".to_owned() };
        self.metrics.count(name, |metrics| metrics.called(&verdict, Some(401), made.elapsed));
        made.taken.ended(self.end_of(demand.dependency, made.sent.response.as_ref(), false));
        let feedback = Feedback {
            healthy: Some(true),
            probe: made.permit.probe,
            past: demand.past,
            elapsed: limit::micros(made.elapsed),
            ..Feedback::default()
        };
        self.report(made.permit, feedback).await;
    }

    fn fetching<'a>(&'a self, dependency: &'a Dependency, auth: &'a OAuth2) -> Fetching<'a> {
        let (files, transports) = (&self.client.files, &self.client.transports);
        Fetching { dependency, auth, files, transports, clock: &self.clock }
    }

    /// Secret values, with what files hold now and the token that calls leave with.
    pub fn secret_values(&self, dependency: &Dependency, known: &SecretValues) -> SecretValues {
        let mut all = known.with_files(&*self.client.files);
        if let Some(Auth::OAuth2(auth)) = &dependency.auth
            && let Some(token) = self.access_tokens.current(&self.fetching(dependency, auth))
            && let Ok(value) = token.value.to_str()
        {
            all.add(value.trim_start_matches("Bearer "));
        }
        all
    }

    async fn token(&self, demand: &Demand<'_>, auth: &OAuth2, began: Instant) -> Result<Token, Called> {
        let dependency = demand.dependency;
        match self.access_tokens.token(&self.fetching(dependency, auth), began).await {
            Asked::Token(token) => {
                self.waits.over(Whose::credentials(demand), WaitsFor::Credentials);
                Ok(token)
            }
            Asked::Fails { after, reason } => Err(self.no_credentials(demand, &reason, after)),
            Asked::Refused(refusal) => {
                self.failures
                    .log_credentials(dependency, &format!("the token endpoint refuses: {}", refusal.code));
                Err(Called::Refused(refusal))
            }
        }
    }

    /// One call of what the API says is left. A short wait for more is waited out.
    async fn budget(&self, demand: &Demand<'_>, outgoing: &Outgoing<'_>) -> Result<Taken<'_>, Denied> {
        let key = outgoing.limits.pause_key();
        let owned = outgoing.limits.pauses_owner() || demand.dependency.base_url.fragment().is_some();
        let whose = Whose { dependency: demand.dependency, owner: owned.then_some(demand.owner) };
        let deadline = Instant::now() + BUDGET_PATIENCE;
        let mut mark = None;
        loop {
            let wait = match self.take_of_budget(key).await {
                Ok(taken) => {
                    self.waits.over(whose, WaitsFor::Budget);
                    return Ok(taken);
                }
                Err(NotNow::Unavailable(wait)) => {
                    return Err(Denied::new(limit::micros(wait), Reason::Unavailable));
                }
                Err(
                    NotNow::Wait(wait) | NotNow::Ask(PartAsked { ask: WindowAsk { ends_in: wait, .. }, .. }),
                ) => wait,
            };
            let now = self.clock.now();
            let sentence = || {
                let name = &demand.dependency.name;
                format!("`{name}` said how many calls are left of its limit, and these are used up")
            };
            self.waits.note(whose, WaitsFor::Budget, sentence, (now, now + wait));
            if Instant::now() + wait > deadline {
                return Err(Denied::new(limit::micros(wait), Reason::Paused));
            }
            mark.get_or_insert_with(outgoing.waiting);
            tokio::time::sleep(wait).await;
        }
    }

    /// One call of a budget, for which a part of its window is asked for when none is left here.
    async fn take_of_budget(&self, key: &str) -> Result<Taken<'_>, NotNow> {
        loop {
            match Taken::of(&self.budgets, key) {
                Err(NotNow::Ask(_)) => {}
                taken => return taken,
            }
            let asking = self.budgets.asking(key);
            let _alone = asking.lock().await;
            // Whoever waited here may find what another call has asked for.
            match Taken::of(&self.budgets, key) {
                Err(NotNow::Ask(asked)) => {
                    let part = self.limiter.take_of_window(key, &asked.ask).await;
                    self.budgets.received(key, &asked, part);
                }
                taken => return taken,
            }
        }
    }

    /// What a call needs to leave: a call of what the API says is left, and a permit. `again`: it was made before, and recorded then.
    async fn allowed(
        &self,
        demand: &Demand<'_>,
        outgoing: &Outgoing<'_>,
        again: bool,
    ) -> Result<(Taken<'_>, Permit), Called> {
        let denied = |denied| self.denied(demand.dependency, outgoing.limits, denied);
        let mut note = demand.note.filter(|_| !again);
        loop {
            let taken = self.budget(demand, outgoing).await.map_err(denied)?;
            let permit =
                match self.permit(outgoing.limits, &outgoing.ask, note.take(), outgoing.waiting).await {
                    Ok(permit) => permit,
                    Err(Refusal::Denied(reason)) => return Err(denied(reason)),
                    Err(Refusal::NotRecorded) => return Err(Called::NotCovered),
                };
            if !taken.is_outdated() {
                return Ok((taken, permit));
            }
            drop(taken);
            if let Ok(taken) = self.take_of_budget(outgoing.limits.pause_key()).await {
                return Ok((taken, permit));
            }
            // The permit would be held for as long as the window lasts.
            self.return_unused(permit).await;
        }
    }

    /// One call. None: its token has ended while it waited.
    async fn send_once(
        &self,
        demand: &Demand<'_>,
        request: Prepared,
        outgoing: &Outgoing<'_>,
        how: Send<'_>,
    ) -> Result<Option<Made<'_>>, Called> {
        let dependency = demand.dependency;
        let asked_at = Instant::now();
        let (taken, permit) = self.allowed(demand, outgoing, how.again).await?;
        self.metrics.count(&dependency.name, |metrics| metrics.waited.took(asked_at.elapsed()));
        if !(outgoing.covered)() {
            self.return_unused(permit).await;
            return Err(Called::NotCovered);
        }
        // It may have closed while the call waited for its moment.
        if let Some(closed) = self.closed(dependency, outgoing.limits) {
            self.return_unused(permit).await;
            return Err(closed);
        }
        let mut request = request;
        let token = how.auth.map(|auth| self.access_tokens.current(&self.fetching(dependency, auth)));
        match &token {
            Some(Some(token)) => request.authorize(token.value.clone()),
            Some(None) => {
                self.return_unused(permit).await;
                return Ok(None);
            }
            None => {}
        }
        let signature = match self.signed(demand, &mut request) {
            Ok(signature) => signature,
            Err(not_called) => {
                self.return_unused(permit).await;
                return Err(not_called);
            }
        };
        let sent_at = Instant::now();
        let mut sent = request.send(self.clock.as_ref(), demand.answer).await;
        if let Some(response) = &mut sent.response {
            response.signature = signature;
        }
        let elapsed = sent.ended_at.duration_since(sent_at);
        Ok(Some(Made { permit, taken, sent, elapsed, token: token.flatten() }))
    }

    /// Signs a request where its dependency wants that; what its signature is.
    fn signed(&self, demand: &Demand<'_>, request: &mut Prepared) -> Result<Vec<String>, Called> {
        let Some(auth) = demand.dependency.auth.as_ref().filter(|_| is_signed(demand.dependency)) else {
            return Ok(Vec::new());
        };
        let signed = request.sign(auth, &*self.client.files, self.clock.now());
        let signature =
            signed.map_err(|reason| self.no_credentials(demand, &reason, super::CREDENTIALS_AFTER))?;
        self.waits.over(Whose::credentials(demand), WaitsFor::Credentials);
        Ok(signature)
    }

    /// What an answer says of the calls that are left. `throttled` says whether the definition takes it for a refusal, too.
    pub(super) fn end_of(
        &self,
        dependency: &Dependency,
        response: Option<&Response>,
        throttled: bool,
    ) -> End {
        let Some(response) = response else { return End::NoAnswer };
        let of_all = |budget: &Budget| !is_of_one_value(dependency, budget);
        let budget = budget::read(&response.headers, self.clock.now(), of_all);
        if throttled || matches!(response.status, 429 | 503 | 529) {
            return End::Refused(budget);
        }
        budget.map_or(End::Silent, End::Reported)
    }
}

/// Whether an answer tells of the limit of one value, such as a channel's own: by its size it is one that the definition has for each
/// value, and no other. Calls with other values have nothing to do with it.
fn is_of_one_value(dependency: &Dependency, budget: &Budget) -> bool {
    let Some(quota) = budget.quota else { return false };
    let has = |per: bool| {
        let rates = dependency.rate.iter().chain(&dependency.more);
        rates.filter(|rate| rate.per.is_some() == per).any(|rate| (f64::from(rate.limit) - quota).abs() < 0.5)
    };
    has(true) && !has(false)
}

/// Whether each of its calls has a signature.
fn is_signed(dependency: &Dependency) -> bool {
    matches!(dependency.auth, Some(Auth::Hmac(_) | Auth::AwsSigV4(_)))
}

#[cfg(test)]
mod tests {
    use penstock_domain::pipeline::Pipeline;

    use super::*;

    #[test]
    fn the_limit_of_one_value_is_told_by_its_size() {
        let is_of_one = |rates: &str, quota: Option<f64>| {
            let text = format!(
                "name: p\ncsv: {{ columns: [ {{ name: a }} ] }}\ndependencies: {{ d: {{ base_url: \"http://d.example\", rate: [ {rates} ] }} }}\n\
                 steps: [ {{ name: s, dependency: d, request: {{ method: GET, path: /a }} }} ]\n"
            );
            let pipeline = Pipeline::load("p.yaml", &text, &|_| None).unwrap();
            let budget = Budget { left: 0.0, reset: Duration::from_secs(1), quota };
            is_of_one_value(&pipeline.dependencies[0], &budget)
        };
        let channel = "{ limit: 5, period: 5s, per: \"{{ row.a }}\" }";
        for (rates, quota, expected) in [
            (channel.to_owned(), Some(5.0), true),
            (channel.to_owned(), Some(50.0), false),
            (channel.to_owned(), None, false),
            (format!("{channel}, {{ limit: 50, period: 1s }}"), Some(5.0), true),
            (format!("{channel}, {{ limit: 5, period: 1s }}"), Some(5.0), false),
            ("{ limit: 5, period: 1s }".to_owned(), Some(5.0), false),
        ] {
            assert_eq!(is_of_one(&rates, quota), expected, "{rates} {quota:?}");
        }
    }
}
