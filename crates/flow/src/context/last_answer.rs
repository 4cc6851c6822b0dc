//! What was found when somebody last looked: one looks, for all that ask at about the same time.

use std::time::Duration;

use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::context::findings::Findings;

/// What the database, the queue and the object store say.
#[derive(Clone, Debug, Serialize)]
pub struct Readiness {
    /// Whether all can be used.
    pub ready: bool,
    /// `ok`, or the database's error.
    pub database: String,
    /// `ok`, or the queue's error.
    pub queue: String,
    /// `ok`, or the object store's error.
    pub objects: String,
}

pub(crate) const OK: &str = "ok";

impl Readiness {
    /// Whether the database takes writes.
    pub fn database_answers(&self) -> bool {
        self.database == OK
    }
}

/// What is asked for often.
#[derive(Default)]
pub struct LastAnswers {
    pub(crate) readiness: LastAnswer<Readiness>,
    pub(crate) findings: LastAnswer<Findings>,
}

/// The last answer, and when it came.
pub struct LastAnswer<T>(Mutex<Option<(Instant, T)>>);

impl<T> Default for LastAnswer<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T: Clone> LastAnswer<T> {
    /// The last answer while it is no older than `holds`, or else a new one. Whoever asks meanwhile waits for it.
    pub async fn or_ask(&self, holds: Duration, ask: impl Future<Output = T>) -> T {
        let mut last = self.0.lock().await;
        if let Some((at, answer)) = last.as_ref()
            && at.elapsed() < holds
        {
            return answer.clone();
        }
        let answer = ask.await;
        *last = Some((Instant::now(), answer.clone()));
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_asks_for_all() {
        let (last, holds) = (LastAnswer::default(), Duration::from_secs(5));
        assert_eq!(last.or_ask(holds, ready(1)).await, 1);
        assert_eq!(last.or_ask(holds, async { panic!("it is known") }).await, 1);
        tokio::time::advance(holds).await;
        let slow = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            2
        };
        let both =
            tokio::join!(last.or_ask(holds, slow), last.or_ask(holds, async { panic!("it is asked") }));
        assert_eq!(both, (2, 2));
    }
}
