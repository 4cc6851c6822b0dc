//! A part's head, and the parameters of headers, as browsers and libraries write them.

use penstock_domain::csv;

use super::Malformed;

/// Header lines of a part at most.
const MOST_LINES: usize = 32;

/// What is known of a part before its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartHead {
    /// The form's name of it.
    pub name: String,
    /// How its text is encoded.
    pub charset: Charset,
    /// A content coding or transfer encoding that changes its bytes, if it has one: its name and its value.
    pub encoding: Option<(String, String)>,
}

/// How a part's text is encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Charset {
    /// UTF-8, or ASCII, which is a part of it; said or not.
    Utf8,
    /// ISO 8859-1: each byte is the character of that number. What Java's Apache HttpClient says of texts unless told otherwise.
    Latin1,
    /// Any other one, by its name.
    Other(String),
}

/// A word of a client's, as it is repeated to him: without what is not printed, and cut.
pub fn shown(word: &str) -> String {
    word.chars().filter(|c| !c.is_control()).take(50).collect()
}

impl Charset {
    /// The charset of that name.
    pub fn named(name: &str) -> Self {
        match name.trim().to_ascii_lowercase().as_str() {
            "utf-8" | "utf8" | "us-ascii" | "ascii" | "ansi_x3.4-1968" => Self::Utf8,
            "iso-8859-1" | "iso8859-1" | "iso_8859-1" | "latin1" => Self::Latin1,
            _ => Self::Other(shown(name)),
        }
    }

    /// The charset that a media type names: of several the one that is not UTF-8.
    pub fn of(media: &str) -> Self {
        let named = parameters(media).into_iter().filter(|(name, _)| name == "charset");
        let all: Vec<Self> = named.map(|(_, value)| Self::named(&value)).collect();
        all.into_iter().find(|charset| *charset != Self::Utf8).unwrap_or(Self::Utf8)
    }

    /// Whether a pipeline that takes these characters takes a file that is said to be in this charset. What is not said counts as
    /// UTF-8: the file itself is read as the pipeline asks for.
    pub fn may_be(&self, taken: csv::Charset) -> bool {
        let named = match self {
            Self::Utf8 => return true,
            // The Encoding Standard reads it as Windows-1252, as browsers do.
            Self::Latin1 => csv::Charset::named("iso-8859-1"),
            Self::Other(name) => csv::Charset::named(name),
        };
        match taken {
            csv::Charset::Utf8 => false,
            csv::Charset::Auto => {
                named == csv::Charset::named("windows-1252") || named.is_some_and(csv::Charset::is_utf16)
            }
            csv::Charset::Label(_) => named == Some(taken),
        }
    }
}

impl PartHead {
    /// Reads the header lines, the empty line included.
    pub(super) fn read(head: &[u8]) -> Result<Self, Malformed> {
        let (mut name, mut charset, mut encoding) = (None, Charset::Utf8, None);
        for line in lines(head)? {
            let (header, value) =
                line.split_once(':').ok_or(Malformed("a line of a part's head is not a header"))?;
            let value = value.trim();
            match header.trim().to_ascii_lowercase().as_str() {
                "content-disposition" if name.is_some() => {
                    return Err(Malformed("a part has two Content-Disposition headers"));
                }
                "content-disposition" => name = form_name(value)?,
                "content-type" => charset = Charset::of(value),
                header @ ("content-encoding" | "content-transfer-encoding") => {
                    // These leave the bytes as they are.
                    let plain = ["", "identity", "binary", "8bit", "7bit"];
                    if !plain.iter().any(|plain| value.eq_ignore_ascii_case(plain)) {
                        encoding = Some((header.to_owned(), value.to_owned()));
                    }
                }
                // Content-Length among them: RFC 7578, section 4.8 has it ignored.
                _ => {}
            }
        }
        let name = name.ok_or(Malformed("a part has no Content-Disposition with a name"))?;
        Ok(Self { name, charset, encoding })
    }
}

/// Header lines; one that begins with white space goes on the one before.
fn lines(head: &[u8]) -> Result<Vec<String>, Malformed> {
    let mut lines: Vec<String> = Vec::new();
    for line in head.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let text = text(line);
        if text.is_empty() {
            continue;
        }
        match lines.last_mut() {
            Some(before) if text.starts_with([' ', '\t']) => before.push_str(&text),
            _ => lines.push(text),
        }
        if lines.len() > MOST_LINES {
            return Err(Malformed("a part's head has too many lines"));
        }
    }
    Ok(lines)
}

/// UTF-8 where it is that, ISO 8859-1 otherwise: what older clients write names of files in.
fn text(bytes: &[u8]) -> String {
    std::str::from_utf8(bytes).map_or_else(|_| latin1(bytes), str::to_owned)
}

/// Each byte as the character of that number.
pub fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// The name in a Content-Disposition; none when there is none.
fn form_name(disposition: &str) -> Result<Option<String>, Malformed> {
    let kind = disposition.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("form-data") {
        return Err(Malformed("a part's Content-Disposition is not form-data"));
    }
    let mut names: Vec<String> = Vec::new();
    for (parameter, value) in parameters(disposition) {
        let name = match parameter.as_str() {
            "name" => value,
            "name*" => extended(&value).ok_or(Malformed("a part's name* cannot be read (RFC 5987)"))?,
            _ => continue,
        };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    if names.len() > 1 {
        return Err(Malformed("a part has two names"));
    }
    Ok(names.pop())
}

/// `UTF-8''a%20b` or `ISO-8859-1'en'a%E4` (RFC 5987, section 3.2).
fn extended(value: &str) -> Option<String> {
    let (charset, rest) = value.split_once('\'')?;
    let (_, encoded) = rest.split_once('\'')?;
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next()?, rest.next()?];
        let digits = std::str::from_utf8(&digits).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
    }
    match Charset::named(charset) {
        Charset::Utf8 => String::from_utf8(bytes).ok(),
        Charset::Latin1 => Some(latin1(&bytes)),
        Charset::Other(_) => None,
    }
}

/// The parameters behind a header's first `;`, names in lower case. Values are as they are written: in quotes, or up to the
/// next `;`, with characters that should have been quoted.
fn parameters(header: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let Some((_, mut rest)) = header.split_once(';') else { return found };
    loop {
        rest = rest.trim_start_matches([' ', '\t', ';']);
        if rest.is_empty() {
            return found;
        }
        let end = rest.find([';', '=']).unwrap_or(rest.len());
        let name = rest[..end].trim().to_ascii_lowercase();
        rest = &rest[end..];
        let mut value = String::new();
        if let Some(behind) = rest.strip_prefix('=') {
            let behind = behind.trim_start_matches([' ', '\t']);
            rest = match behind.strip_prefix('"') {
                Some(quoted) => unquoted(quoted, &mut value),
                None => {
                    let end = behind.find(';').unwrap_or(behind.len());
                    value.push_str(behind[..end].trim_end());
                    &behind[end..]
                }
            };
        }
        found.push((name, value));
    }
}

/// Reads up to the closing quote; what stands behind it. A backslash stands for itself unless it escapes a quote or another
/// one: Internet Explorer sent whole paths of Windows.
fn unquoted<'a>(quoted: &'a str, value: &mut String) -> &'a str {
    let mut characters = quoted.char_indices().peekable();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return &quoted[at + 1..],
            '\\' if characters.peek().is_some_and(|(_, next)| matches!(next, '"' | '\\')) => {
                value.extend(characters.next().map(|(_, escaped)| escaped));
            }
            c => value.push(c),
        }
    }
    ""
}

/// The boundary that a Content-Type names.
///
/// # Errors
/// When it has none that can be one.
pub fn boundary(content_type: &str) -> Result<String, Malformed> {
    let mut named = parameters(content_type).into_iter().filter(|(name, _)| name == "boundary");
    let (Some((_, boundary)), None) = (named.next(), named.next()) else {
        return Err(Malformed("its Content-Type names no boundary, or two"));
    };
    // RFC 2046 has 1 to 70 characters; some clients have more.
    let visible = boundary.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    if boundary.is_empty() || boundary.len() > 200 || !visible || boundary.ends_with(' ') {
        return Err(Malformed("the boundary in its Content-Type has 1 to 200 visible ASCII characters"));
    }
    Ok(boundary)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(disposition: &str) -> Result<String, &'static str> {
        let head = format!("Content-Disposition: {disposition}\r\nContent-Type: text/csv\r\n\r\n");
        PartHead::read(head.as_bytes()).map(|head| head.name).map_err(|malformed| malformed.0)
    }

    #[test]
    fn names_are_read_however_they_are_written() {
        for written in [
            "form-data; name=\"file\"",
            "form-data; name=file",
            "form-data; name=file; filename=a.csv",
            "form-data;name=\"file\";filename=\"a.csv\"",
            "Form-Data ; NAME = \"file\" ; FileName = \"a;b.csv\"",
            "form-data; filename=\"C:\\My Files\\a.csv\"; name=\"file\"",
            "form-data; name=\"file\"; filename=\"say \\\"hi\\\".csv\"",
            "form-data; name=\"file\"; filename=\"a%22b.csv\"",
            "form-data; name=\"file\"; filename=\"Kunden für März.csv\"",
            "form-data; name=\"file\"; filename*=UTF-8''Kunden%20f%C3%BCr.csv",
            "form-data; name=\"file\"; filename*=iso-8859-1'de'K%FC.csv; filename=\"K.csv\"",
            "form-data; name=\"file\"; filename=\"\"",
            "form-data; name=\"file\"; filename=\"never closed",
            "form-data; name=\"file\"; creation-date=\"Wed, 12 Feb 1997 16:29:51 -0500\"; size=3;",
            "form-data; name*=UTF-8''file",
            "form-data; name=\"file\"; name*=utf-8''fil%65",
            "form-data;\r\n name=\"file\";\r\n\tfilename=\"a.csv\"",
        ] {
            assert_eq!(named(written).as_deref(), Ok("file"), "{written}");
        }
        assert_eq!(named("form-data; name=\"\"").as_deref(), Ok(""));
        for (written, wanted) in [
            ("form-data", "a part has no Content-Disposition with a name"),
            ("form-data; filename=\"name=file\"", "a part has no Content-Disposition with a name"),
            ("attachment; name=\"file\"", "a part's Content-Disposition is not form-data"),
            ("form-data; name=\"file\"; name=\"context\"", "a part has two names"),
            ("form-data; name*=UTF-7''file", "a part's name* cannot be read (RFC 5987)"),
            ("form-data; name*=file", "a part's name* cannot be read (RFC 5987)"),
            ("form-data; name*=UTF-8''%F", "a part's name* cannot be read (RFC 5987)"),
        ] {
            assert_eq!(named(written), Err(wanted), "{written}");
        }
    }

    #[test]
    fn a_head_of_another_time_is_read_too() {
        let head =
            b"content-disposition: form-data; name=\"file\"; filename=\"M\xe4rz.csv\"\nContent-Length: 7\n\n";
        assert_eq!(PartHead::read(head).map(|head| head.name).as_deref(), Ok("file"));
        for (value, charset) in [
            ("text/plain; charset=US-ASCII", Charset::Utf8),
            ("text/plain; charset=ISO-8859-1", Charset::Latin1),
            ("text/csv;charset=\"UTF-8\"", Charset::Utf8),
            ("text/csv", Charset::Utf8),
            ("text/csv; header=present; charset=utf8", Charset::Utf8),
            ("text/csv; charset=utf-8; charset=utf-16", Charset::Other("utf-16".into())),
            ("text/csv; charset=windows-1252", Charset::Other("windows-1252".into())),
        ] {
            assert_eq!(Charset::of(value), charset, "{value}");
        }
        let read = |more: &str| {
            let head = format!("Content-Disposition: form-data; name=a\r\n{more}\r\n\r\n");
            PartHead::read(head.as_bytes()).map(|head| head.encoding.map(|(_, value)| value))
        };
        assert_eq!(read("Content-Transfer-Encoding: 8bit\r\nContent-Encoding: identity"), Ok(None));
        assert_eq!(read("Content-Transfer-Encoding: BASE64"), Ok(Some("BASE64".into())));
        assert_eq!(read("Content-Encoding: gzip"), Ok(Some("gzip".into())));
        assert!(read("no header").is_err());
        assert!(read("Content-Disposition: form-data; name=b").is_err());
        assert!(read(&"x: y\r\n".repeat(40)).is_err());
    }

    #[test]
    fn boundaries_are_read_as_they_are_written() {
        for (content_type, wanted) in [
            ("multipart/form-data; boundary=x", "x"),
            ("multipart/form-data; boundary=\"x y\"", "x y"),
            (
                "multipart/form-data; charset=utf-8; Boundary=----WebKitFormBoundaryAbC",
                "----WebKitFormBoundaryAbC",
            ),
            ("multipart/form-data; boundary=----=_Part_0_123.456; charset=UTF-8", "----=_Part_0_123.456"),
            ("multipart/form-data; boundary=\"----=_Part_0_123.456\"", "----=_Part_0_123.456"),
            ("multipart/form-data;boundary=a/b:c'd(e)", "a/b:c'd(e)"),
        ] {
            assert_eq!(boundary(content_type).as_deref(), Ok(wanted), "{content_type}");
        }
        for content_type in [
            "multipart/form-data",
            "multipart/form-data; boundary=",
            "multipart/form-data; boundary=\"\"",
            "multipart/form-data; boundary=\"x \"",
            "multipart/form-data; boundary=x; boundary=y",
            "multipart/form-data; boundary=ä",
        ] {
            assert!(boundary(content_type).is_err(), "{content_type}");
        }
    }
}
