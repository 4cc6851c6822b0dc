//! Answers that rows have in common: what is known of them in this worker, and who of its rows asks the database.
//!
//! Of several rows that want an answer at one time one goes on, the others wait for it here. So each key is asked of the database by
//! one row of a worker, and a row that finds an answer here touches no database.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use penstock_domain::time::Timestamp;
use penstock_store::answers::{AnswerEnd, FoundAnswer, WantedAnswer};
use penstock_store::duplicates::KeyHash;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::context::services::Services;
use crate::worker::grouped::Grouped;

/// Bytes of answers that are known here at most, and of one of them: a longer one is read from the database each time.
const MOST_BYTES: usize = 8 * 1024 * 1024;
const LONGEST: usize = 64 * 1024;

/// Bytes of an answer beside its text.
const BESIDE: usize = 256;

/// A step's outputs.
pub(crate) type Outputs = Arc<Map<String, Value>>;

/// Why a call failed for good, as rows share it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SharedFailure {
    pub code: String,
    pub api_code: Option<String>,
    pub http_status: Option<u16>,
    pub message: String,
    pub detail: Option<Value>,
}

/// What came of a row that went on for others.
#[derive(Clone, Debug)]
pub(crate) enum FlightEnd {
    /// Not known yet.
    UnderWay,
    /// Its step's outputs.
    Kept(Outputs),
    /// Its call failed for good.
    Failed(Arc<SharedFailure>),
    /// The answer comes later: a row of another worker asks, or this one asks again.
    Later(Option<Timestamp>),
}

/// What is known here of a key.
pub(crate) enum Known {
    /// The answer.
    Kept(Outputs),
    /// Another row of this worker went on: what comes of it.
    UnderWay(watch::Receiver<FlightEnd>),
    /// Nothing: this row goes on.
    First(Flight),
}

/// Answers of a worker.
pub(crate) struct AnswerCache {
    here: Mutex<Here>,
    find: Grouped<WantedAnswer, FoundAnswer>,
    end: Grouped<AnswerEnd, ()>,
}

#[derive(Default)]
struct Here {
    kept: HashMap<KeyHash, (Outputs, Timestamp, usize)>,
    /// In the order in which they came.
    order: VecDeque<KeyHash>,
    bytes: usize,
    flights: HashMap<KeyHash, watch::Receiver<FlightEnd>>,
}

impl Here {
    fn keep(&mut self, key: KeyHash, outputs: Outputs, expires_at: Timestamp, bytes: usize) {
        if bytes > LONGEST {
            return;
        }
        self.forget(&key);
        self.bytes += bytes;
        self.kept.insert(key, (outputs, expires_at, bytes));
        self.order.push_back(key);
        while self.bytes > MOST_BYTES
            && let Some(oldest) = self.order.pop_front()
        {
            self.remove(&oldest);
        }
    }

    fn forget(&mut self, key: &KeyHash) {
        if self.remove(key) {
            self.order.retain(|other| other != key);
        }
    }

    fn remove(&mut self, key: &KeyHash) -> bool {
        let removed = self.kept.remove(key);
        self.bytes -= removed.as_ref().map_or(0, |(.., bytes)| *bytes);
        removed.is_some()
    }
}

impl AnswerCache {
    /// Empty, for as long as it is used.
    pub fn open(services: &Services, stop: &CancellationToken) -> Self {
        let (store, clock) = (services.store.clone(), services.clock.clone());
        let find = Grouped::open("cached answers", stop, move |wanted: Arc<Vec<WantedAnswer>>| {
            let (store, clock) = (store.clone(), clock.clone());
            async move { store.find_answers(&wanted, clock.now()).await }
        });
        let (store, clock) = (services.store.clone(), services.clock.clone());
        let end = Grouped::open("answers to keep", stop, move |ends: Arc<Vec<AnswerEnd>>| {
            let (store, clock) = (store.clone(), clock.clone());
            async move {
                store.end_answers(&ends, clock.now()).await?;
                Ok(vec![(); ends.len()])
            }
        });
        Self { here: Mutex::default(), find, end }
    }

    /// What is known of a key here; whoever is told that nothing is goes on for the others.
    pub fn look(self: &Arc<Self>, key: &KeyHash, now: Timestamp) -> Known {
        let mut here = self.here.lock().unwrap_or_else(PoisonError::into_inner);
        match here.kept.get(key) {
            Some((outputs, expires_at, _)) if *expires_at > now => return Known::Kept(outputs.clone()),
            Some(_) => here.forget(key),
            None => {}
        }
        if let Some(under_way) = here.flights.get(key) {
            return Known::UnderWay(under_way.clone());
        }
        let (sender, receiver) = watch::channel(FlightEnd::UnderWay);
        here.flights.insert(*key, receiver);
        Known::First(Flight { cache: self.clone(), key: *key, sender })
    }

    /// What the database knows; none when it refuses the question.
    pub async fn find(&self, wanted: WantedAnswer) -> Option<FoundAnswer> {
        self.find.ask(wanted).await
    }

    /// Records what came of a question, however long the database is unavailable.
    pub async fn end(&self, end: AnswerEnd) {
        // Refused: the question is free when its row is no longer processing.
        let _ = self.end.ask(end).await;
    }
}

/// A row that went on for others of its worker. However it ends, they learn of it.
pub(crate) struct Flight {
    cache: Arc<AnswerCache>,
    key: KeyHash,
    sender: watch::Sender<FlightEnd>,
}

impl Flight {
    /// The answer, for the rows that wait and those that come until it is over.
    pub fn kept(self, outputs: &Outputs, expires_at: Timestamp) {
        let bytes = serde_json::to_string(outputs.as_ref())
            .map_or(usize::MAX, |text| text.len())
            .saturating_add(BESIDE);
        let mut here = self.cache.here.lock().unwrap_or_else(PoisonError::into_inner);
        here.keep(self.key, outputs.clone(), expires_at, bytes);
        drop(here);
        self.sender.send_replace(FlightEnd::Kept(outputs.clone()));
    }

    /// How else it ended, for the rows that wait.
    pub fn ended(self, end: FlightEnd) {
        self.sender.send_replace(end);
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.cache.here.lock().unwrap_or_else(PoisonError::into_inner).flights.remove(&self.key);
    }
}

/// What came of a flight; none when its row ended without saying: another one goes on.
pub(crate) async fn end_of(mut flight: watch::Receiver<FlightEnd>) -> Option<FlightEnd> {
    let end = flight.wait_for(|end| !matches!(end, FlightEnd::UnderWay)).await.ok()?;
    Some(end.clone())
}

#[cfg(test)]
mod tests {
    use penstock_store::StoreError;
    use serde_json::json;

    use super::*;

    fn cache() -> Arc<AnswerCache> {
        let stop = CancellationToken::new();
        let refuses = || StoreError::NotFound { what: "an answer" };
        Arc::new(AnswerCache {
            here: Mutex::default(),
            find: Grouped::open("find", &stop, move |_| async move { Err(refuses()) }),
            end: Grouped::open("end", &stop, move |_| async move { Err(refuses()) }),
        })
    }

    fn outputs(text: &str) -> Outputs {
        Arc::new(json!({ "a": text }).as_object().cloned().unwrap_or_default())
    }

    const fn at(second: i64) -> Timestamp {
        Timestamp::from_millis(second * 1000)
    }

    #[tokio::test]
    async fn one_goes_on_and_the_others_learn_what_came_of_it() {
        let (cache, key) = (cache(), [7; 32]);
        let Known::First(flight) = cache.look(&key, at(0)) else { panic!("nobody went on before") };
        let Known::UnderWay(waits) = cache.look(&key, at(0)) else { panic!("one has") };
        let waiting = tokio::spawn(end_of(waits));
        flight.kept(&outputs("x"), at(10));
        assert!(
            matches!(waiting.await.expect("it ends"), Some(FlightEnd::Kept(found)) if found == outputs("x"))
        );
        assert!(matches!(cache.look(&key, at(9)), Known::Kept(_)));
        // Its time is over, and the next one's row ends without a word.
        let Known::First(flight) = cache.look(&key, at(10)) else { panic!("nothing is known any more") };
        let Known::UnderWay(waits) = cache.look(&key, at(10)) else { panic!("one goes on") };
        drop(flight);
        assert!(end_of(waits).await.is_none());
        assert!(matches!(cache.look(&key, at(10)), Known::First(_)));
    }

    #[tokio::test]
    async fn what_is_known_here_is_bounded() {
        let cache = cache();
        let long = outputs(&"x".repeat(LONGEST - 2 * BESIDE));
        let key = |number: u8| [number; 32];
        for number in 0..=200 {
            let Known::First(flight) = cache.look(&key(number), at(0)) else { panic!("each is new") };
            flight.kept(&long, at(10));
        }
        assert!(cache.here.lock().expect("no panic").bytes <= MOST_BYTES);
        assert!(matches!(cache.look(&key(200), at(0)), Known::Kept(_)));
        assert!(matches!(cache.look(&key(0), at(0)), Known::First(_)), "the oldest went first");
        let Known::First(flight) = cache.look(&key(255), at(0)) else { panic!("it is new") };
        flight.kept(&outputs(&"x".repeat(LONGEST)), at(10));
        assert!(matches!(cache.look(&key(255), at(0)), Known::First(_)), "too long to be known here");
    }
}
