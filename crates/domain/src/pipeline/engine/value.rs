//! Between JSON and the engine's values, without a digit lost.

use std::collections::BTreeMap;

use minijinja::value::ValueKind;
use minijinja::{Error, Value};
use serde_json::Number as JsonNumber;

use super::error::refused;
use super::names::{is_omit, refuse_omit};
use super::number::{self, as_exact};
use crate::json::{JsonError, MAX_EXPRESSION_DEPTH, is_private_key};

/// Whether a list or map of the template's own making holds what is not there: written out it would be null, or the word
/// `undefined`.
pub fn holds_undefined(value: &Value) -> bool {
    let missing = |item: &Value| item.is_undefined() || holds_undefined(item);
    match value.kind() {
        ValueKind::Seq => value.try_iter().is_ok_and(|mut items| items.any(|item| missing(&item))),
        ValueKind::Map => value
            .try_iter()
            .is_ok_and(|mut keys| keys.any(|key| value.get_item(&key).is_ok_and(|item| missing(&item)))),
        _ => false,
    }
}

/// A JSON value as the templates see it.
pub fn from_json(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(truth) => Value::from(*truth),
        serde_json::Value::Number(number) => number::value(number.as_str()),
        serde_json::Value::String(text) => Value::from(text.as_str()),
        serde_json::Value::Array(items) => items.iter().map(from_json).collect(),
        serde_json::Value::Object(fields) => from_fields(fields),
    }
}

/// The same of an object.
pub fn from_fields(fields: &serde_json::Map<String, serde_json::Value>) -> Value {
    map(fields.iter().map(|(name, field)| (name, from_json(field))))
}

/// Texts by name.
pub fn from_texts(texts: &BTreeMap<String, String>) -> Value {
    map(texts.iter().map(|(name, text)| (name, Value::from(text.as_str()))))
}

/// Entry by entry: for a handful of them that is faster than sorting all.
fn map<'a>(entries: impl Iterator<Item = (&'a String, Value)>) -> Value {
    let mut map = BTreeMap::new();
    for (name, value) in entries {
        map.insert(Value::from(name.as_str()), value);
    }
    Value::from_object(map)
}

/// A value of a template as JSON.
///
/// # Errors
/// When it is nothing that JSON has, or cannot be read back: it is nested too deeply, or has a key that is not accepted.
pub fn to_json(value: &Value) -> Result<serde_json::Value, Error> {
    to_json_within(value, MAX_EXPRESSION_DEPTH)
}

/// `levels` of lists and maps may follow.
fn to_json_within(value: &Value, levels: usize) -> Result<serde_json::Value, Error> {
    let deeper = || levels.checked_sub(1).ok_or_else(too_deep);
    Ok(match value.kind() {
        ValueKind::None | ValueKind::Undefined => serde_json::Value::Null,
        ValueKind::Bool => serde_json::Value::Bool(value.is_true()),
        ValueKind::Number => serde_json::Value::Number(to_number(value)?),
        ValueKind::String => serde_json::Value::String(value.as_str().unwrap_or_default().to_owned()),
        ValueKind::Seq | ValueKind::Iterable => {
            let levels = deeper()?;
            let kept = value.try_iter()?.filter(|item| !is_omit(item));
            kept.map(|item| to_json_within(&item, levels)).collect::<Result<_, _>>()?
        }
        ValueKind::Map => {
            let levels = deeper()?;
            let mut fields = serde_json::Map::new();
            for key in value.try_iter()? {
                let field = value.get_item(&key)?;
                if !is_omit(&field) {
                    fields.insert(to_key(&key)?, to_json_within(&field, levels)?);
                }
            }
            serde_json::Value::Object(fields)
        }
        _ => match as_exact(value) {
            Some(exact) => serde_json::Value::Number(exact.text().parse().map_err(|_| no_json())?),
            None if is_omit(value) => return refuse_omit(),
            None => return Err(no_json()),
        },
    })
}

/// Whether a value counts as true: a number that is not zero, anything that is not empty.
///
/// # Errors
/// When it is nothing that JSON has.
pub fn is_true(value: &Value) -> Result<bool, Error> {
    match as_exact(value) {
        Some(exact) => Ok(exact.text().bytes().any(|byte| matches!(byte, b'1'..=b'9'))),
        None => Ok(value.is_true()),
    }
}

fn to_number(value: &Value) -> Result<JsonNumber, Error> {
    let number = if !value.is_integer() {
        JsonNumber::from_f64(f64::try_from(value.clone())?)
    } else if let Ok(number) = i128::try_from(value.clone()) {
        JsonNumber::from_i128(number)
    } else {
        JsonNumber::from_u128(u128::try_from(value.clone())?)
    };
    number.ok_or_else(no_json)
}

/// An object's key is text; a number or a truth value stands in it as JSON has it.
fn to_key(key: &Value) -> Result<String, Error> {
    if let Some(text) = key.as_str() {
        if is_private_key(text) {
            return Err(refused(JsonError::PrivateKey.to_string()));
        }
        return Ok(text.to_owned());
    }
    match to_json(key)? {
        json @ (serde_json::Value::Number(_) | serde_json::Value::Bool(_)) => Ok(json.to_string()),
        _ => Err(no_json()),
    }
}

fn too_deep() -> Error {
    refused(JsonError::TooDeep(MAX_EXPRESSION_DEPTH).to_string())
}

fn no_json() -> Error {
    refused("it is not a value that JSON has")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_comes_back_as_it_was() {
        // `1E400` is written `1e+400` by the reader of JSON.
        for text in [
            "null",
            "true",
            "\"x\"",
            "12345678901234567890123456789012345678901234567890",
            "0.1234567890123456789012345678901234567890",
            "19.90",
            "-0",
            "-0.0",
            "1e+400",
            "1.5e-9",
            "18446744073709551616",
            "[1,[2.50,{\"a\":{\"b\":[]}}],{}]",
            "{\"a\":1.0,\"b\":[1e+2]}",
        ] {
            let json: serde_json::Value = serde_json::from_str(text).unwrap();
            assert_eq!(to_json(&from_json(&json)).unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_could_not_be_read_back_is_refused() {
        let nested = |levels| (0..levels).fold(Value::from(1), |inner, _| Value::from(vec![inner]));
        assert!(to_json(&nested(MAX_EXPRESSION_DEPTH)).is_ok());
        let error = to_json(&nested(MAX_EXPRESSION_DEPTH + 1)).unwrap_err();
        assert_eq!(error.detail(), Some("lists and objects are nested more than 80 levels deep"));
        let private = Value::from_pairs([("$serde_json::private::RawValue", "[1]")]);
        let error = to_json(&private).unwrap_err();
        assert_eq!(error.detail(), Some("a key that begins with `$serde_json::private::` is not accepted"));
    }

    #[test]
    fn keys_are_text() {
        let value =
            Value::from_pairs([(Value::from(1), 1), (Value::from(false), 2), (number::value("1.50"), 3)]);
        let keys: Vec<String> = to_json(&value).unwrap().as_object().unwrap().keys().cloned().collect();
        assert_eq!(keys, ["1", "1.50", "false"]);
        assert!(to_json(&Value::from_pairs([(Value::from(vec![1]), 1)])).is_err());
        assert!(to_json(&Value::from(f64::NAN)).is_err());
    }
}
