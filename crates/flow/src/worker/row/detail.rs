//! The part of a response's body that is kept with an error.

use penstock_domain::pipeline::SecretValues;
use serde_json::Value;

/// At most this many characters of a body are kept as an error's detail.
const DETAIL_CHARS: usize = 2000;

/// The body without secrets, short enough to keep; none when there was none.
pub(super) fn shorten(body: &Value, secrets: &SecretValues) -> Option<Value> {
    if body.is_null() {
        return None;
    }
    let mut prefix = Prefix(Vec::new());
    if serde_json::to_writer(&mut prefix, body).is_ok() && prefix.0.len() <= DETAIL_CHARS {
        return Some(secrets.masked_json(body));
    }
    let text = secrets.masked(&String::from_utf8_lossy(&prefix.0));
    Some(Value::String(text.chars().take(DETAIL_CHARS).collect()))
}

/// The first bytes of a text, as many as can be kept: the rest is never written.
struct Prefix(Vec<u8>);

impl std::io::Write for Prefix {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() > DETAIL_CHARS * 4 {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_long_answer_is_cut_without_being_written_out() {
        let none = SecretValues::default();
        assert_eq!(shorten(&Value::Null, &none), None);
        assert_eq!(shorten(&json!({ "a": [1, 2] }), &none), Some(json!({ "a": [1, 2] })));
        let long = json!(vec!["ö".repeat(10); 100_000]);
        let kept = shorten(&long, &none).unwrap();
        let expected: String = long.to_string().chars().take(DETAIL_CHARS).collect();
        assert_eq!(kept, Value::String(expected));
    }
}
