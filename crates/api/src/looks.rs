//! Looks at what operators see, which everybody shares who has such a page open.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Mutex;

/// How old a look may be that is shown: it was made after the page that shows it was asked for.
const RECENT: Duration = Duration::from_secs(4);

/// An event that was made last, for as long as it is recent.
#[derive(Debug, Default)]
pub(crate) struct Recent(Mutex<Option<(Instant, Bytes)>>);

impl Recent {
    /// What was seen last, or else what is seen now; others wait for that look and have it as well.
    pub async fn or_look<E>(&self, look: impl Future<Output = Result<Bytes, E>>) -> Result<Bytes, E> {
        let mut last = self.0.lock().await;
        if let Some((at, seen)) = &*last
            && at.elapsed() < RECENT
        {
            return Ok(seen.clone());
        }
        let seen = look.await?;
        *last = Some((Instant::now(), seen.clone()));
        Ok(seen)
    }
}

/// What operators' pages share. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct OperatorLooks(Arc<Looks>);

#[derive(Debug, Default)]
struct Looks {
    limits: Recent,
    operations: Recent,
}

impl OperatorLooks {
    /// The page of limits.
    pub fn limits(&self) -> &Recent {
        &self.0.limits
    }

    /// The page of operations.
    pub fn operations(&self) -> &Recent {
        &self.0.operations
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_recent_look_is_shared() {
        let recent = Recent::default();
        let look = |seen: &'static str| async move { Ok::<_, String>(Bytes::from_static(seen.as_bytes())) };
        assert_eq!(recent.or_look(look("first")).await.unwrap(), "first");
        assert_eq!(recent.or_look(look("second")).await.unwrap(), "first");
        let old = Instant::now().checked_sub(RECENT);
        *recent.0.lock().await = old.map(|at| (at, Bytes::new()));
        recent.or_look(async { Err::<Bytes, _>("no".to_owned()) }).await.unwrap_err();
        assert_eq!(recent.or_look(look("third")).await.unwrap(), "third");
    }
}
