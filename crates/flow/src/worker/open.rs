//! What is stored of a row, opened; and what it means when it cannot be.

use std::collections::BTreeMap;

use penstock_crypto::OpenError;
use penstock_domain::csv::RowOrigin;
use penstock_domain::row::RowError;
use penstock_store::work::ClaimedRow;
use serde_json::{Map, Value};

use crate::context::error::FlowError;
use crate::context::secrets::SecretLocation;
use crate::worker::batches::BatchWork;
use crate::worker::kept_polls::Kept;

/// A row that was opened.
#[derive(Debug)]
pub(crate) struct OpenedRow {
    /// Its values by column.
    pub values: BTreeMap<String, String>,
    /// The row whose idempotency keys it keeps, if it is a line of that row's report.
    pub origin: Option<RowOrigin>,
    /// The outputs of finished steps.
    pub outputs: Map<String, Value>,
    /// What is kept of the step after them.
    pub kept: Option<Kept>,
    /// What an earlier attempt left.
    pub error: Option<RowError>,
}

/// Opens a claimed row.
///
/// # Errors
/// When something that the row needs cannot be read; [`is_the_rows_own`] decides whether that ends it.
pub(crate) fn open(work: &BatchWork, claimed: &ClaimedRow) -> Result<OpenedRow, FlowError> {
    let secrets = &work.secrets;
    let number = claimed.row.number;
    let mut outputs = Map::new();
    let mut kept = None;
    for (index, receipt) in claimed.receipts.iter().enumerate() {
        // Receipts are a prefix of the steps; one after a gap is of no use.
        let Some(step) = work.pipeline.steps.get(index).filter(|_| usize::from(receipt.step) == index) else {
            break;
        };
        let output: Value =
            secrets.open_json(SecretLocation::Receipt(number, receipt.step), &receipt.sealed)?;
        if output.is_array() {
            let found = Kept::from_json(output);
            let found =
                found.ok_or_else(|| FlowError::Inconsistent("a kept answer cannot be read".into()))?;
            kept = Some(match found {
                // A person has retried the row: it looks at once, and has the whole time again, whatever ended it before.
                Kept::Poll(poll) if claimed.first_claimed_at.is_none() => Kept::Poll(poll.for_retry()),
                found => found,
            });
            break;
        }
        outputs.insert(step.name.clone(), output);
    }
    let error = claimed.error.as_ref().and_then(|sealed| {
        let error = secrets.open_json::<RowError>(SecretLocation::Error(number), sealed);
        // Nothing depends on it: the row goes on as if there had been no attempt.
        error.inspect_err(|error| {
            tracing::warn!(%error, batch = %work.id, row = number, "the row's earlier attempts cannot be read");
        })
        .ok()
    });
    let payload = secrets.open(SecretLocation::Payload(number), &claimed.payload)?;
    let unreadable = |error| FlowError::Inconsistent(format!("row {number} cannot be read again: {error}"));
    let values = work.header.values(&payload, &work.pipeline.schema).map_err(unreadable)?;
    let origin = work.header.origin(&payload).map_err(unreadable)?;
    Ok(OpenedRow { values, origin, outputs, kept, error })
}

/// Whether an error of [`open`] is about what is stored of the row, and so the same everywhere and permanently: the row
/// fails. Anything else may be missing in this worker only, and the row is requeued for another.
pub(crate) fn is_the_rows_own(error: &FlowError) -> bool {
    match error {
        // The data key was opened before: what it rejects is not what it sealed there.
        FlowError::Sealed { source, .. } => match source {
            OpenError::Rejected | OpenError::Malformed | OpenError::Truncated => true,
            OpenError::UnknownKey(_)
            | OpenError::NoKey
            | OpenError::EpochDropped
            | OpenError::EarlierForm
            | OpenError::NoRandomness => false,
        },
        FlowError::Inconsistent(_) => true,
        FlowError::Store(_)
        | FlowError::Objects(_)
        | FlowError::NoBucket(_)
        | FlowError::Queue(_)
        | FlowError::Busy(_)
        | FlowError::Erased
        | FlowError::Definition { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use penstock_crypto::DataKey;
    use penstock_domain::ids::{BatchId, BatchSeq, OwnerSeq, RowRef};
    use penstock_domain::pipeline::Pipeline;
    use penstock_domain::row::Receipt;
    use penstock_domain::time::Timestamp;
    use serde_json::json;
    use uuid::Uuid;

    use super::*;
    use crate::context::secrets::SecretsOf;
    use crate::worker::kept_answers::KeptAnswer;
    use crate::worker::kept_polls::KeptPoll;
    use crate::worker::lanes::Owner;

    const DEFINITION: &str = "name: p\ncsv: { columns: [ { name: a }, { name: b } ] }\n\
        dependencies: { d: { base_url: \"http://d.example\" } }\n\
        steps: [ { name: s, dependency: d, request: { method: GET, path: /s }, output: { id: \"{{ body.id }}\" } } ]\n";

    fn work() -> BatchWork {
        let id = Uuid::from_u128(7);
        let key = DataKey::generate(&ring::rand::SystemRandom::new()).unwrap();
        BatchWork {
            replaced: 0,
            owners_values_from: None,
            secret_values: penstock_domain::pipeline::SecretValues::default(),
            seq: BatchSeq(1),
            id,
            name: None,
            owner: Owner { seq: OwnerSeq(1), weight: 1 },
            owner_name: "acme".into(),
            pipeline: Arc::new(Pipeline::load("p.yaml", DEFINITION, &|_| None).unwrap()),
            dependencies: Vec::new(),
            file_bytes: 8,
            created_at: penstock_domain::time::Timestamp::from_millis(0),
            run: 1,
            secrets: SecretsOf::new(BatchId(id), Arc::new(key), json!({})),
            header: Arc::new(serde_json::from_value(json!({ "columns": ["a", "b"], "fields": 2 })).unwrap()),
            held: crate::worker::held::HeldAt::default(),
        }
    }

    fn row(work: &BatchWork) -> ClaimedRow {
        let secrets = &work.secrets;
        let error = RowError {
            code: "http_500".into(),
            step: None,
            http_status: None,
            message: String::new(),
            sent: None,
            detail: None,
            attempts: Vec::new(),
            throttled: None,
            series_clock: None,
            earlier_attempts: None,
            awaits_since: None,
            look: false,
        };
        ClaimedRow {
            row: RowRef { batch: work.seq, number: 3 },
            line: 4,
            attempts: 1,
            crashes: 0,
            first_claimed_at: None,
            payload: secrets.seal(SecretLocation::Payload(3), b"1,2"),
            receipts: vec![Receipt {
                step: 0,
                sealed: secrets.seal_json(SecretLocation::Receipt(3, 0), &json!({ "id": 9 })),
            }],
            error: Some(secrets.seal_json(SecretLocation::Error(3), &error)),
            call: None,
            run: 1,
        }
    }

    #[test]
    fn what_is_stored_of_a_row_is_opened_or_ends_it() {
        let work = work();
        let good = open(&work, &row(&work)).unwrap();
        assert_eq!((good.values["a"].as_str(), &good.outputs["s"]["id"]), ("1", &json!(9)));
        let other_rows = work.secrets.seal(SecretLocation::Payload(4), b"1,2");
        let mut turned = row(&work).payload;
        turned[20] ^= 1;
        let payloads = [
            turned,
            other_rows,
            Vec::new(),
            vec![0; 64],
            work.secrets.seal(SecretLocation::Payload(3), b"1"),
            work.secrets.seal(SecretLocation::Payload(3), b"1,\"2"),
            work.secrets.seal(SecretLocation::Payload(3), b""),
            work.secrets.seal(SecretLocation::Payload(3), b"\xff,2"),
        ];
        for payload in payloads {
            let error = open(&work, &ClaimedRow { payload, ..row(&work) }).unwrap_err();
            assert!(is_the_rows_own(&error), "{error}");
        }
        for sealed in [
            vec![1; 64],
            work.secrets.seal(SecretLocation::Receipt(3, 0), b"not json"),
            work.secrets.seal(SecretLocation::Receipt(3, 0), b"[1]"),
        ] {
            let receipts = vec![Receipt { step: 0, sealed }];
            let error = open(&work, &ClaimedRow { receipts, ..row(&work) }).unwrap_err();
            assert!(is_the_rows_own(&error), "{error}");
        }
        let answer = KeptAnswer {
            status: 200,
            headers: BTreeMap::new(),
            body: json!({ "ID": 9 }),
            fault: None,
            signature: Vec::new(),
        };
        let sealed = work.secrets.seal_json(SecretLocation::Receipt(3, 0), &answer.to_json());
        let kept =
            open(&work, &ClaimedRow { receipts: vec![Receipt { step: 0, sealed }], ..row(&work) }).unwrap();
        assert_eq!((kept.kept, kept.outputs.len()), (Some(Kept::Answer(answer)), 0), "the step is not done");
        let lost = open(&work, &ClaimedRow { error: Some(vec![1; 64]), ..row(&work) }).unwrap();
        assert!(lost.error.is_none() && lost.values["b"] == "2", "a story that cannot be read ends nothing");
    }

    #[test]
    fn a_row_that_is_retried_has_the_whole_time_to_wait_for_its_result_again() {
        let work = work();
        let long_ago = Some(Timestamp::from_millis(1000));
        let poll = KeptPoll {
            target: Some("/jobs/7".into()),
            since: long_ago,
            looks: 9,
            next: long_ago,
            answer: None,
            clock: None,
        };
        let sealed = work.secrets.seal_json(SecretLocation::Receipt(3, 0), &poll.to_json());
        let claimed = ClaimedRow { receipts: vec![Receipt { step: 0, sealed }], ..row(&work) };
        let kept = |first_claimed_at| {
            let claimed = ClaimedRow { first_claimed_at, ..claimed.clone() };
            open(&work, &claimed).unwrap().kept
        };
        assert_eq!(kept(long_ago), Some(Kept::Poll(poll.clone())), "it waits");
        let anew = KeptPoll { target: poll.target, ..KeptPoll::default() };
        assert_eq!(kept(None), Some(Kept::Poll(anew)), "it was retried, whatever had ended it");
    }

    #[test]
    fn what_a_worker_lacks_ends_no_row() {
        let sealed = |source| FlowError::Sealed { what: "the batch's data key", source };
        let elsewhere = [
            sealed(OpenError::UnknownKey("new".into())),
            sealed(OpenError::NoRandomness),
            FlowError::Erased,
            FlowError::Definition { pipeline: "p".into(), reason: "a variable is missing".into() },
        ];
        for error in elsewhere {
            assert!(!is_the_rows_own(&error), "{error}");
        }
    }
}
