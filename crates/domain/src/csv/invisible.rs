//! Characters that nobody sees.

/// Characters that show nothing, or turn what stands around them: Unicode's general category Cf, variation selectors,
/// fillers, and code points that are none. Two addresses that differ only by them look alike.
pub(super) fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{AD}' | '\u{34F}' | '\u{600}'..='\u{605}' | '\u{61C}' | '\u{6DD}' | '\u{70F}' | '\u{890}'..='\u{891}'
        | '\u{8E2}' | '\u{115F}'..='\u{1160}' | '\u{17B4}'..='\u{17B5}' | '\u{180B}'..='\u{180F}'
        | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{3164}'
        | '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}' | '\u{FFA0}' | '\u{FFF0}'..='\u{FFFB}' | '\u{FFFE}'..='\u{FFFF}'
        | '\u{110BD}' | '\u{110CD}' | '\u{13430}'..='\u{1343F}' | '\u{1BCA0}'..='\u{1BCA3}'
        | '\u{1D173}'..='\u{1D17A}' | '\u{E0000}'..='\u{E0FFF}')
}

/// What `trim` takes off: white space, and characters without width that programs leave at the ends of texts.
pub(super) fn is_blank(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{FEFF}' | '\u{200B}' | '\u{2060}')
}

/// Whether somebody who looks at a value takes the character for nothing, or for a usual blank.
fn is_hidden(c: char) -> bool {
    is_invisible(c) || c.is_control() || (c.is_whitespace() && c != ' ')
}

/// The first character of a text that nobody sees, with its position from 1; also blanks at its ends.
pub(super) fn first_in(text: &str) -> Option<String> {
    let hidden = text.chars().enumerate().find(|(_, c)| is_hidden(*c));
    if let Some((at, c)) = hidden {
        let name = match c {
            '\u{A0}' => " (a no-break space)",
            '\u{200B}' => " (a space without width)",
            '\u{FEFF}' => " (a byte order mark)",
            '\u{AD}' => " (a soft hyphen)",
            '\t' => " (a tab)",
            '\n' | '\r' => " (a line break)",
            _ => "",
        };
        return Some(format!("the invisible character U+{:04X}{name} at position {}", u32::from(c), at + 1));
    }
    if text.starts_with(' ') {
        return Some("a blank at position 1".into());
    }
    text.ends_with(' ').then(|| format!("a blank at its end, at position {}", text.chars().count()))
}

/// Whether a text has no character that somebody sees.
pub fn shows_nothing(text: &str) -> bool {
    without(text).is_empty()
}

/// The text without them.
pub(super) fn without(text: &str) -> String {
    text.chars().filter(|c| !is_hidden(*c)).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_sees_is_named_with_its_position() {
        for (text, named) in [
            ("abc", None),
            ("a b", None),
            ("ab\u{200B}c", Some("the invisible character U+200B (a space without width) at position 3")),
            ("\u{FEFF}a", Some("the invisible character U+FEFF (a byte order mark) at position 1")),
            ("ä\u{A0}", Some("the invisible character U+00A0 (a no-break space) at position 2")),
            ("\u{7F}", Some("the invisible character U+007F at position 1")),
            (" a", Some("a blank at position 1")),
            ("ää ", Some("a blank at its end, at position 3")),
        ] {
            assert_eq!(first_in(text).as_deref(), named, "{text:?}");
        }
        assert_eq!(without("\u{FEFF}a b\u{A0} "), "a b");
    }
}
