//! XML of an answer as a JSON value, as templates read it.
//!
//! Elements and attributes go by their local names, the root included. An element with text only is a string; attributes are
//! `@name`, text beside attributes or elements is `#text`, an element that is repeated is a list. Nothing is fetched or expanded:
//! a document type is refused, so there are no entities but the five of XML itself.

use encoding_rs::{Encoding, UTF_8};
use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};
use serde_json::{Map, Value};

use crate::json::{MAX_DEPTH, is_private_key};

/// Why XML cannot be read. Holds nothing of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum XmlError {
    /// Its bytes are none of its encoding.
    #[error("its bytes are not {0}")]
    Encoding(String),
    /// Its encoding is not known.
    #[error("its encoding is not known")]
    UnknownEncoding,
    /// It has a document type, which could make a short document a long one.
    #[error("it has a document type (`<!DOCTYPE`), which is refused")]
    DocumentType,
    /// It has a reference to an entity that is not XML's own.
    #[error("it refers to an entity that XML does not have by itself")]
    Entity,
    /// Its elements are nested too deeply.
    #[error("its elements are nested more than {0} levels deep")]
    TooDeep(usize),
    /// A name that is not accepted.
    #[error("it has a name that is not accepted")]
    Name,
    /// It is not well-formed.
    #[error("{0}")]
    Malformed(String),
}

/// An element that is being read.
#[derive(Default)]
struct Element {
    name: String,
    fields: Map<String, Value>,
    text: String,
}

/// Text of these bytes. Their encoding is that of a byte order mark, else `charset` of the content type, else that of the XML
/// declaration, else UTF-8 (RFC 7303, 3).
///
/// # Errors
/// When the encoding is not known, or the bytes are not of it.
pub fn decode(bytes: &[u8], charset: Option<&str>) -> Result<String, XmlError> {
    let known = |label: &str| Encoding::for_label(label.trim().as_bytes()).ok_or(XmlError::UnknownEncoding);
    let encoding = match (Encoding::for_bom(bytes), charset, declared(bytes)) {
        (Some((encoding, _)), _, _) => encoding,
        (None, Some(label), _) | (None, None, Some(label)) => known(label)?,
        (None, None, None) => UTF_8,
    };
    let (text, encoding, malformed) = encoding.decode(bytes);
    if malformed {
        return Err(XmlError::Encoding(encoding.name().to_owned()));
    }
    Ok(text.into_owned())
}

/// The encoding that an XML declaration names.
fn declared(bytes: &[u8]) -> Option<&str> {
    let head = bytes.get(..bytes.len().min(256))?;
    let end = memchr::memmem::find(head, b"?>")?;
    let head = std::str::from_utf8(&head[..end]).ok()?.strip_prefix("<?xml")?;
    let rest = head.split_once("encoding")?.1.trim_start().strip_prefix('=')?.trim_start();
    let quote = rest.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
    rest[1..].split_once(quote).map(|(label, _)| label)
}

/// Reads XML; `charset` is the one of its content type.
///
/// # Errors
/// When it is not well-formed, or has what is not accepted.
pub fn read(bytes: &[u8], charset: Option<&str>) -> Result<Value, XmlError> {
    let text = decode(bytes, charset)?;
    let mut reader = Reader::from_str(&text);
    let mut open: Vec<Element> = Vec::new();
    let mut root = None;
    loop {
        match reader.read_event().map_err(malformed)? {
            Event::Start(start) => {
                begin(&start, &mut open, root.is_some())?;
            }
            Event::Empty(start) => {
                begin(&start, &mut open, root.is_some())?;
                end(&mut open, &mut root);
            }
            Event::End(_) => end(&mut open, &mut root),
            Event::Text(text) => append(&mut open, &unix_lines(&text.decode().map_err(malformed)?))?,
            Event::CData(text) => append(&mut open, &unix_lines(&text.decode().map_err(malformed)?))?,
            Event::GeneralRef(reference) => {
                let character = match reference.resolve_char_ref().map_err(malformed)? {
                    Some(character) => character,
                    None => predefined(&reference.decode().map_err(malformed)?)?,
                };
                append(&mut open, character.encode_utf8(&mut [0; 4]))?;
            }
            Event::DocType(_) => return Err(XmlError::DocumentType),
            Event::Comment(_) | Event::PI(_) | Event::Decl(_) => {}
            Event::Eof => break,
        }
    }
    let unfinished = || XmlError::Malformed("it ends before its last element does".to_owned());
    let (name, value) = root.filter(|_| open.is_empty()).ok_or_else(unfinished)?;
    Ok(Value::Object(Map::from_iter([(name, value)])))
}

/// Why it is not well-formed, without what stands there.
fn malformed(error: impl Into<quick_xml::Error>) -> XmlError {
    let what = match error.into() {
        quick_xml::Error::IllFormed(_) => "its elements do not fit together",
        quick_xml::Error::InvalidAttr(_) => "an attribute cannot be read",
        quick_xml::Error::Escape(_) => return XmlError::Entity,
        _ => "its syntax is wrong",
    };
    XmlError::Malformed(what.to_owned())
}

fn predefined(name: &str) -> Result<char, XmlError> {
    Ok(match name {
        "lt" => '<',
        "gt" => '>',
        "amp" => '&',
        "apos" => '\'',
        "quot" => '"',
        _ => return Err(XmlError::Entity),
    })
}

fn local(name: &[u8]) -> Result<String, XmlError> {
    let name = String::from_utf8_lossy(name).into_owned();
    if name.is_empty() || is_private_key(&name) { Err(XmlError::Name) } else { Ok(name) }
}

fn begin(start: &BytesStart<'_>, open: &mut Vec<Element>, is_second: bool) -> Result<(), XmlError> {
    if open.len() >= MAX_DEPTH {
        return Err(XmlError::TooDeep(MAX_DEPTH));
    }
    if open.is_empty() && is_second {
        return Err(XmlError::Malformed("it has more than one root".to_owned()));
    }
    let mut element = Element { name: local(start.local_name().into_inner())?, ..Element::default() };
    for attribute in start.attributes() {
        let attribute = attribute.map_err(|error| malformed(quick_xml::Error::from(error)))?;
        if attribute.key.as_namespace_binding().is_some() {
            continue;
        }
        let name = local(attribute.key.local_name().into_inner())?;
        let raw = String::from_utf8_lossy(&attribute.value);
        let value = quick_xml::escape::unescape(&raw).map_err(|_| XmlError::Entity)?;
        element.fields.insert(format!("@{name}"), Value::String(value.into_owned()));
    }
    open.push(element);
    Ok(())
}

fn append(open: &mut [Element], text: &str) -> Result<(), XmlError> {
    match open.last_mut() {
        Some(element) => element.text.push_str(text),
        None if text.trim_matches(['\u{feff}', ' ', '\t', '\r', '\n']).is_empty() => {}
        None => return Err(XmlError::Malformed("there is text outside of its root".to_owned())),
    }
    Ok(())
}

/// An element has ended: it becomes a field of the one around it.
fn end(open: &mut Vec<Element>, root: &mut Option<(String, Value)>) {
    let Some(Element { name, mut fields, text }) = open.pop() else { return };
    let text = text.trim_matches([' ', '\t', '\r', '\n']);
    let value = if fields.is_empty() {
        Value::String(text.to_owned())
    } else {
        if !text.is_empty() {
            fields.insert("#text".to_owned(), Value::String(text.to_owned()));
        }
        Value::Object(fields)
    };
    let Some(around) = open.last_mut() else {
        *root = Some((name, value));
        return;
    };
    match around.fields.get_mut(&name) {
        None => {
            around.fields.insert(name, value);
        }
        // No element's own value is a list.
        Some(Value::Array(items)) => items.push(value),
        Some(first) => *first = Value::Array(vec![first.take(), value]),
    }
}

/// Text with the line ends of XML (XML 1.0, 2.11).
fn unix_lines(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn elements_go_by_local_names() {
        for (xml, wanted) in [
            ("<a/>", json!({ "a": "" })),
            ("<a> x &amp; &#228;&#x41; <![CDATA[<b>]]> </a>", json!({ "a": "x & äA <b>" })),
            (
                "<?xml version=\"1.0\"?><!-- c --><n:a xmlns:n=\"u\"><n:b>1</n:b></n:a>\n",
                json!({ "a": { "b": "1" } }),
            ),
            (
                "<a><b>1</b><c/><b>2</b><b x=\"3\"/></a>",
                json!({ "a": { "b": ["1", "2", { "@x": "3" }], "c": "" } }),
            ),
            (
                "<a x='1 &lt; 2' n:y=\"z\" xmlns:n=\"u\" xmlns=\"v\">t</a>",
                json!({ "a": { "@x": "1 < 2", "@y": "z", "#text": "t" } }),
            ),
            ("<a>\n  t <b>1</b> u\n</a>", json!({ "a": { "b": "1", "#text": "t  u" } })),
            ("\u{feff}<a>ö</a>", json!({ "a": "ö" })),
        ] {
            assert_eq!(read(xml.as_bytes(), None), Ok(wanted), "{xml}");
        }
    }

    #[test]
    fn encodings_are_those_that_are_named() {
        let latin = b"<?xml version='1.0' encoding='ISO-8859-1'?><a>\xfc</a>";
        assert_eq!(read(latin, None), Ok(json!({ "a": "ü" })));
        assert_eq!(read(b"<a>\xfc</a>", Some("windows-1252")), Ok(json!({ "a": "ü" })));
        let utf16: Vec<u8> = "\u{feff}<a>ü</a>".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(read(&utf16, None), Ok(json!({ "a": "ü" })));
        assert_eq!(read(b"<a>\xfc</a>", None), Err(XmlError::Encoding("UTF-8".into())));
        assert_eq!(read(b"<a/>", Some("klingon")), Err(XmlError::UnknownEncoding));
    }

    #[test]
    fn what_is_dangerous_or_wrong_is_refused() {
        for (xml, wanted) in [
            ("<!DOCTYPE a [<!ENTITY x \"y\">]><a>&x;</a>", XmlError::DocumentType),
            ("<a>&x;</a>", XmlError::Entity),
            ("<a b=\"&x;\"/>", XmlError::Entity),
        ] {
            assert_eq!(read(xml.as_bytes(), None), Err(wanted), "{xml}");
        }
        for xml in [
            "",
            "x",
            "{}",
            "<a>",
            "<a></b>",
            "<a/><b/>",
            "<a/>x",
            "<a x=1/>",
            "<a",
            "<a>&#0;</a>",
            "</a>",
            "<a x='1' x='2'/>",
        ] {
            assert!(read(xml.as_bytes(), None).is_err(), "{xml}: {:?}", read(xml.as_bytes(), None));
        }
        let nested = |levels: usize| format!("{}{}", "<a>".repeat(levels), "</a>".repeat(levels));
        assert!(read(nested(MAX_DEPTH).as_bytes(), None).is_ok());
        assert_eq!(read(nested(MAX_DEPTH + 1).as_bytes(), None), Err(XmlError::TooDeep(MAX_DEPTH)));
        assert_eq!(read(nested(1_000_000).as_bytes(), None), Err(XmlError::TooDeep(MAX_DEPTH)));
    }
}
