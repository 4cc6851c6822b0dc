//! How what an installation shares does, as `penstock doctor` and the console show it: the database, keys, workers, dispatcher runs,
//! batches, the object store and the queue, each with what was found and how to fix it.

mod activity;
mod findings;
mod keys;
mod services;

pub use activity::RUN_LATE;
pub use findings::{Findings, HealthLine, Verdict};

use crate::context::services::Services;

/// Looks at all of it. What a database keeps is not looked at while that does not answer.
pub async fn look(services: &Services) -> Findings {
    let mut findings = Findings::default();
    if services::database(services, &mut findings).await {
        keys::keys(services, &mut findings).await;
        activity::workers(services, &mut findings).await;
        activity::runs(services, &mut findings).await;
        activity::batches(services, &mut findings).await;
    }
    services::objects(services, &mut findings).await;
    services::queue(services, &mut findings).await;
    findings
}
