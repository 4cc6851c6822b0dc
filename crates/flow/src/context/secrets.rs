//! What is sealed of a batch, opened: its data key and context, kept for a while.
//!
//! The places of ciphertexts are named here, once: a value sealed for one place opens in no other (promise 8).

use std::sync::Arc;

use penstock_crypto::{Ad, DataKey};
use penstock_domain::csv::HeaderMap;
use penstock_domain::ids::{BatchId, BatchSeq, RowNumber};
use penstock_domain::json;
use penstock_store::batches::Batch;
use penstock_store::duplicates::KeyHash;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::Instant;
use uuid::Uuid;

use crate::context::cache::Kept;
use crate::context::error::FlowError;

/// Bytes of an opened key beside the batch's context and header.
const KEY_BYTES: usize = 4 * 1024;

/// The table of answers that rows have in common.
pub(crate) const ANSWERS: &str = "cached_answers";

/// A key's hash in hexadecimal digits.
pub(crate) fn key_text(key: &KeyHash) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Where a ciphertext of a row or batch lies.
#[derive(Clone, Copy, Debug)]
pub enum SecretLocation {
    /// A row's record.
    Payload(RowNumber),
    /// A row's result.
    Result(RowNumber),
    /// A row's error.
    Error(RowNumber),
    /// A finished step's output.
    Receipt(RowNumber, u16),
    /// The request's context.
    Context,
    /// How the file's records are read.
    Header,
    /// What the errors of the file say.
    Failure,
    /// The words of the answer that holds the batch.
    Hold,
}

/// A batch's opened secrets.
#[derive(Clone)]
pub struct SecretsOf {
    batch: BatchId,
    key: Arc<DataKey>,
    pub(crate) context: Arc<Value>,
    pub(crate) header: Option<Arc<HeaderMap>>,
    pub(crate) bytes: usize,
    opened: Instant,
}

impl SecretsOf {
    /// The secrets of a batch that is being made.
    pub fn new(batch: BatchId, key: Arc<DataKey>, context: Value) -> Self {
        let (context, opened) = (Arc::new(context), Instant::now());
        Self { batch, key, context, header: None, bytes: KEY_BYTES, opened }
    }

    /// Bytes that they take in memory, about.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Since when they are in memory.
    pub(crate) fn opened(&self) -> Instant {
        self.opened
    }

    /// How the file's records are read; none until somebody has read the file.
    pub fn header(&self) -> Option<&Arc<HeaderMap>> {
        self.header.as_ref()
    }

    /// The same of a batch whose file has been read by now.
    #[must_use]
    pub fn with_header(mut self, header: HeaderMap) -> Self {
        self.header = Some(Arc::new(header));
        self
    }

    /// The context that came with the upload; an empty object when none did.
    pub fn context(&self) -> &Arc<Value> {
        &self.context
    }

    /// The data key, for the file.
    pub fn key(&self) -> &DataKey {
        &self.key
    }

    /// The same for what outlives a borrow.
    pub(crate) fn shared_key(&self) -> Arc<DataKey> {
        self.key.clone()
    }

    /// Seals bytes for their place.
    pub fn seal(&self, place: SecretLocation, plain: &[u8]) -> Vec<u8> {
        let mut column = [0; 8];
        self.key.seal(ad(self.batch, place, &mut column), plain)
    }

    /// Opens bytes from their place.
    ///
    /// # Errors
    /// When they were sealed for another place, under another key, or changed since.
    pub fn open(&self, place: SecretLocation, sealed: &[u8]) -> Result<Vec<u8>, FlowError> {
        let mut column = [0; 8];
        self.key
            .open(ad(self.batch, place, &mut column), sealed)
            .map_err(|source| FlowError::Sealed { what: what(place), source })
    }

    /// Seals an answer that the batch's rows have in common, or why there is none, for its column.
    pub(crate) fn seal_answer(&self, key: &KeyHash, column: &str, plain: &[u8]) -> Vec<u8> {
        let place = format!("{column}/{}", key_text(key));
        self.key.seal(Ad { table: ANSWERS, batch: self.batch.0, row: 0, column: &place }, plain)
    }

    /// Opens [`SecretsOf::seal_answer`].
    ///
    /// # Errors
    /// As [`SecretsOf::open`].
    pub(crate) fn open_answer(
        &self,
        key: &KeyHash,
        column: &str,
        sealed: &[u8],
    ) -> Result<Vec<u8>, FlowError> {
        let place = format!("{column}/{}", key_text(key));
        let ad = Ad { table: ANSWERS, batch: self.batch.0, row: 0, column: &place };
        self.key.open(ad, sealed).map_err(|source| FlowError::Sealed { what: "a kept answer", source })
    }

    /// Seals a value as JSON.
    ///
    /// # Panics
    /// When JSON cannot hold the value: a defect, because values here have string keys and finite numbers.
    pub fn seal_json(&self, place: SecretLocation, value: &impl Serialize) -> Vec<u8> {
        let plain = serde_json::to_vec(value).expect("JSON holds the value");
        self.seal(place, &plain)
    }

    /// Opens a value from JSON.
    ///
    /// # Errors
    /// As [`SecretsOf::open`], and when it is not what was sealed there.
    pub fn open_json<T: DeserializeOwned>(
        &self,
        place: SecretLocation,
        sealed: &[u8],
    ) -> Result<T, FlowError> {
        self.read_json(place, &self.open(place, sealed)?)
    }

    pub(crate) fn read_json<T: DeserializeOwned>(
        &self,
        place: SecretLocation,
        plain: &[u8],
    ) -> Result<T, FlowError> {
        json::read_stored(plain).map_err(|_| {
            FlowError::Inconsistent(format!("{} of batch {} is not JSON", what(place), self.batch))
        })
    }
}

fn what(place: SecretLocation) -> &'static str {
    match place {
        SecretLocation::Payload(_) => "a row's record",
        SecretLocation::Result(_) => "a row's result",
        SecretLocation::Error(_) => "a row's error",
        SecretLocation::Receipt(..) => "a step's output",
        SecretLocation::Context => "the context",
        SecretLocation::Header => "the file's header",
        SecretLocation::Failure => "the file's errors",
        SecretLocation::Hold => "why the batch is held",
    }
}

fn ad(batch: BatchId, place: SecretLocation, column: &mut [u8; 8]) -> Ad<'_> {
    let (table, row, column) = match place {
        SecretLocation::Payload(row) => ("row_data", row, "payload"),
        SecretLocation::Result(row) => ("row_output", row, "result"),
        SecretLocation::Error(row) => ("row_output", row, "error"),
        SecretLocation::Receipt(row, step) => ("row_receipts", row, decimal(step, column)),
        SecretLocation::Context => ("batch_keys", 0, "context"),
        SecretLocation::Header => ("batch_keys", 0, "header"),
        SecretLocation::Failure => ("batch_keys", 0, "failure"),
        SecretLocation::Hold => ("batch_holds", 0, "words"),
    };
    Ad { table, batch: batch.0, row, column }
}

/// `number` in decimal digits, without an allocation.
fn decimal(mut number: u16, buffer: &mut [u8; 8]) -> &str {
    let mut at = buffer.len();
    loop {
        at -= 1;
        buffer[at] = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
        if number == 0 {
            break;
        }
    }
    std::str::from_utf8(&buffer[at..]).unwrap_or_default()
}

/// A batch whose rows were to be read before its file was, or whose header is damaged.
pub(crate) fn unreadable_header(batch: &Batch) -> FlowError {
    FlowError::Inconsistent(format!("batch {} has no header that can be read", batch.id))
}

/// Opened secrets by batch.
#[derive(Default)]
pub struct Secrets {
    kept: Kept<BatchSeq, (Record, SecretsOf)>,
    /// The installation's own secret, once it was opened: it is never another one.
    pub(crate) installation: tokio::sync::OnceCell<[u8; 32]>,
}

/// Of which record opened secrets are: one that was changed since opens anew, or not at all.
type Record = (BatchId, String, String, Uuid);

/// What of a batch's record its key is bound to.
fn record_of(batch: &Batch) -> Record {
    (batch.id, batch.owner_name.clone(), batch.pipeline.clone(), batch.version)
}

impl Secrets {
    pub(crate) fn kept_of(&self, batch: &Batch) -> Option<SecretsOf> {
        let kept = self.kept.get(&batch.seq).filter(|(record, _)| *record == record_of(batch));
        kept.map(|(_, secrets)| secrets)
    }

    pub(crate) fn keep(&self, batch: &Batch, secrets: &SecretsOf) {
        self.kept.insert(batch.seq, (record_of(batch), secrets.clone()), secrets.bytes, secrets.opened);
    }

    /// Drops what is kept of a batch.
    pub fn forget(&self, batch: BatchSeq) {
        self.kept.remove(&batch);
    }
}
