//! Whether a service is ready: whether the database and the queue take writes, and the object store is there.

use std::time::Duration;

use futures::StreamExt as _;
use object_store::path::Path;
use object_store::{Error, ObjectStore};

use crate::context::last_answer::{OK, Readiness};
use crate::context::services::Services;

/// How long an answer holds: however many ask, the database is written to no more often.
const HOLDS: Duration = Duration::from_secs(1);

/// How long each is waited for. Less than probes wait for an answer.
const WITHIN: Duration = Duration::from_millis(2500);

/// Asks the database, the queue and the object store.
pub async fn readiness(services: &Services) -> Readiness {
    services.last_answers.readiness.or_ask(HOLDS, ask(services)).await
}

async fn ask(services: &Services) -> Readiness {
    let now = services.clock.now();
    let (database, queue, objects) = tokio::join!(
        within(async { services.store.probe_writes(now).await.map_err(|error| error.to_string()) }),
        within(async { services.queue.ready().await.map_err(|error| error.to_string()) }),
        within(reach(&*services.objects))
    );
    let ready = [&database, &queue, &objects].iter().all(|answer| *answer == OK);
    Readiness { ready, database, queue, objects }
}

/// Lists nothing: one object that is missing looks like a bucket that is. Without the right to list it can be there nevertheless.
async fn reach(objects: &dyn ObjectStore) -> Result<(), String> {
    match objects.list(Some(&Path::from("readiness"))).next().await {
        None | Some(Ok(_) | Err(Error::PermissionDenied { .. })) => Ok(()),
        Some(Err(Error::NotFound { .. })) => Err("the bucket of OBJECT_STORE_URL does not exist".to_owned()),
        Some(Err(error)) if error.to_string().contains("NoSuchBucket") => {
            Err("the bucket of OBJECT_STORE_URL does not exist".to_owned())
        }
        // S3's answer is an error of no kind of its own here.
        Some(Err(error)) if error.to_string().contains("AccessDenied") => Ok(()),
        Some(Err(error)) => Err(error.to_string()),
    }
}

async fn within(answer: impl Future<Output = Result<(), String>>) -> String {
    match tokio::time::timeout(WITHIN, answer).await {
        Ok(Ok(())) => OK.to_owned(),
        Ok(Err(error)) => error,
        Err(_) => format!("no answer within {} ms", WITHIN.as_millis()),
    }
}
