//! Reads JSON that somebody else wrote: a client's context or request, the answer of a dependency, and what is stored of them.
//!
//! serde_json has two private keys (`$serde_json::private::Number` and `…::RawValue`): an object that has one as its first key
//! becomes a number, or JSON that is parsed again with a new limit of its depth. In JSON of strangers such a key is refused here,
//! before serde_json sees it. The depth is bounded well below serde_json's own limit (127 levels), so that everything that is
//! made of a value (a step's output, a row's result) can be read back.

use serde::de::DeserializeOwned;

/// Levels of lists and objects that JSON of a client or of a dependency may have.
pub const MAX_DEPTH: usize = 64;

/// Levels of a value that one expression of a definition makes.
pub const MAX_EXPRESSION_DEPTH: usize = 80;

/// Levels of lists and objects that a definition may write around its expressions.
pub const MAX_DEFINITION_DEPTH: usize = 32;

/// Levels that stored JSON may have: [`MAX_DEFINITION_DEPTH`], [`MAX_EXPRESSION_DEPTH`], and what is stored around them.
const MAX_STORED_DEPTH: usize = 120;

/// How serde_json's private keys begin.
const PRIVATE: &str = "$serde_json::private::";

/// Why JSON cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// Lists and objects are nested too deeply.
    #[error("lists and objects are nested more than {0} levels deep")]
    TooDeep(usize),
    /// An object has a key that serde_json would take for its own.
    #[error("a key that begins with `{PRIVATE}` is not accepted")]
    PrivateKey,
    /// It is not JSON, or not what is asked for.
    #[error(transparent)]
    Invalid(#[from] serde_json::Error),
}

/// Reads JSON that a client or a dependency sent.
///
/// # Errors
/// When it is not JSON, is nested more than [`MAX_DEPTH`] levels deep, or has a private key of serde_json.
pub fn read<T: DeserializeOwned>(text: &[u8]) -> Result<T, JsonError> {
    read_within(text, MAX_DEPTH)
}

/// Reads JSON that this program stored.
///
/// # Errors
/// As [`read`]; it may be deeper, because values of others are wrapped in it.
pub fn read_stored<T: DeserializeOwned>(text: &[u8]) -> Result<T, JsonError> {
    read_within(text, MAX_STORED_DEPTH)
}

/// Whether an object's key is one that serde_json would take for its own.
pub fn is_private_key(key: &str) -> bool {
    key.starts_with(PRIVATE)
}

fn read_within<T: DeserializeOwned>(text: &[u8], max_depth: usize) -> Result<T, JsonError> {
    scan(text, max_depth)?;
    Ok(serde_json::from_slice(text)?)
}

/// Looks at brackets and keys only. Text that is not JSON may pass: serde_json refuses it afterwards.
fn scan(text: &[u8], max_depth: usize) -> Result<(), JsonError> {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        at += 1;
        match byte {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                let end = string_end(text, at);
                if is_key(&text[end..]) && is_private(&text[at - 1..end]) {
                    return Err(JsonError::PrivateKey);
                }
                at = end;
            }
            _ => {}
        }
        if depth > max_depth {
            return Err(JsonError::TooDeep(max_depth));
        }
    }
    Ok(())
}

/// The position after the closing quote of a string that begins at `at`.
fn string_end(text: &[u8], mut at: usize) -> usize {
    while let Some(found) = memchr::memchr2(b'"', b'\\', &text[at..]) {
        at += found;
        if text[at] == b'"' {
            return at + 1;
        }
        at = (at + 2).min(text.len());
    }
    text.len()
}

/// Whether what follows a string makes it a key.
fn is_key(rest: &[u8]) -> bool {
    rest.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b':')
}

/// Whether a string, with its quotes, is a private key however its characters are escaped.
fn is_private(quoted: &[u8]) -> bool {
    matches!(quoted.get(1), Some(b'$' | b'\\'))
        && serde_json::from_slice::<String>(quoted).is_ok_and(|key| is_private_key(&key))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn text_of(text: &str) -> Result<Value, String> {
        read(text.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn private_keys_are_refused_however_they_are_written() {
        let refused = "a key that begins with `$serde_json::private::` is not accepted";
        for text in [
            r#"{"$serde_json::private::RawValue":"1"}"#,
            r#"{"$serde_json::private::Number":"5"}"#,
            r#"{"$serde_json::private::Other" : 1}"#,
            r#"{"a":[{"\u0024serde_json::private::RawValue"
                :"1"}]}"#,
            r#"{"$serde_json\u003a:priv\u0061te::Number":"5"}"#,
            r#"{"a\"":1,"$serde_json::private::Number":"5"}"#,
            r#"{"\\":"\\","$serde_json::private::Number":"5"}"#,
        ] {
            assert_eq!(text_of(text), Err(refused.to_owned()), "{text}");
        }
        for (text, value) in [
            (r#"{"a":"$serde_json::private::Number"}"#, json!({"a": "$serde_json::private::Number"})),
            (r#"["$serde_json::private::Number",1]"#, json!(["$serde_json::private::Number", 1])),
            (
                r#"{"a":"\"$serde_json::private::Number\":"}"#,
                json!({"a": "\"$serde_json::private::Number\":"}),
            ),
            (r#"{"$":1,"\\$serde_json::private::":2}"#, json!({"$": 1, "\\$serde_json::private::": 2})),
        ] {
            assert_eq!(text_of(text), Ok(value), "{text}");
        }
    }

    #[test]
    fn nested_json_in_strings_cannot_overflow_the_stack() {
        let mut text = "1".to_owned();
        for _ in 0..10 {
            let escaped = text.replace('\\', "\\u005c").replace('"', "\\u0022");
            let inner = format!("{{\"$serde_json::private::RawValue\":\"{escaped}\"}}");
            text = format!("{}{inner}{}", "[".repeat(60), "]".repeat(60));
        }
        assert!(matches!(read::<Value>(text.as_bytes()), Err(JsonError::PrivateKey)));
    }

    #[test]
    fn what_is_accepted_can_be_wrapped_and_read_back() {
        let deep = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
        assert!(text_of(&deep(MAX_DEPTH)).is_ok());
        let too_deep = Err("lists and objects are nested more than 64 levels deep".to_owned());
        assert_eq!(text_of(&deep(MAX_DEPTH + 1)), too_deep);
        assert_eq!(text_of(&"[".repeat(1_000_000)), too_deep);
        assert_eq!(text_of(&"{\"a\":".repeat(65)), too_deep);
        // A bracket in a string is no level.
        assert!(text_of(&format!("[\"{}\\\"{}\"]", "[".repeat(200), "{".repeat(200))).is_ok());
        assert!(text_of(&format!("[{}[]]", "[],".repeat(200))).is_ok());
        let derived = MAX_DEFINITION_DEPTH + MAX_EXPRESSION_DEPTH;
        assert!(read_stored::<Value>(deep(derived + 5).as_bytes()).is_ok());
        assert!(read_stored::<Value>(deep(MAX_STORED_DEPTH + 1).as_bytes()).is_err());
    }

    #[test]
    fn what_is_not_json_is_refused_without_a_panic() {
        for text in ["", "\"", "\"\\", "{\"a", "]", "{\"$\\", "{\"$serde_json::private::Number\"", "nul"] {
            assert!(text_of(text).is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..60)) {
            let _ = read::<Value>(&bytes);
        }
    }
}
