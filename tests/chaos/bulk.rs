//! Bulk calls in the same storm: a downstream that is silent, breaks off, answers 500, 429, 422, 207 and garbage, before an effect and
//! after it, and that records which rows came with which key.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use penstock_tests::receiver::{Answer, Heard, Receiver};
use serde_json::{Value, json};

/// What may be done with a call that had no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// It is made again with its key.
    Keyed,
    /// It is made again, with any rows.
    Harmless,
    /// It is never made again.
    Once,
}

/// The variable with the downstream's address.
pub const URL: &str = "ADDRESS_BULK_URL";

impl Kind {
    /// Each of them.
    pub const ALL: [Self; 3] = [Self::Keyed, Self::Harmless, Self::Once];

    fn name(self) -> &'static str {
        match self {
            Self::Keyed => "keyed",
            Self::Harmless => "harmless",
            Self::Once => "once",
        }
    }

    /// One call for up to twenty rows, each with an answer of its own; the file's name and its text.
    pub fn definition(self) -> (String, String) {
        let (name, request) = match self {
            Self::Keyed => ("keyed", "idempotency_key: true"),
            Self::Harmless => ("harmless", "idempotent: true"),
            Self::Once => ("once", "idempotent: false"),
        };
        let text = format!(
            "name: {name}\ncsv: {{ columns: [ {{ name: id, required: true }} ] }}\n\
             dependencies: {{ api: {{ base_url: \"${{{URL}}}\", timeout: 2s }} }}\nsteps:\n\
             \x20 - name: create\n    dependency: api\n\
             \x20   request: {{ method: POST, path: /{name}, {request}, json: {{ rows: {{ each: {{ id: \"{{{{ row.id }}}}\" }} }} }} }}\n\
             \x20   bulk:\n      max_rows: 20\n      results: \"{{{{ body.results }}}}\"\n\
             \x20     match: {{ result: \"{{{{ result.id }}}}\", row: \"{{{{ row.id }}}}\" }}\n\
             \x20     response: {{ status: \"{{{{ result.status }}}}\", body: \"{{{{ result }}}}\" }}\n\
             retry: {{ attempts: 50, backoff: {{ initial: 50ms, factor: 1, max: 50ms }} }}\ndispatch: {{ spread: 0s, rows_per_owner: 50000 }}\n"
        );
        (format!("{name}.yaml"), text)
    }

    /// Where its batches are uploaded.
    pub fn route(self) -> String {
        format!("/v2/pipelines/{}/batches", self.name())
    }
}

/// A file of so many rows.
pub fn file(rows: u32) -> String {
    (0..rows).fold("id\n".to_owned(), |csv, row| csv + &format!("r{row}\n"))
}

/// What the downstream knows of one kind of calls.
#[derive(Default)]
struct Record {
    calls: u64,
    /// How often each row had its effect.
    effects: BTreeMap<String, u32>,
    /// The rows of each key's first call, and its answer.
    keys: HashMap<String, (Vec<String>, String)>,
    /// Keys that came with other rows than at first.
    mixed: u32,
    unkeyed: u32,
}

impl Record {
    /// The answer to a call: the same for the same key, if it has one.
    fn create(&mut self, key: &str, ids: Vec<String>, throttled: Option<usize>) -> String {
        self.unkeyed += u32::from(key.is_empty());
        if let Some((before, answer)) = self.keys.get(key).filter(|_| !key.is_empty()) {
            self.mixed += u32::from(*before != ids);
            return answer.clone();
        }
        let mut results = Vec::with_capacity(ids.len());
        for (index, id) in ids.iter().enumerate() {
            let status = if throttled == Some(index) { 429 } else { 201 };
            if status == 201 {
                *self.effects.entry(id.clone()).or_default() += 1;
            }
            results.push(json!({ "id": id, "status": status }));
        }
        let answer = json!({ "results": results }).to_string();
        self.keys.insert(key.to_owned(), (ids, answer.clone()));
        answer
    }

    fn answer(&mut self, heard: &Heard) -> Answer {
        let body = heard.json();
        let text = |row: &Value| row["id"].as_str().unwrap_or_default().to_owned();
        let ids: Vec<String> = body["rows"].as_array().into_iter().flatten().map(text).collect();
        let key = heard.header("idempotency-key").to_owned();
        self.calls += 1;
        let other = |status: u16, body: &str| Answer { status, ..Answer::json(body) };
        // A fixed order of faults, each in one of 40 calls.
        match self.calls * 17 % 40 {
            1 => other(0, ""),
            2 => other(500, "{}"),
            3 => Answer { headers: "retry-after: 1\r\n".into(), ..other(429, "{}") },
            4 if !self.keys.contains_key(&key) => other(422, "{\"code\":\"moody\"}"),
            5 => {
                self.create(&key, ids, None);
                other(0, "")
            }
            6 => {
                self.create(&key, ids, None);
                other(500, "{}")
            }
            7 => {
                self.create(&key, ids, None);
                other(200, "no JSON at all")
            }
            8 | 9 => other(207, &self.create(&key, ids, Some(0))),
            _ => other(200, &self.create(&key, ids, None)),
        }
    }
}

/// The downstream.
pub struct Downstream {
    /// Where it listens.
    pub url: String,
    records: Arc<Mutex<BTreeMap<String, Record>>>,
}

impl Downstream {
    /// Starts it.
    pub async fn start() -> Self {
        let (receiver, records) = (Receiver::start().await, Arc::<Mutex<BTreeMap<_, Record>>>::default());
        let shared = records.clone();
        receiver.answer_with(move |heard| {
            let mut records = shared.lock().expect("no panic");
            records.entry(heard.path.trim_start_matches('/').to_owned()).or_default().answer(heard)
        });
        Self { url: receiver.url, records }
    }

    /// Each row that completed had its effect, unless the step is harmless to repeat no row had two, and each key came with its own
    /// rows. Where a call is never made again, `unknown` rows say that they may have had theirs.
    pub fn check(&self, kind: Kind, rows: u32, completed: u64, unknown: u64) {
        let records = self.records.lock().expect("no panic");
        let record = &records[kind.name()];
        let (calls, effects) = (record.calls, u64::try_from(record.effects.len()).expect("few"));
        println!(
            "{rows} rows in {calls} bulk calls, {kind:?}: {completed} completed, {effects} effects, {unknown} unknown"
        );
        assert!((completed..=u64::from(rows)).contains(&effects), "{effects} effects, {completed} completed");
        let twice: Vec<_> = record.effects.iter().filter(|(_, times)| **times > 1).collect();
        match kind {
            Kind::Keyed => assert_eq!((record.mixed, record.unkeyed, twice), (0, 0, vec![])),
            Kind::Harmless => {}
            Kind::Once => {
                assert!(twice.is_empty(), "two effects: {twice:?}");
                assert!(
                    effects - completed <= unknown,
                    "{effects} effects, {completed} completed, {unknown} unknown"
                );
            }
        }
    }
}
