//! What JSON takes in memory once it is read. Text of 256 KB can become values of 25 MB: each object is a node of its own.

/// Bytes of an object: one entry takes a whole node of its map.
const OBJECT: usize = 704;

/// Bytes of a list: room for its first values.
const LIST: usize = 160;

/// Bytes of each further value of a list or an object, with what a growing list has in reserve. A number keeps its digits.
const VALUE: usize = 112;

/// Bytes of a text beside its characters.
const TEXT: usize = 48;

/// Bytes that the values of this JSON take at most, by a look at its text: nothing is read into values for this. Text that is
/// no JSON weighs something as well.
pub fn of_json(json: &[u8]) -> usize {
    let (mut weight, mut in_text, mut escaped) = (json.len(), false, false);
    for byte in json {
        if in_text {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_text = false,
                _ => {}
            }
            continue;
        }
        weight += match byte {
            b'{' => OBJECT,
            b'[' => LIST,
            b',' => VALUE,
            b'"' => {
                in_text = true;
                TEXT
            }
            _ => 0,
        };
    }
    weight
}

/// The same of XML: each element may become a text, a list or an object of its own.
pub fn of_xml(xml: &[u8]) -> usize {
    let marks = xml.iter().filter(|byte| matches!(byte, b'<' | b'=')).count();
    xml.len().saturating_mul(2).saturating_add(marks.saturating_mul(OBJECT / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_weigh_more_than_their_text() {
        for (json, weight) in [
            ("1", 1),
            ("{}", 2 + OBJECT),
            (r#""{[,""#, 5 + TEXT),
            (r#""\"{\\","#, 8 + TEXT + VALUE),
            ("[1,2,3]", 7 + LIST + 2 * VALUE),
            (r#"{"a":[{"":0},{"":0}]}"#, 21 + 3 * OBJECT + LIST + VALUE + 3 * TEXT),
        ] {
            assert_eq!(of_json(json.as_bytes()), weight, "{json}");
        }
        let objects = format!(r#"{{"a":[{}{{}}]}}"#, r#"{"":0},"#.repeat(37_000));
        assert!(of_json(objects.as_bytes()) > 25_000_000);
    }
}
