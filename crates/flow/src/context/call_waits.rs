//! What holds up calls and no limiter knows of: an operator's pause, and what workers report that their calls wait for. Both are
//! in SQL, so that every process can tell.

use std::collections::HashSet;

use penstock_domain::limit::identity;
use penstock_domain::pipeline::Dependency;
use penstock_domain::time::Timestamp;
use penstock_store::workers::CallWait;
use penstock_store::{Store, StoreResult};

/// What is stored of a wait that a process knows of.
pub fn stored(wait: penstock_downstream::CallWait) -> CallWait {
    CallWait {
        identity: wait.identity,
        owner: wait.owner,
        dependency: wait.dependency,
        reason: wait.waits_for.code().to_owned(),
        sentence: wait.sentence,
        until: wait.until,
    }
}

/// What holds up calls, of all dependencies.
#[derive(Debug, Default)]
pub struct CallWaits {
    paused: HashSet<String>,
    waits: Vec<CallWait>,
}

impl CallWaits {
    /// As it is now.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn read(store: &dyn Store) -> StoreResult<Self> {
        let paused = store.limit_settings().await?.into_iter().filter(|set| set.paused);
        Ok(Self { paused: paused.map(|set| set.dependency).collect(), waits: store.call_waits().await? })
    }

    /// Whether an operator has paused the dependency.
    pub fn is_paused(&self, dependency: &Dependency) -> bool {
        self.paused.contains(&dependency.name)
    }

    /// What an owner's calls to a dependency wait for: each reason once, with the time at which the first of the processes that
    /// report it tries again.
    pub fn of(&self, dependency: &Dependency, owner: &str, now: Timestamp) -> Vec<&CallWait> {
        let identity = identity(&dependency.name, &dependency.base_url);
        let concerns = |wait: &CallWait| match &wait.owner {
            // Its address may be made of the owner's values, which are not known here.
            Some(whose) => whose == owner && wait.dependency == dependency.name,
            None => wait.identity == identity,
        };
        let mut found: Vec<&CallWait> = self.waits.iter().filter(|wait| concerns(wait)).collect();
        found.sort_by_key(|wait| (wait.reason.as_str(), wait.until < now, wait.until));
        found.dedup_by_key(|wait| wait.reason.as_str());
        found
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use penstock_domain::pipeline::Pipeline;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    #[test]
    fn each_reason_is_told_once_to_those_whom_it_concerns() {
        let text = "name: p\ncsv: { columns: [ { name: id } ] }\ndependencies: { api: { base_url: \"http://h\" } }\nsteps: []\n";
        let pipeline = Pipeline::load("p.yaml", text, &|_| None).expect("a definition");
        let api = &pipeline.dependencies[0];
        let wait = |owner: Option<&str>, reason: &str, seconds: u64| CallWait {
            identity: identity(&api.name, &api.base_url),
            owner: owner.map(str::to_owned),
            dependency: api.name.clone(),
            reason: reason.to_owned(),
            sentence: String::new(),
            until: NOW - Duration::from_secs(5) + Duration::from_secs(seconds),
        };
        let elsewhere = CallWait { identity: "api:elsewhere".to_owned(), ..wait(None, "a", 5) };
        let waits = CallWaits {
            paused: HashSet::from(["other".to_owned()]),
            waits: vec![
                wait(None, "a", 20),
                wait(None, "a", 1),
                wait(None, "a", 10),
                wait(Some("acme"), "b", 7),
                wait(Some("globex"), "c", 7),
                elsewhere,
            ],
        };
        let told = |owner: &str| -> Vec<(String, u64)> {
            let of = waits.of(api, owner, NOW);
            of.iter().map(|wait| (wait.reason.clone(), wait.until.since(NOW).as_secs())).collect()
        };
        assert_eq!(told("acme"), [("a".to_owned(), 5), ("b".to_owned(), 2)]);
        assert_eq!(told("initech"), [("a".to_owned(), 5)]);
        assert!(!waits.is_paused(api));
    }
}
