//! Questions of many rows' tasks to the database, asked in groups: rows that ask at the same time share a statement.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt as _;
use penstock_store::StoreResult;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::context::tasks::spawn_part;

/// Questions of a group at most.
const GROUP: usize = 500;

/// How long the first question of a group waits for others.
const GROUP_WAIT: Duration = Duration::from_millis(2);

/// While the database is unavailable, a group is asked again after at most this time.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// Asks in groups. Clones ask in the same ones.
pub(crate) struct Grouped<Q, A> {
    questions: mpsc::Sender<(Q, oneshot::Sender<A>)>,
}

impl<Q, A> Clone for Grouped<Q, A> {
    fn clone(&self) -> Self {
        Self { questions: self.questions.clone() }
    }
}

impl<Q: Send + Sync + 'static, A: Send + 'static> Grouped<Q, A> {
    /// Answers until its last clone is gone. `answer` has an answer for each question, in their order.
    pub fn open<F>(
        name: &'static str,
        stop: &CancellationToken,
        answer: impl Fn(std::sync::Arc<Vec<Q>>) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = StoreResult<Vec<A>>> + Send + 'static,
    {
        let (questions, received) = mpsc::channel(GROUP * 2);
        spawn_part(name, run(name, answer, received), stop);
        Self { questions }
    }

    /// The answer to a question, however long the database is unavailable; none when it refuses the question.
    pub async fn ask(&self, question: Q) -> Option<A> {
        let (answered, answer) = oneshot::channel();
        self.questions.send((question, answered)).await.ok()?;
        answer.await.ok()
    }
}

async fn run<Q, A, F>(
    name: &'static str,
    answer: impl Fn(std::sync::Arc<Vec<Q>>) -> F,
    mut received: mpsc::Receiver<(Q, oneshot::Sender<A>)>,
) where
    F: Future<Output = StoreResult<Vec<A>>>,
{
    while let Some((question, asker)) = received.recv().await {
        let (mut questions, mut askers) = (vec![question], vec![asker]);
        let close_at = Instant::now() + GROUP_WAIT;
        while questions.len() < GROUP {
            match tokio::time::timeout_at(close_at, received.recv()).await {
                Ok(Some((question, asker))) => {
                    questions.push(question);
                    askers.push(asker);
                }
                Ok(None) | Err(_) => break,
            }
        }
        let count = questions.len();
        let questions = std::sync::Arc::new(questions);
        match AssertUnwindSafe(answered(name, &answer, &questions)).catch_unwind().await {
            Ok(Ok(answers)) => {
                for (asker, answer) in askers.into_iter().zip(answers) {
                    // The row's task may be gone.
                    let _ = asker.send(answer);
                }
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, part = name, rows = count, "a group of questions was refused; its rows are requeued");
            }
            Err(_) => {
                tracing::error!(part = name, rows = count, "asking the database panicked: please report it");
            }
        }
    }
}

async fn answered<Q, A, F>(
    name: &'static str,
    answer: &impl Fn(std::sync::Arc<Vec<Q>>) -> F,
    questions: &std::sync::Arc<Vec<Q>>,
) -> StoreResult<Vec<A>>
where
    F: Future<Output = StoreResult<Vec<A>>>,
{
    let mut pause = Duration::from_millis(20);
    loop {
        match answer(questions.clone()).await {
            Err(error) if error.is_transient() => {
                tracing::warn!(%error, part = name, rows = questions.len(), "failed to ask the database; will retry");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            answered => return answered,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use penstock_store::StoreError;

    use super::*;

    #[tokio::test]
    async fn questions_at_one_time_are_one_group_and_a_refused_one_has_no_answer() {
        let groups = std::sync::Arc::new(AtomicUsize::new(0));
        let counted = groups.clone();
        let grouped =
            Grouped::open("test", &CancellationToken::new(), move |questions: std::sync::Arc<Vec<u32>>| {
                counted.fetch_add(1, Ordering::SeqCst);
                async move {
                    if questions.contains(&0) {
                        return Err(StoreError::NotFound { what: "an answer" });
                    }
                    Ok(questions.iter().map(|question| question * 2).collect())
                }
            });
        let answers = futures::future::join_all((1..=100).map(|question| grouped.ask(question))).await;
        assert_eq!(answers, (1..=100).map(|question| Some(question * 2)).collect::<Vec<_>>());
        assert!(groups.load(Ordering::SeqCst) <= 100, "and fewer where they come together");
        assert_eq!(grouped.ask(0).await, None);
        assert_eq!(grouped.ask(4).await, Some(8), "the next group is answered");
    }
}
