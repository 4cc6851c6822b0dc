//! The first line of a file whose dialect is to be found out: what separates its columns, and what ends its lines.

use super::dialect::{DELIMITERS, Grammar};

/// What the first line shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Opened {
    pub grammar: Grammar,
    /// Bytes of a `sep=` line before the header, its line end included.
    pub skip: usize,
}

/// Reads the dialect of a text's beginning; none while its first line is not complete. `whole`: no more follows. `known` counts how
/// many of a header's names the pipeline has.
pub(super) fn open(text: &[u8], whole: bool, known: &dyn Fn(&[String]) -> usize) -> Option<Opened> {
    let first = Line::read(text, whole)?;
    let Some(separator) = separator(&text[..first.end]) else {
        return Some(Opened { grammar: first.grammar(text, known), skip: 0 });
    };
    let skip = first.next;
    let header = Line::read(&text[skip..], whole)?;
    let lone_cr = header.lone_cr || (first.lone_cr && header.next == header.end);
    Some(Opened { grammar: Grammar { delimiter: separator, lone_cr, spare_fields: true }, skip })
}

/// The first line of a text.
struct Line {
    /// Where it ends.
    end: usize,
    /// Where the next one begins.
    next: usize,
    lone_cr: bool,
}

impl Line {
    fn read(text: &[u8], whole: bool) -> Option<Self> {
        let mut quoted = false;
        for (at, byte) in text.iter().enumerate() {
            match byte {
                b'"' => quoted = !quoted,
                b'\n' if !quoted => return Some(Self { end: at, next: at + 1, lone_cr: false }),
                b'\r' if !quoted => {
                    return match text.get(at + 1) {
                        Some(b'\n') => Some(Self { end: at, next: at + 2, lone_cr: false }),
                        Some(_) => Some(Self { end: at, next: at + 1, lone_cr: true }),
                        None if whole => Some(Self { end: at, next: at + 1, lone_cr: true }),
                        None => None,
                    };
                }
                _ => {}
            }
        }
        whole.then_some(Self { end: text.len(), next: text.len(), lone_cr: false })
    }

    /// The delimiter that makes the most of the pipeline's names; among equals the one that occurs most often, and a comma
    /// when there is none.
    fn grammar(&self, text: &[u8], known: &dyn Fn(&[String]) -> usize) -> Grammar {
        let line = &text[..self.end];
        let score = |delimiter: u8| {
            let names = split(line, delimiter);
            (known(&names), names.len())
        };
        let mut best = (score(b','), b',');
        for delimiter in DELIMITERS.into_iter().skip(1) {
            let found = score(delimiter);
            if found > best.0 {
                best = (found, delimiter);
            }
        }
        Grammar { delimiter: best.1, lone_cr: self.lone_cr, spare_fields: true }
    }
}

/// The delimiter that a `sep=` line names. Excel writes the line in quotes when it has saved it once itself.
fn separator(line: &[u8]) -> Option<u8> {
    let line = line.strip_prefix(b"\"").and_then(|line| line.strip_suffix(b"\"")).unwrap_or(line);
    let name = line.get(..4)?;
    let [separator] = line.get(4..)? else { return None };
    (name.eq_ignore_ascii_case(b"sep=") && DELIMITERS.contains(separator)).then_some(*separator)
}

/// The names of a header line, as far as they can be told before it is parsed.
pub(super) fn split(line: &[u8], delimiter: u8) -> Vec<String> {
    let mut names = Vec::new();
    let (mut quoted, mut start) = (false, 0);
    let mut name = |part: &[u8]| {
        let text = String::from_utf8_lossy(part).into_owned();
        let inside = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
        names.push(inside.map_or_else(|| text.clone(), |inside| inside.replace("\"\"", "\"")));
    };
    for (at, byte) in line.iter().enumerate() {
        if *byte == b'"' {
            quoted = !quoted;
        } else if *byte == delimiter && !quoted {
            name(&line[start..at]);
            start = at + 1;
        }
    }
    name(&line[start..]);
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(text: &str, whole: bool) -> Option<(char, bool, usize)> {
        let known =
            |names: &[String]| names.iter().filter(|name| ["a", "b"].contains(&name.as_str())).count();
        open(text.as_bytes(), whole, &known)
            .map(|found| (char::from(found.grammar.delimiter), found.grammar.lone_cr, found.skip))
    }

    #[test]
    fn a_dialect_is_told_by_the_first_line() {
        for (text, found) in [
            ("a,b\n", Some((',', false, 0))),
            ("a;b\r\n", Some((';', false, 0))),
            ("a\tb\r1\t2", Some(('\t', true, 0))),
            ("a|b\n", Some(('|', false, 0))),
            ("\"a;x\",b\n", Some((',', false, 0))),
            ("a,x;y;z\n", Some((',', false, 0))),
            ("x;y\n", Some((';', false, 0))),
            ("x\n", Some((',', false, 0))),
            ("a;b", None),
            ("a;b\r", None),
            ("sep=;\r\na;b\r\n", Some((';', false, 7))),
            ("SEP=|\ra|b\r", None),
            ("\"sep=;\"\r\na\r\n", Some((';', false, 9))),
            ("sep=;\r\n", None),
            ("sep=x\n", Some((',', false, 0))),
        ] {
            assert_eq!(opened(text, false), found, "{text:?}");
        }
        assert_eq!(opened("a;b", true), Some((';', false, 0)));
        assert_eq!(opened("a;b\r", true), Some((';', true, 0)));
        assert_eq!(opened("SEP=|\ra|b\r", true), Some(('|', true, 6)));
        assert_eq!(opened("", true), Some((',', false, 0)));
    }
}
