//! Answers that rows have in common, sealed: under the batch's key what only its rows have, else under keys of such answers' own.

use penstock_domain::ids::BatchSeq;
use penstock_domain::json;
use penstock_domain::pipeline::cache::{Cache, CacheScope};
use penstock_store::duplicates::KeyHash;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::context::secrets::{ANSWERS, key_text};
use crate::worker::row::task::RowTask;

impl RowTask<'_> {
    /// The batch that an answer belongs to; none: it is not only one's.
    pub(super) fn of_batch(&self, cache: &Cache) -> Option<BatchSeq> {
        (cache.scope == CacheScope::Batch).then_some(self.work.seq)
    }

    /// Seals under the batch's key what only its rows have in common, else under a key of such answers' own; none: it cannot be kept.
    pub(super) fn seal_answer(
        &self,
        cache: &Cache,
        key: &KeyHash,
        column: &str,
        value: &impl Serialize,
    ) -> Option<Vec<u8>> {
        let plain = serde_json::to_vec(value).ok()?;
        if cache.scope == CacheScope::Batch {
            return Some(self.work.secrets.seal_answer(key, column, &plain));
        }
        let now = self.services.clock.now().millis();
        self.lookups.answer_keys.get()?.seal(now, ANSWERS, &place(key, column), &plain)
    }

    /// Opens [`RowTask::seal_answer`]; none when its key is gone: it is asked for again.
    pub(super) fn open_answer<T: DeserializeOwned>(
        &self,
        cache: &Cache,
        key: &KeyHash,
        column: &str,
        sealed: &[u8],
    ) -> Option<T> {
        let plain = if cache.scope == CacheScope::Batch {
            self.work.secrets.open_answer(key, column, sealed).map_err(|error| error.to_string())
        } else {
            let keys = self.lookups.answer_keys.get().unwrap_or_default();
            keys.open(ANSWERS, &place(key, column), sealed).map_err(|error| error.to_string())
        };
        let opened = plain.and_then(|plain| json::read_stored(&plain).map_err(|error| error.to_string()));
        opened
            .inspect_err(|error| tracing::warn!(error, "a kept answer cannot be read; it is asked for again"))
            .ok()
    }
}

fn place(key: &KeyHash, column: &str) -> String {
    format!("{column}/{}", key_text(key))
}
