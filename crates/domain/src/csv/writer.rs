//! Values on their way out.

/// Appends a value as a field, in quotes only where RFC 4180 asks for them.
pub fn encode_value(value: &str, out: &mut Vec<u8>) {
    encode_separated_value(value, b',', out);
}

/// The same for a file that separates its columns by that delimiter.
pub fn encode_separated_value(value: &str, delimiter: u8, out: &mut Vec<u8>) {
    if !value.contains(['"', char::from(delimiter), '\n', '\r']) {
        out.extend_from_slice(value.as_bytes());
        return;
    }
    out.push(b'"');
    for (index, part) in value.split('"').enumerate() {
        if index > 0 {
            out.extend_from_slice(b"\"\"");
        }
        out.extend_from_slice(part.as_bytes());
    }
    out.push(b'"');
}

/// Appends a record without its line end. A record of one empty field is written `""`, because an empty line is none.
pub fn encode_record<'a>(values: impl IntoIterator<Item = &'a str>, out: &mut Vec<u8>) {
    encode_separated(values, b',', out);
}

/// The same for a file that separates its columns by that delimiter.
pub fn encode_separated<'a>(values: impl IntoIterator<Item = &'a str>, delimiter: u8, out: &mut Vec<u8>) {
    let start = out.len();
    for (index, value) in values.into_iter().enumerate() {
        if index > 0 {
            out.push(delimiter);
        }
        encode_separated_value(value, delimiter, out);
    }
    if out.len() == start {
        out.extend_from_slice(b"\"\"");
    }
}
