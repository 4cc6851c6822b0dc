//! Shapes of values that have a name.

use chrono::NaiveDate;
use serde::Deserialize;
use url::Url;
use uuid::Uuid;

use super::invisible::is_invisible;

/// A named shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// An address of RFC 5321's length and RFC 5322's dot-atoms, UTF-8 letters included (RFC 6531); no quoted local
    /// parts, no address literals: nobody is reached there.
    Email,
    /// `+` and 2 to 15 digits, the first not 0 (ITU-T E.164).
    E164,
    /// An optional `-` and digits, within 64 bits.
    Integer,
    /// An optional `-`, digits, and optionally a point and digits.
    Decimal,
    /// A calendar date, `yyyy-mm-dd` (ISO 8601), from the year 1 on.
    Date,
    /// 8-4-4-4-12 hexadecimal digits (RFC 9562).
    Uuid,
    /// An absolute http or https URL as it goes over the wire: with `//` and a host, without white space, control and
    /// invisible characters, or backslashes.
    Url,
}

impl Format {
    /// For an error's sentence: "must be …".
    pub const fn described(self) -> &'static str {
        match self {
            Self::Email => "an e-mail address such as name@example.com",
            Self::E164 => "a phone number such as +491701234567",
            Self::Integer => "a whole number such as 42",
            Self::Decimal => "a number such as 3.14",
            Self::Date => "a date such as 2026-11-23",
            Self::Uuid => "a UUID such as 123e4567-e89b-42d3-a456-426614174000",
            Self::Url => "an address such as https://example.com/path",
        }
    }

    /// Whether a value has the shape.
    pub fn accepts(self, value: &str) -> bool {
        match self {
            Self::Email => email(value),
            Self::E164 => e164(value),
            Self::Integer => {
                let digits = value.strip_prefix('-').unwrap_or(value);
                all_digits(digits) && value.parse::<i64>().is_ok()
            }
            Self::Decimal => {
                let number = value.strip_prefix('-').unwrap_or(value);
                match number.split_once('.') {
                    Some((whole, part)) => all_digits(whole) && all_digits(part),
                    None => all_digits(number),
                }
            }
            Self::Date => date(value),
            Self::Uuid => value.len() == 36 && Uuid::try_parse(value).is_ok(),
            Self::Url => url(value),
        }
    }
}

fn all_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn e164(value: &str) -> bool {
    let Some(digits) = value.strip_prefix('+') else { return false };
    all_digits(digits) && (2..=15).contains(&digits.len()) && !digits.starts_with('0')
}

fn date(value: &str) -> bool {
    let shaped = value.len() == 10
        && value
            .bytes()
            .enumerate()
            .all(|(at, byte)| if at == 4 || at == 7 { byte == b'-' } else { byte.is_ascii_digit() });
    shaped && !value.starts_with("0000") && NaiveDate::parse_from_str(value, "%Y-%m-%d").is_ok()
}

/// The URL standard repairs what it reads: `http:a`, `http:///a` and `https:\\a` all become addresses there. Who is called
/// may repair them otherwise, so that only what needs no repair is taken.
fn url(value: &str) -> bool {
    let Some((scheme, rest)) = value.split_once("://") else { return false };
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    (scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https"))
        && !host.is_empty()
        && !value.chars().any(|c| c.is_whitespace() || c == '\\' || c.is_control() || is_invisible(c))
        && Url::parse(value).is_ok_and(|url| url.has_host())
}

fn email(value: &str) -> bool {
    let Some((local, domain)) = value.rsplit_once('@') else { return false };
    if value.len() > 254 || local.len() > 64 {
        return false;
    }
    let atom = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || wide(c);
    let local_ok = local.split('.').all(|part| !part.is_empty() && part.chars().all(atom));
    let label = |part: &str| {
        !part.is_empty()
            && part.len() <= 63
            && !part.starts_with('-')
            && !part.ends_with('-')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || wide(c))
    };
    local_ok && domain.contains('.') && domain.split('.').all(label)
}

/// A character beyond ASCII that can stand in a name.
fn wide(c: char) -> bool {
    !c.is_ascii() && !c.is_whitespace() && !c.is_control() && !is_invisible(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A format, values that have it, and values that do not.
    const CASES: [(Format, &[&str], &[&str]); 7] = [
        (
            Format::Email,
            &["a@b.co", "first.last+tag@sub.example.com", "jörg@exämple.de", "o'neil@example.ie"],
            &[
                "",
                "a",
                "a@b",
                "@b.co",
                "a@",
                "a b@c.de",
                "a..b@c.de",
                ".a@c.de",
                "a@-b.de",
                "a@b..de",
                "a@b.de ",
                "a@b@c.de ",
                "a@ex\u{200B}ample.de",
                "a@example\u{AD}.de",
                "a@\u{202E}ed.elpmaxe",
                "a\u{FEFF}@example.de",
            ],
        ),
        (
            Format::E164,
            &["+4917012345", "+12"],
            &["4917012345", "+0123", "+1", "+1234567890123456", "+49 170"],
        ),
        (
            Format::Integer,
            &["0", "-5", "007", "9223372036854775807"],
            &["", "-", "+5", "1.0", "9223372036854775808", "１"],
        ),
        (Format::Decimal, &["0", "-5.25", "10"], &["", ".5", "5.", "1e3", "1,5", "--1"]),
        (
            Format::Date,
            &["2026-11-23", "2024-02-29", "0001-01-01", "9999-12-31"],
            &["2026-02-29", "2026-1-01", "23.11.2026", "2026-11-23T00", "0000-01-01", "0000-02-29"],
        ),
        (
            Format::Uuid,
            &["123e4567-e89b-42d3-a456-426614174000"],
            &["123e4567e89b42d3a456426614174000", "{123e4567-e89b-42d3-a456-42661417400}"],
        ),
        (
            Format::Url,
            &[
                "https://example.com/a?b=c",
                "http://localhost:8080",
                "HTTPS://Example.com",
                "https://example.com?a#b",
                "http://[::1]/a%20b",
                "https://exämple.de/straße",
                "https://user:pw@example.com/a//b",
            ],
            &[
                "example.com",
                "ftp://a.b",
                "https://",
                " https://a.b",
                "http:a",
                "http:/a.b",
                "http:///a",
                "http://?a",
                "http://#a",
                "http:////a.b",
                "https:\\\\a.b",
                "https://a.b\\c",
                "http://a/b c",
                "http://a/b\tc",
                "ht\ntp://a.b",
                "http://a.b\n",
                "http://a.b/\u{200B}",
                "http://a.b/\u{7F}",
                "http://a b",
                "http://:80",
                "http://user@",
                "a://http://b",
            ],
        ),
    ];

    #[test]
    fn shapes_and_what_only_looks_like_them() {
        for (format, good, bad) in CASES {
            for value in good {
                assert!(format.accepts(value), "{format:?} {value}");
            }
            for value in bad {
                assert!(!format.accepts(value), "{format:?} {value}");
            }
        }
    }
}
