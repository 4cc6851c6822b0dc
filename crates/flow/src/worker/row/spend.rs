//! What a call takes of its dependency's limits.

use penstock_crypto::record_mac;
use penstock_domain::outcome::code;
use penstock_domain::pipeline::{Dependency, ResponseView, RowValues};
use penstock_downstream::Spend;
use penstock_store::work::Settled;

use crate::context::installation::installation_secret;
use crate::worker::progress::Progress;
use crate::worker::row::answer::Answer;
use crate::worker::row::problem::Problem;
use crate::worker::row::task::{RowTask, StepAt};

/// The purpose under which values of limits are hashed.
const PURPOSE: &str = "limit-value";

/// Bytes of a value's hash that the limiter knows it by.
const HASH_BYTES: usize = 12;

impl RowTask<'_> {
    /// What the step's call takes. Values are hashed under the installation's secret: what the limiter keeps tells nothing of a row.
    ///
    /// # Errors
    /// How the row ends, or is requeued, when that is not known.
    pub(super) async fn spend(
        &self,
        at: StepAt<'_>,
        row: &RowValues,
        progress: &mut Progress,
    ) -> Result<Spend, Settled> {
        let dependency = self.dependency(at);
        let is_fixed = at.step.costs.are_fixed();
        if dependency.more.is_empty() && is_fixed {
            return Ok(Spend::of(at.step.cost));
        }
        let context = self.context(row, progress);
        let made = at.step.call_cost(&context);
        let made = made.and_then(|cost| Ok((cost, at.step.limit_values(dependency, &context)?)));
        let (cost, values) = match made {
            Ok(made) => made,
            Err(error) => {
                let problem = Problem::new(code::TEMPLATE_ERROR, error.to_string());
                return Err(self.failed(at, problem, progress));
            }
        };
        let mut spend = Spend::of(cost.unnamed);
        // What a step takes of a limit with a name, its request took: looks at what became of it do not.
        if at.look.is_none() {
            spend.named = cost.named;
            if at.step.bulk.is_none() {
                self.uses.takes(at.step.dependency, &spend.named);
            }
            spend.corrected = at.step.costs.are_corrected().then(|| self.call_number(at));
        }
        if values.iter().all(Option::is_none) {
            return Ok(spend);
        }
        let secret = match installation_secret(self.services).await {
            Ok(secret) => secret,
            Err(error) => {
                tracing::warn!(%error, "failed to read the installation's secret; the row is requeued");
                return Err(self.not_called(at, self.services.clock.now(), None, progress));
            }
        };
        let values = values.into_iter().enumerate();
        let values =
            values.map(|(index, value)| value.map(|value| hashed(&secret, dependency, index, &value)));
        Ok(Spend { values: values.collect(), ..spend })
    }

    /// A number that no other call under way has.
    fn call_number(&self, at: StepAt<'_>) -> u64 {
        #[allow(clippy::cast_possible_truncation, reason = "any bits of a random number")]
        let random = self.lease.token.0.as_u128() as u64;
        let row = u64::from(self.number()).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (random ^ row).wrapping_add(at.index as u64) & 0x000F_FFFF_FFFF_FFFF
    }

    /// An answer is there: what the call has taken is charged, and not what was estimated.
    pub(super) async fn correct(
        &self,
        at: StepAt<'_>,
        row: &RowValues,
        spend: &Spend,
        answer: &Answer,
        progress: &Progress,
    ) {
        let response = answer.response.as_ref().filter(|_| spend.corrected.is_some());
        let Some(response) = response else { return self.took(at, spend, &[]) };
        let view = ResponseView { status: response.status, headers: &response.headers, body: &response.body };
        let actual = at.step.actual_costs(&self.context(row, progress), view);
        self.took(at, spend, &actual);
        if !actual.is_empty() {
            let owner = &self.work.owner_name;
            self.caller.correct(self.dependency(at), owner, spend, &actual, answer.left_at).await;
        }
    }

    /// A call has taken what its answer says, and of limits of which it says nothing what was charged.
    fn took(&self, at: StepAt<'_>, spend: &Spend, actual: &[(String, u32)]) {
        let is_said = |name: &str| actual.iter().any(|(said, _)| said == name);
        let known = spend.named.iter().filter(|(name, _)| !is_said(name));
        if at.step.bulk.is_none() {
            self.uses.took(at.step.dependency, actual.iter().chain(known));
        }
    }
}

fn hashed(secret: &[u8; 32], dependency: &Dependency, index: usize, value: &str) -> String {
    let id = dependency.more.get(index).map_or("", |rate| rate.id.as_str());
    let mac = record_mac(secret, PURPOSE, &[dependency.name.as_bytes(), id.as_bytes(), value.as_bytes()]);
    mac.iter().take(HASH_BYTES).map(|byte| format!("{byte:02x}")).collect()
}
