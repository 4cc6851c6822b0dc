//! Values that nobody is shown: those of variables, of files that definitions name, and owners' secrets. What is kept or printed of a
//! request and its answer is masked by them, wherever a template put them and however it encoded them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use url::Url;

use super::live::Files;
use super::responses::clean_code;

/// Stands for a secret.
pub const MASK: &str = "***";

/// Characters of a value that is a secret, at least: shorter ones stand everywhere.
const SHORTEST: usize = 4;

/// Digits of a number that is a secret, at least.
const SHORTEST_NUMBER: usize = 8;

/// Bytes of a value that is looked for within base64, at least.
const SHORTEST_IN_BASE64: usize = 8;

/// A text of this length may have been cut, perhaps within a secret, of which at least so many characters are left.
const CUT_CHARS: usize = 250;
const LEFT_BYTES: usize = 8;

/// All but unreserved characters (RFC 3986, 2.3).
const RESERVED: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Secret values, as they may stand in a text. Never printed.
#[derive(Clone, Default)]
pub struct SecretValues {
    /// Each in each encoding, the longest first: one may be a part of another.
    forms: Vec<String>,
    /// Files whose content is secret, which may change.
    files: BTreeSet<PathBuf>,
}

impl std::fmt::Debug for SecretValues {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

impl SecretValues {
    /// Adds a value. Of an address only what it holds of credentials is secret: its user's password, and its query.
    pub fn add(&mut self, value: &str) {
        if let Some(url) = Url::parse(value).ok().filter(|_| value.contains("://")) {
            let password = url.password().map(str::to_owned);
            // It is sent decoded, and an API may quote it so.
            let decode =
                |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
            let decoded = url.password().map(decode);
            let query: Vec<String> = url.query_pairs().map(|(_, value)| value.into_owned()).collect();
            password.iter().chain(&decoded).chain(&query).for_each(|part| self.add_forms(part));
        } else {
            self.add_forms(value);
        }
    }

    /// Adds a file; what it holds is added by [`SecretValues::with_files`].
    pub(super) fn add_file(&mut self, path: PathBuf) {
        self.files.insert(path);
    }

    /// The same with what its files hold now.
    #[must_use]
    pub fn with_files(&self, files: &dyn Files) -> Self {
        let mut all = self.clone();
        for path in &self.files {
            if let Ok(text) = files.read(path) {
                all.add(&text);
            }
        }
        all
    }

    /// The files, each once.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(PathBuf::as_path)
    }

    fn add_forms(&mut self, value: &str) {
        if !is_secret(value) {
            return;
        }
        let mut forms = vec![value.to_owned(), utf8_percent_encode(value, &RESERVED).to_string()];
        let form: String = url::form_urlencoded::byte_serialize(value.as_bytes()).collect();
        forms.extend([form.replace('+', "%20"), form]);
        // As JSON writes it, and as the filter `tojson` does.
        let json = Value::from(value).to_string();
        let json = json.get(1..json.len() - 1).unwrap_or_default();
        forms.push(json.to_owned());
        let in_html = [('<', "\\u003c"), ('>', "\\u003e"), ('&', "\\u0026"), ('\'', "\\u0027")];
        forms.push(in_html.iter().fold(json.to_owned(), |text, (c, escaped)| text.replace(*c, escaped)));
        let in_xml = [('&', "&amp;"), ('<', "&lt;"), ('>', "&gt;"), ('"', "&quot;"), ('\'', "&apos;")];
        forms.push(in_xml.iter().fold(value.to_owned(), |text, (c, escaped)| text.replace(*c, escaped)));
        forms.push(value.bytes().map(|byte| format!("{byte:02x}")).collect());
        forms.extend(in_base64(value.as_bytes()));
        for form in forms {
            if let Err(place) = self.forms.binary_search_by(|known| order(known, &form)) {
                self.forms.insert(place, form);
            }
        }
    }

    /// A text without them.
    pub fn masked(&self, text: &str) -> String {
        let mut masked = text.to_owned();
        for form in self.forms.iter().filter(|form| text.contains(form.as_str())) {
            masked = masked.replace(form.as_str(), MASK);
        }
        if masked.len() >= CUT_CHARS { self.without_a_cut_one(masked) } else { masked }
    }

    /// The same of a text that may end within a secret, because it was cut.
    fn without_a_cut_one(&self, mut text: String) -> String {
        let body = text.trim_end_matches('…').len();
        let begins_at = |form: &String| {
            let longest = form.len().min(body);
            let ends = (LEFT_BYTES..longest).rev().filter(|length| form.is_char_boundary(*length));
            ends.map(|length| &form[..length]).find(|start| text[..body].ends_with(start)).map(str::len)
        };
        if let Some(left) = self.forms.iter().filter_map(begins_at).max() {
            text.replace_range(body - left..body, MASK);
        }
        text
    }

    /// Whether an API's code holds one. A code is in lower case, and its words may be anybody's: only what has digits counts.
    pub fn are_in_code(&self, code: &str) -> bool {
        let tells =
            |form: &&String| form.len() >= LEFT_BYTES && form.bytes().any(|byte| byte.is_ascii_digit());
        let cleaned = self.forms.iter().filter(tells).filter_map(|form| clean_code(form));
        cleaned.into_iter().any(|form| code.contains(&form))
    }

    /// A value without them in its texts and names.
    pub fn masked_json(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => self.masked(text).into(),
            Value::Array(items) => items.iter().map(|item| self.masked_json(item)).collect(),
            Value::Object(fields) => {
                fields.iter().map(|(name, field)| (self.masked(name), self.masked_json(field))).collect()
            }
            // A key may be a number.
            Value::Number(number) => {
                let text = number.to_string();
                let masked = self.masked(&text);
                if masked == text { value.clone() } else { masked.into() }
            }
            other => other.clone(),
        }
    }
}

/// The longest first; among equally long ones by their text.
fn order(one: &str, other: &str) -> std::cmp::Ordering {
    other.len().cmp(&one.len()).then_with(|| one.cmp(other))
}

/// Whether a value says enough to be a secret.
fn is_secret(value: &str) -> bool {
    let digits = value.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    value.len() >= SHORTEST
        && !(digits && value.len() < SHORTEST_NUMBER)
        && !matches!(value.to_ascii_lowercase().as_str(), "true" | "false" | "null" | "none")
}

/// What base64 makes of the bytes, behind 0, 1 or 2 others: the digits that no other byte has a part in.
fn in_base64(bytes: &[u8]) -> Vec<String> {
    if bytes.len() < SHORTEST_IN_BASE64 {
        return vec![BASE64_STANDARD_NO_PAD.encode(bytes), BASE64_URL_SAFE_NO_PAD.encode(bytes)];
    }
    let mut forms = Vec::new();
    for (before, shared) in [(0, 0), (1, 2), (2, 3)] {
        let padded = [vec![0; before], bytes.to_vec()].concat();
        for text in [BASE64_STANDARD_NO_PAD.encode(&padded), BASE64_URL_SAFE_NO_PAD.encode(&padded)] {
            let end = text.len() - usize::from(!padded.len().is_multiple_of(3));
            forms.extend(text.get(shared..end).map(str::to_owned));
        }
    }
    forms
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(values: &[&str]) -> SecretValues {
        let mut secrets = SecretValues::default();
        values.iter().for_each(|value| secrets.add(value));
        secrets
    }

    #[test]
    fn a_secret_is_masked_and_an_address_is_not() {
        let secrets = of(&["sk_live_abc", "sk_live", "abc", "https://api.example", "1000", "true"]);
        assert_eq!(
            secrets.masked("https://api.example/?k=sk_live_abc&l=sk_live&m=abc&n=1000&o=true"),
            "https://api.example/?k=***&l=***&m=abc&n=1000&o=true"
        );
        let secrets = of(&["https://user:hidden@api.example/hook?token=t0ken"]);
        assert_eq!(secrets.masked("hidden t0ken api.example"), "*** *** api.example");
    }

    #[test]
    fn a_secret_is_found_however_it_is_encoded() {
        let secrets = of(&["a+b/c=\"d e<ü>"]);
        for (text, masked) in [
            ("?k=a%2Bb%2Fc%3D%22d+e%3C%C3%BC%3E", "?k=***"),
            ("/a%2Bb%2Fc%3D%22d%20e%3C%C3%BC%3E/x", "/***/x"),
            (r#"{"k":"a+b/c=\"d e<ü>"}"#, r#"{"k":"***"}"#),
            (r#"{"k":"a+b/c=\"d e\u003cü\u003e"}"#, r#"{"k":"***"}"#),
            ("<k>a+b/c=&quot;d e&lt;ü&gt;</k>", "<k>***</k>"),
            ("612b622f633d2264206" /* cut */, "612b622f633d2264206"),
        ] {
            assert_eq!(secrets.masked(text), masked);
        }
        let secrets = of(&["geheimes-wort"]);
        for before in ["", "u", "us", "user:"] {
            let basic = BASE64_STANDARD_NO_PAD.encode(format!("{before}geheimes-wort"));
            let masked = secrets.masked(&basic);
            assert!(masked.contains(MASK) && masked.len() < 14, "{basic} became {masked}");
        }
    }

    #[test]
    fn values_are_masked_in_json_and_at_the_end_of_a_text_that_was_cut() {
        let secrets = of(&["sk_live_0123456789", "12345678901"]);
        let value = json!({ "a sk_live_0123456789": ["x sk_live_0123456789", 12_345_678_901_u64, 7, null] });
        assert_eq!(secrets.masked_json(&value), json!({ "a ***": ["x ***", "***", 7, null] }));
        let cut = format!("{}sk_live_0123…", "x".repeat(300));
        assert_eq!(secrets.masked(&cut), format!("{}***…", "x".repeat(300)));
        assert_eq!(secrets.masked("sk_live_0123"), "sk_live_0123", "nothing was cut");
        assert!(secrets.are_in_code("bad_key_sk_live_0123456789") && !secrets.are_in_code("bad_key"));
        assert!(!format!("{secrets:?}").contains("sk_live"));
    }
}
