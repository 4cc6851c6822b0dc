//! The keys of answers that rows of several batches have in common: a series of their own, sealed under the keyring. A new one begins
//! every month, so that a key which became known opens the answers of a month; an old one is dropped when all of its answers are over.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use penstock_crypto::{KeySeries, Keyring, OpenError};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::context::error::FlowError;
use crate::context::services::Services;

/// The installation's secret that has them.
const NAME: &str = "answer-keys";

/// How long a key seals.
const SEALS_FOR: Duration = Duration::from_secs(30 * 86_400);

/// For how long after that something may lie under it: the longest `ttl`, and a day.
const OPENS_FOR: Duration = Duration::from_secs(366 * 86_400);

/// A worker reads them again after this time.
const READ_AGAIN: Duration = Duration::from_secs(600);

/// A new key begins this long after it was made: by then every worker has read it.
const BEGINS_AFTER: Duration = Duration::from_secs(3600);

/// The keys as a worker knows them.
#[derive(Default)]
pub(crate) struct AnswerKeys {
    known: RwLock<Option<(Instant, Arc<KeySeries>)>>,
    reading: Mutex<()>,
}

impl AnswerKeys {
    /// The keys, if they were read.
    pub(crate) fn get(&self) -> Option<Arc<KeySeries>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(|(_, keys)| keys.clone())
    }

    /// Reads them, unless that was done a moment ago.
    ///
    /// # Errors
    /// When the database fails, or the keyring lacks the key that seals them.
    pub(crate) async fn refresh(&self, services: &Services) -> Result<(), FlowError> {
        if self.is_fresh() {
            return Ok(());
        }
        let _one_at_a_time = self.reading.lock().await;
        if self.is_fresh() {
            return Ok(());
        }
        let keys = Arc::new(read_or_begin(services).await?);
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), keys));
        Ok(())
    }

    fn is_fresh(&self) -> bool {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.as_ref().is_some_and(|(at, _)| at.elapsed() < READ_AGAIN)
    }
}

async fn read_or_begin(services: &Services) -> Result<KeySeries, FlowError> {
    loop {
        let keyring = services.keyring.get();
        if let Some(sealed) = services.store.secret(NAME).await? {
            return open(&keyring, &sealed);
        }
        let mut keys = KeySeries::default();
        keys.begin(services.clock.now().millis(), services.random.as_ref()).map_err(unusable)?;
        // Somebody else may be first: then theirs are read.
        services.store.set_secret(NAME, None, &seal(services, &keyring, &keys)?).await?;
    }
}

/// The secret as it is stored; none: nothing was sealed under such a key.
pub(crate) async fn sealed(services: &Services) -> Result<Option<Vec<u8>>, FlowError> {
    Ok(services.store.secret(NAME).await?)
}

/// Begins a new key when the newest one is a month old, drops those under which nothing lies any more, and puts them under the active
/// key of the keyring. Whether something was changed.
///
/// # Errors
/// When the database fails, or the keyring lacks the key that seals them.
pub(crate) async fn rotate(services: &Services) -> Result<bool, FlowError> {
    let Some(sealed) = sealed(services).await? else { return Ok(false) };
    let (keyring, now) = (services.keyring.get(), services.clock.now());
    let mut keys = open(&keyring, &sealed)?;
    let is_due = keys.newest_since().is_none_or(|since| (now - SEALS_FOR).millis() >= since);
    if is_due {
        keys.begin((now + BEGINS_AFTER).millis(), services.random.as_ref()).map_err(unusable)?;
        keys.drop_before((now - OPENS_FOR).millis());
    } else if Keyring::small_key_id(&sealed).is_ok_and(|id| id == keyring.active_id()) {
        return Ok(false);
    }
    Ok(services.store.set_secret(NAME, Some(&sealed), &seal(services, &keyring, &keys)?).await?)
}

fn seal(services: &Services, keyring: &Keyring, keys: &KeySeries) -> Result<Vec<u8>, FlowError> {
    let sealed = keyring.seal_small("secrets", NAME, "sealed", &keys.to_bytes(), services.random.as_ref());
    sealed.map_err(unusable)
}

fn open(keyring: &Keyring, sealed: &[u8]) -> Result<KeySeries, FlowError> {
    let plain = keyring.open_small("secrets", NAME, "sealed", sealed).map_err(unusable)?;
    KeySeries::read(plain).map_err(unusable)
}

fn unusable(source: OpenError) -> FlowError {
    FlowError::Sealed { what: "the keys of answers", source }
}
