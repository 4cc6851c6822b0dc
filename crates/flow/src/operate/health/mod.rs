//! How what an installation shares does, as `penstock doctor` and the console show it: the database, keys, workers, dispatcher runs,
//! batches, the object store and the queue, each with what was found and how to fix it.

mod activity;
mod keys;
mod services;

use std::time::Duration;

pub use activity::RUN_LATE;

pub use crate::context::findings::{Findings, HealthLine, Verdict};
use crate::context::services::Services;

/// How long findings hold: however many look, the database and the object store are written to no more often.
const HOLDS: Duration = Duration::from_secs(5);

/// How long each of them is waited for.
const WITHIN: Duration = Duration::from_secs(10);

/// What was found in the last five seconds, or else is found now.
pub(super) async fn seen(services: &Services) -> Findings {
    services.last_answers.findings.or_ask(HOLDS, look(services)).await
}

/// Looks at all of it. What a database keeps is not looked at while that does not answer.
pub async fn look(services: &Services) -> Findings {
    let (mut found, objects, queue) = tokio::join!(
        database(services),
        within("objects", async |found: &mut Findings| services::objects(services, found).await),
        within("queue", async |found: &mut Findings| services::queue(services, found).await)
    );
    found.0.extend(objects.0);
    found.0.extend(queue.0);
    found
}

/// The database, and what it keeps.
async fn database(services: &Services) -> Findings {
    let mut answers = false;
    let look = async |found: &mut Findings| answers = services::database(services, found).await;
    let mut found = within("database", look).await;
    if answers {
        let (keys, workers, runs, batches) = tokio::join!(
            within("keys", async |found: &mut Findings| keys::keys(services, found).await),
            within("workers", async |found: &mut Findings| activity::workers(services, found).await),
            within("runs", async |found: &mut Findings| activity::runs(services, found).await),
            within("batches", async |found: &mut Findings| activity::batches(services, found).await)
        );
        found.0.extend([keys, workers, runs, batches].into_iter().flat_map(|one| one.0));
    }
    found
}

/// What is found until then, and that it took too long.
async fn within(what: &'static str, look: impl AsyncFnOnce(&mut Findings)) -> Findings {
    let mut found = Findings::default();
    if tokio::time::timeout(WITHIN, look(&mut found)).await.is_err() {
        found.fail(what, format!("no answer within {} s", WITHIN.as_secs()));
    }
    found
}
