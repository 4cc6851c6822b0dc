//! How the names of an installation's keys begin.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use redis::{RedisError, RedisResult};
use tokio::sync::OnceCell;

/// Longer ones only cost memory.
const LONGEST: usize = 100;

/// How the prefix is found out when it is first needed; an error is a sentence.
type Load = dyn Fn() -> BoxFuture<'static, Result<String, String>> + Send + Sync;

/// What the names of all keys of an installation begin with, so that several installations can share a Redis. Clones share what
/// was found out.
#[derive(Clone)]
pub struct Prefix {
    known: Arc<OnceCell<String>>,
    load: Arc<Load>,
}

impl Prefix {
    /// A given one. It ends with a colon, so that `a` and `ab` are apart.
    ///
    /// # Errors
    /// A sentence, when it has characters that mean something in a pattern of keys, or could divide the keys of one script.
    pub fn new(text: &str) -> Result<Self, String> {
        let name = text.strip_suffix(':').unwrap_or(text);
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
        if name.is_empty() || name.len() > LONGEST || !name.chars().all(allowed) {
            return Err(format!(
                "invalid prefix `{text}`: use 1 to {LONGEST} of A-Z, a-z, 0-9, `-`, `_`, `.` and `:`"
            ));
        }
        Ok(Self::known(format!("{name}:")))
    }

    /// The prefix of the installation with this id; an installation without one has the prefix of the releases before there
    /// were ids. The id is asked for when it is first needed, and until it is known.
    pub fn of_installation(
        id: impl Fn() -> BoxFuture<'static, Result<String, String>> + Send + Sync + 'static,
    ) -> Self {
        Self { known: Arc::default(), load: Arc::new(id) }
    }

    fn known(text: String) -> Self {
        let load = Arc::new(|| -> BoxFuture<'static, Result<String, String>> { unreachable!("it is known") });
        Self { known: Arc::new(OnceCell::new_with(Some(text))), load }
    }

    /// The prefix.
    ///
    /// # Errors
    /// When the installation's id cannot be read now.
    pub async fn get(&self) -> RedisResult<&str> {
        let load = || async {
            let id = (self.load)().await.map_err(|error| {
                let text =
                    format!("the installation's id, with which keys in Redis begin, is not known: {error}");
                RedisError::from(std::io::Error::other(text))
            })?;
            Ok(if id.is_empty() { "penstock:".to_owned() } else { format!("penstock:{id}:") })
        };
        self.known.get_or_try_init(load).await.map(String::as_str)
    }
}

impl Default for Prefix {
    fn default() -> Self {
        Self::known("penstock:".to_owned())
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Prefix").field(&self.known.get()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_prefix_ends_with_a_colon_and_matches_no_others() {
        assert_eq!(Prefix::new("team-a").unwrap().get().await.unwrap(), "team-a:");
        assert_eq!(Prefix::new("team-a:").unwrap().get().await.unwrap(), "team-a:");
        assert_eq!(Prefix::default().get().await.unwrap(), "penstock:");
        for wrong in ["", ":", "a*", "{a", "a b", &"a".repeat(101)] {
            assert!(Prefix::new(wrong).unwrap_err().contains("A-Z"), "{wrong}");
        }
    }

    #[tokio::test]
    async fn an_id_is_asked_for_until_it_is_known_and_never_again() {
        static ASKED: AtomicU32 = AtomicU32::new(0);
        let prefix = Prefix::of_installation(|| {
            let known = ASKED.fetch_add(1, Ordering::SeqCst) > 0;
            async move { if known { Ok("7f".to_owned()) } else { Err("no database".to_owned()) } }.boxed()
        });
        let error = prefix.get().await.unwrap_err().to_string();
        assert!(error.contains("no database"), "{error}");
        for _ in 0..2 {
            assert_eq!(prefix.clone().get().await.unwrap(), "penstock:7f:");
        }
        assert_eq!(ASKED.load(Ordering::SeqCst), 2);
        let before_ids = Prefix::of_installation(|| async { Ok(String::new()) }.boxed());
        assert_eq!(before_ids.get().await.unwrap(), "penstock:");
    }
}
