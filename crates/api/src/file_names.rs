//! What downloads are saved as.

use std::fmt::Write as _;

use penstock_store::batches::Batch;

/// Characters of a batch's name in the name of a file.
const NAME_CHARS: usize = 40;

/// The `Content-Disposition` of a report: somebody with many of them in a folder sees of which batch each is.
pub(crate) fn of_report(batch: &Batch, report: &str) -> String {
    let name = batch.name.as_deref().unwrap_or_default();
    let plain: String = name
        .chars()
        .take(NAME_CHARS)
        .map(|c| if c.is_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' })
        .collect();
    let plain = plain.trim_matches(['-', '.']);
    let between = if plain.is_empty() { "" } else { "-" };
    attachment(&format!("{}{between}{plain}-{}-{report}", batch.pipeline, batch.id))
}

/// The `Content-Disposition` of a file with that name, of letters, digits, `.`, `_` and `-`. One with others than ASCII's is said twice, as RFC 6266, appendix D
/// recommends.
pub(crate) fn attachment(name: &str) -> String {
    let plain: String = name.chars().map(|c| if c.is_ascii() { c } else { '-' }).collect();
    let mut value = format!("attachment; filename=\"{plain}\"");
    if plain != name {
        value.push_str("; filename*=UTF-8''");
        for byte in name.bytes() {
            // Those of the others are attr-char (RFC 8187, section 3.2.1).
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-' => value.push(char::from(byte)),
                _ => write!(value, "%{byte:02X}").expect("memory"),
            }
        }
    }
    value
}
