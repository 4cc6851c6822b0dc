//! A pipeline that was checked and is ready to run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use url::Url;
use uuid::Uuid;

use super::auth::Auth;
use super::dedupe::Dedupe;
use super::hosts::{self, HostPattern};
use super::live::LiveText;
use super::owner::OwnerReads;
use super::rate::Rate;
use super::secret_values::SecretValues;
use super::step::{RenderError, ResultTemplate, Step};
use super::transport::{Proxy, Tls};
use super::values::RowContext;
use crate::csv::Schema;
use crate::ledger::Canary;
use crate::limit::Hours;

/// A pipeline. Shared by reference; nothing in it changes.
#[derive(Debug)]
pub struct Pipeline {
    /// Its name.
    pub name: String,
    /// A route of its own, besides the general one.
    pub route: Option<String>,
    /// What a file must look like.
    pub schema: Arc<Schema>,
    /// Bytes of a file at most.
    pub max_upload_bytes: u64,
    /// The APIs that it calls.
    pub dependencies: Vec<Dependency>,
    /// The calls for each row, in order.
    pub steps: Vec<Step>,
    /// What of the answers is kept.
    pub result: ResultTemplate,
    /// When a failed attempt is tried again.
    pub retry: Retry,
    /// How rows are released.
    pub dispatch: Dispatch,
    /// The trial that each batch has to pass.
    pub canary: Option<Canary>,
    /// When a row is a duplicate of another batch's.
    pub dedupe: Option<Dedupe>,
    /// Where it was defined.
    pub place: SourceSpan,
    pub(super) context_keys: BTreeSet<String>,
    pub(super) open_addresses: Vec<String>,
    /// The values of its variables and the files that it names.
    pub secret_values: SecretValues,
    /// The text as it was written: what is kept with a batch. Variables of the environment are not filled in.
    pub source: Arc<str>,
    /// The text's name: UUID version 5 of it.
    pub version: Uuid,
}

impl Pipeline {
    /// The longest that a single call may take.
    pub fn worst_call(&self) -> Duration {
        let dependencies = self.dependencies.iter().map(|dependency| dependency.timeout);
        dependencies.chain(self.steps.iter().filter_map(|step| step.timeout)).max().unwrap_or_default()
    }

    /// The keys of an upload's context without which every one of its rows fails for certain: templates read them, no
    /// default stands in for them, and no condition stands before them. A row may need more than these.
    pub fn context_keys(&self) -> &BTreeSet<String> {
        &self.context_keys
    }

    /// Dependencies whose address has a variable without a value: nobody can be called there, and what the limiter knows
    /// of them cannot be found. Always empty where a missing value is an error.
    pub fn open_addresses(&self) -> &[String] {
        &self.open_addresses
    }

    /// Whether a step waits for its result.
    pub fn polls(&self) -> bool {
        self.steps.iter().any(|step| step.poll.is_some())
    }

    /// Whether rows of it may wait for what workers bring them back for: a result, or the answer to another row's call.
    pub fn awaits(&self) -> bool {
        self.polls() || self.steps.iter().any(|step| step.cache.is_some())
    }

    /// Whether a step sends many rows in one call.
    pub fn is_bulk(&self) -> bool {
        self.steps.iter().any(|step| step.bulk.is_some())
    }

    /// The most rows that a call of any of its steps carries.
    pub fn rows_per_call(&self) -> usize {
        self.steps.iter().map(Step::rows_per_call).max().unwrap_or(1)
    }

    /// What a row's calls to a dependency cost in all. A call that carries many rows costs each of them its share.
    pub fn cost_of_row(&self, dependency: usize) -> f64 {
        let steps = self.steps.iter().filter(|step| step.dependency == dependency);
        #[allow(clippy::cast_precision_loss, reason = "at most 1000")]
        steps.map(|step| f64::from(step.cost) / step.rows_per_call() as f64).sum()
    }

    /// Whether every row calls the dependency: one of its steps is neither conditional nor finds answers.
    pub fn always_calls(&self, dependency: usize) -> bool {
        self.steps.iter().any(|step| step.dependency == dependency && !step.may_call_nothing())
    }

    /// The result's columns.
    pub fn result_columns(&self) -> Vec<&str> {
        self.result.columns()
    }

    /// A row's result.
    ///
    /// # Errors
    /// When a template reads something that is not there.
    pub fn result(
        &self,
        row: &RowContext<'_>,
    ) -> Result<serde_json::Map<String, serde_json::Value>, RenderError> {
        self.result.render(row)
    }
}

/// Where a pipeline was defined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceSpan {
    /// The file.
    pub file: Arc<str>,
    /// The line of its name.
    pub name_line: u64,
    /// The line of its route; of its name, when it has none of its own.
    pub route_line: u64,
    /// The line of each dependency, by name.
    pub dependency_lines: BTreeMap<String, u64>,
}

/// An API that steps call.
#[derive(Clone)]
pub struct Dependency {
    /// Its name in the pipeline.
    pub name: String,
    /// Where it is.
    pub base_url: Url,
    /// Where it may be called besides.
    pub hosts: Vec<HostPattern>,
    /// Headers of every call; they hold secrets.
    pub headers: Vec<(String, LiveText)>,
    /// What it reads of an owner.
    pub owner: OwnerReads,
    /// How its calls are authenticated.
    pub auth: Option<Auth>,
    /// What its connections trust and show.
    pub tls: Option<Tls>,
    /// The proxy that they take.
    pub proxy: Option<Proxy>,
    /// How often it may be called: the limit that paces all calls, or all of an owner's.
    pub rate: Option<Rate>,
    /// Further limits that hold beside it.
    pub more: Vec<Rate>,
    /// When it may be called; none: at any time.
    pub hours: Option<Hours>,
    /// How many calls may be under way.
    pub concurrency: Option<Concurrency>,
    /// How long a call may take, from connecting to the end of the answer.
    pub timeout: Duration,
    /// When it is left alone for a while.
    pub breaker: Breaker,
}

impl Dependency {
    /// Whether it may be called at this URL: at its own origin, or at one of its hosts.
    pub fn admits(&self, url: &Url) -> bool {
        hosts::leads_home(&self.base_url, &self.hosts, url)
    }

    /// The limits that count all calls, or all calls of an owner or with a value.
    pub fn unnamed_rates(&self) -> impl Iterator<Item = &Rate> {
        self.rate.iter().chain(&self.more).filter(|rate| rate.name.is_none())
    }

    /// The limits with names, of which calls take what their steps say.
    pub fn named_rates(&self) -> impl Iterator<Item = (&str, &Rate)> {
        let all = self.rate.iter().chain(&self.more);
        all.filter_map(|rate| Some((rate.name.as_deref()?, rate)))
    }

    /// The keys by which its limits differ from those of another one with which it has to share them.
    pub fn differing_limits(&self, other: &Self) -> Vec<&'static str> {
        let mut keys = Vec::new();
        keys.extend((self.rate != other.rate || self.more != other.more).then_some("rate"));
        keys.extend((self.hours != other.hours).then_some("hours"));
        keys.extend((self.concurrency != other.concurrency).then_some("concurrency"));
        keys.extend((self.breaker != other.breaker).then_some("breaker"));
        keys
    }
}

impl std::fmt::Debug for Dependency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dependency")
            .field("name", &self.name)
            .field("rate", &self.rate)
            .finish_non_exhaustive()
    }
}

/// Calls under way at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Concurrency {
    /// Calls.
    pub limit: u32,
    /// Whether each owner has its own.
    pub per_owner: bool,
}

/// When a dependency is taken for broken: see [`crate::limit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breaker {
    /// Share of failures, in hundredths of a percent, that opens it.
    pub failure_bp: u16,
    /// Calls in the window at the least.
    pub min_calls: u32,
    /// The window.
    pub window: Duration,
    /// How long it stays open before probes go out.
    pub open_for: Duration,
    /// Probes that must succeed to close it.
    pub probes: u32,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            failure_bp: 5000,
            min_calls: 20,
            window: Duration::from_secs(30),
            open_for: Duration::from_secs(10),
            probes: 3,
        }
    }
}

/// When a failed attempt is tried again.
#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    /// Attempts in all.
    pub attempts: u32,
    /// The first pause at most.
    pub initial: Duration,
    /// Each pause is this many times the one before.
    pub factor: f64,
    /// No pause is longer.
    pub max: Duration,
    /// Whether pauses are random between 0 and their length.
    pub jitter: bool,
    /// A row that was not done this long after its first attempt fails.
    pub deadline: Option<Duration>,
    /// A row that was throttled each time for this long fails.
    pub throttled_for: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 5,
            initial: Duration::from_secs(1),
            factor: 2.0,
            max: Duration::from_secs(300),
            jitter: true,
            deadline: None,
            throttled_for: Duration::from_secs(24 * 60 * 60),
        }
    }
}

impl Retry {
    /// The pause after this many failed attempts; `unit` is a random number in [0, 1). Full jitter, after Brooker,
    /// *Exponential Backoff and Jitter* (AWS Architecture Blog, 2015).
    pub fn delay(&self, failed_attempts: u32, unit: f64) -> Duration {
        let exponent = f64::from(failed_attempts.saturating_sub(1));
        let longest = self.max.as_secs_f64();
        let pause = (self.initial.as_secs_f64() * self.factor.powf(exponent)).min(longest);
        Duration::from_secs_f64(if self.jitter { pause * unit } else { pause })
    }
}

/// How rows are released.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dispatch {
    /// Rows of an owner in flight in this pipeline.
    pub rows_per_owner: Option<u32>,
    /// Rows of an owner that wait for a result in this pipeline ([`super::poll`]).
    pub rows_polling_per_owner: Option<u32>,
    /// Over how long a run's rows are spread; none: over the time between runs, a minute at most.
    pub spread: Option<Duration>,
}
