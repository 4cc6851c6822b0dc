//! The JSON Schema of a definition, for editors: asked of the loader itself, so that neither has a key that the other lacks.
//!
//! At each place of a definition the loader is given values of every form, and its errors tell which of them belong there: which keys
//! it knows, which of them are missing, which words it takes.

use serde::Deserialize as _;
use serde_json::{Map, Value, json};
use serde_saphyr::{Error, Location};

use super::definition::Definition;
use super::yaml::{Entry, Kind, Node, NodeMap, Reader};

/// No definition has a key of this name.
const NO_KEY: &str = "\u{1}";

/// A text that is no word and no number.
const TEXT: &str = "'(any text)'";

/// Texts that are tried where not every text is taken, each with the pattern that it stands for.
const TEXTS: [(&str, &str); 3] = [
    ("1s", r"^[0-9]+(\.[0-9]+)?\s*(ms|s|m|h|d)$"),
    ("1 %", r"^([0-9]+(\.[0-9]+)?\s*%|0(\.[0-9]+)?|1(\.0+)?)$"),
    ("'08:00'", r"^[0-2][0-9]:[0-5][0-9]$"),
];

/// Values are nested no deeper than this; templates take any value.
const DEEPEST: usize = 12;

/// The JSON Schema (2020-12) of a definition.
pub fn schema() -> Value {
    let mut schema = Map::new();
    schema.insert("$schema".into(), "https://json-schema.org/draft/2020-12/schema".into());
    schema.insert("title".into(), "Penstock pipeline".into());
    if let Value::Object(keys) = at(&mut Vec::new()) {
        schema.extend(keys);
    }
    Value::Object(schema)
}

/// A step on the way to a place.
#[derive(Clone)]
enum Way {
    Key(String),
    Item,
}

/// What the loader says about a value.
enum Said {
    Accepted,
    /// These keys belong there.
    Keys(Vec<&'static str>),
    /// These words belong there.
    Words(Vec<&'static str>),
    /// This key is missing.
    Lacks(&'static str),
    /// The value is none that belongs there.
    Refused,
    /// Something within the value is none that belongs there.
    RefusedWithin,
}

/// What belongs at a place.
fn at(way: &mut Vec<Way>) -> Value {
    let takes = |value| matches!(say(way, value), Said::Accepted);
    let is_anything = takes(Kind::Scalar(TEXT)) && takes(Kind::List(Vec::new())) && takes(bogus());
    if is_anything || way.len() > DEEPEST {
        return json!(true);
    }
    let mut forms = scalars(way);
    forms.extend(object(way));
    if matches!(say(way, Kind::List(Vec::new())), Said::Accepted) {
        way.push(Way::Item);
        let items = at(way);
        way.pop();
        forms.push(json!({ "type": "array", "items": items }));
    }
    match forms.len() {
        0 => json!(true),
        1 => forms.remove(0),
        _ => json!({ "anyOf": forms }),
    }
}

/// The scalars that belong at a place.
fn scalars(way: &[Way]) -> Vec<Value> {
    let takes = |written: &'static str| matches!(say(way, Kind::Scalar(written)), Said::Accepted);
    let mut forms = Vec::new();
    match say(way, Kind::Scalar(TEXT)) {
        // A text that looks like a number needs no quotes.
        Said::Accepted if takes("0.5") => return vec![json!({ "type": ["string", "number", "boolean"] })],
        Said::Accepted => forms.push(json!({ "type": "string" })),
        Said::Words(words) => forms.push(json!({ "enum": words })),
        _ => {
            let patterns = TEXTS.iter().filter(|(text, _)| takes(text));
            forms.extend(patterns.map(|(_, pattern)| json!({ "type": "string", "pattern": pattern })));
        }
    }
    forms.extend(takes("true").then(|| json!({ "type": "boolean" })));
    if takes("0.5") {
        forms.push(json!({ "type": "number" }));
    } else if takes("1") {
        forms.push(if takes("-1") {
            json!({ "type": "integer" })
        } else {
            json!({ "type": "integer", "minimum": 0 })
        });
    }
    forms
}

/// A map with a key that no definition has.
fn bogus() -> Kind<'static> {
    Kind::Map(NodeMap { entries: vec![entry(NO_KEY, Kind::Scalar("~"))], ..NodeMap::default() })
}

/// The keys that belong at a place, if keys do.
fn object(way: &mut Vec<Way>) -> Option<Value> {
    match say(way, bogus()) {
        Said::Keys(keys) => {
            let mut properties = Map::new();
            for key in &keys {
                way.push(Way::Key((*key).to_owned()));
                properties.insert((*key).to_owned(), at(way));
                way.pop();
            }
            let required = required(way, keys.len());
            let mut object =
                json!({ "type": "object", "properties": properties, "additionalProperties": false });
            if !required.is_empty() {
                object["required"] = json!(required);
            }
            Some(object)
        }
        Said::Accepted | Said::RefusedWithin => {
            way.push(Way::Key(NO_KEY.to_owned()));
            let values = at(way);
            way.pop();
            Some(json!({ "type": "object", "additionalProperties": values }))
        }
        Said::Lacks(_) | Said::Refused | Said::Words(_) => None,
    }
}

/// The keys without which a value is none.
fn required(way: &[Way], keys: usize) -> Vec<&'static str> {
    let mut required: Vec<&'static str> = Vec::new();
    while required.len() <= keys {
        let entries = required.iter().filter_map(|key| Some(entry(key, sample(way, key)?))).collect();
        match say(way, Kind::Map(NodeMap { entries, ..NodeMap::default() })) {
            Said::Lacks(key) if !required.contains(&key) => required.push(key),
            _ => break,
        }
    }
    required
}

/// A value that the loader takes for a key.
fn sample(way: &[Way], key: &str) -> Option<Kind<'static>> {
    let way = [way, &[Way::Key(key.to_owned())]].concat();
    let texts = [TEXT, "GET", "1s", "'1 %'", "1", "true", "'08:00'"];
    for written in texts {
        match say(&way, Kind::Scalar(written)) {
            Said::Accepted => return Some(Kind::Scalar(written)),
            Said::Words(words) => return words.first().map(|word| Kind::Scalar(word)),
            _ => {}
        }
    }
    if matches!(say(&way, Kind::List(Vec::new())), Said::Accepted) {
        return Some(Kind::List(Vec::new()));
    }
    // Keys of keys: those that are missing there.
    let mut entries: Vec<Entry<'static>> = Vec::new();
    for _ in 0..DEEPEST {
        let again = entries.iter().map(|one| entry(&one.key, copy(&one.value.kind))).collect();
        match say(&way, Kind::Map(NodeMap { entries: again, ..NodeMap::default() })) {
            Said::Lacks(key) => entries.push(entry(key, sample(&way, key)?)),
            Said::Accepted => return Some(Kind::Map(NodeMap { entries, ..NodeMap::default() })),
            _ => return None,
        }
    }
    None
}

fn copy(kind: &Kind<'static>) -> Kind<'static> {
    match kind {
        Kind::Scalar(text) => Kind::Scalar(text),
        Kind::Block(text) => Kind::Block(text.clone()),
        Kind::List(items) => Kind::List(items.iter().map(|item| node(copy(&item.kind))).collect()),
        Kind::Map(map) => {
            let entries = map.entries.iter().map(|one| entry(&one.key, copy(&one.value.kind))).collect();
            Kind::Map(NodeMap { entries, ..NodeMap::default() })
        }
    }
}

/// A place in a text: values are read with theirs.
fn place() -> Location {
    Node::parse("x", &[]).map_or(Location::UNKNOWN, |node| node.referenced)
}

fn node(kind: Kind<'_>) -> Node<'_> {
    let place = place();
    Node { kind, referenced: place, defined: place }
}

fn entry<'t>(key: &str, value: Kind<'t>) -> Entry<'t> {
    Entry { key: key.to_owned(), at: Location::UNKNOWN, value: node(value) }
}

/// What the loader says about a value at a place, where nothing else is written.
fn say(way: &[Way], value: Kind<'_>) -> Said {
    let mut whole = node(value);
    for one in way.iter().rev() {
        whole = node(match one {
            Way::Key(key) => {
                let entries = vec![Entry { key: key.clone(), at: Location::UNKNOWN, value: whole }];
                Kind::Map(NodeMap { entries, ..NodeMap::default() })
            }
            Way::Item => Kind::List(vec![whole]),
        });
    }
    let Err(error) = Definition::deserialize(Reader(&whole)) else { return Said::Accepted };
    // What is missing around the place is found after the place itself was accepted.
    if error.path.len() < way.len() {
        return Said::Accepted;
    }
    let within = error.path.len() > way.len();
    match error.error.without_snippet() {
        _ if within => Said::RefusedWithin,
        Error::SerdeUnknownField { expected, .. } => Said::Keys(expected.clone()),
        Error::SerdeUnknownVariant { expected, .. } => Said::Words(expected.clone()),
        Error::SerdeMissingField { field, .. } => Said::Lacks(field),
        _ => Said::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a value is as a schema says: the words that ours has.
    fn fits(value: &Value, schema: &Value) -> bool {
        let Some(schema) = schema.as_object() else { return schema == &json!(true) };
        schema.iter().all(|(word, wanted)| match word.as_str() {
            "anyOf" => wanted.as_array().unwrap().iter().any(|one| fits(value, one)),
            "enum" => wanted.as_array().unwrap().contains(value),
            "type" if wanted.is_array() => {
                wanted.as_array().unwrap().iter().any(|one| is(value, one.as_str().unwrap()))
            }
            "type" => is(value, wanted.as_str().unwrap()),
            "pattern" => value
                .as_str()
                .is_none_or(|text| regex::Regex::new(wanted.as_str().unwrap()).unwrap().is_match(text)),
            "minimum" => value.as_f64().is_none_or(|number| number >= wanted.as_f64().unwrap()),
            "required" => value.as_object().is_none_or(|map| {
                wanted.as_array().unwrap().iter().all(|key| map.contains_key(key.as_str().unwrap()))
            }),
            "items" => value.as_array().is_none_or(|items| items.iter().all(|item| fits(item, wanted))),
            "properties" => value.as_object().is_none_or(|map| {
                map.iter().all(|(key, value)| wanted.get(key).is_none_or(|schema| fits(value, schema)))
            }),
            "additionalProperties" => {
                let known = schema.get("properties");
                value.as_object().is_none_or(|map| {
                    map.iter()
                        .filter(|(key, _)| known.is_none_or(|known| known.get(key).is_none()))
                        .all(|(_, value)| wanted != &json!(false) && fits(value, wanted))
                })
            }
            "$schema" | "title" => true,
            other => panic!("{other}"),
        })
    }

    fn is(value: &Value, kind: &str) -> bool {
        match kind {
            "string" => value.is_string(),
            "number" => value.is_number(),
            "integer" => value.is_i64() || value.is_u64(),
            "boolean" => value.is_boolean(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn definitions_are_as_the_schema_says_and_mistakes_are_not() {
        let schema = schema();
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../pipelines");
        let of = |folder: &str| std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
        let mut files: Vec<_> = of(folder).chain(of(&format!("{folder}/examples"))).collect();
        files.retain(|file| file.extension().is_some_and(|ending| ending == "yaml"));
        assert!(!files.is_empty());
        for file in files {
            let value: Value = serde_saphyr::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
            assert!(
                fits(&value, &schema),
                "{}: {}",
                file.display(),
                serde_json::to_string_pretty(&schema).unwrap()
            );
        }
        let good = "{ name: p, csv: { columns: [ { name: a, format: email } ] }, dependencies: { d: { base_url: x, rate: { limit: 5, period: 1s }, concurrency: 3 } },
            steps: [ { name: s, dependency: d, request: { method: GET, path: /, json: [1, { a: ~ }] } } ], canary: { rows: 1, max_failure: 10 % } }";
        let fit = |text: &str| fits(&serde_saphyr::from_str::<Value>(text).unwrap(), &schema);
        assert!(fit(good), "{schema}");
        let bulk = |word: &str| {
            let bulk = format!("dependency: d, bulk: {{ max_rows: 9, match: {word} }},");
            good.replacen("dependency: d,", &bulk, 1)
        };
        assert!(fit(&bulk("order")) && fit(&bulk("{ result: a, row: b }")) && !fit(&bulk("any")));
        for (from, to) in [
            ("name: p,", "nam: p,"),
            ("name: p, ", ""),
            ("format: email", "format: mail"),
            ("limit: 5", "limit: many"),
            ("limit: 5, ", ""),
            ("period: 1s", "period: 1 second"),
            ("concurrency: 3", "concurrency: { limt: 3 }"),
            ("method: GET", "method: get"),
            ("request: {", "requests: {"),
            ("rows: 1", "rows: -1"),
            ("max_failure: 10 %", "max_failure: lots"),
        ] {
            assert!(good.contains(from) && !fit(&good.replacen(from, to, 1)), "{to}");
        }
    }
}
