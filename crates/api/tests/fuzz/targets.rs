//! One function for each parser that meets strangers: no bytes make it panic, and what it says of them holds. The tests drive
//! them with mutations of a small corpus (`main.rs`), `cargo fuzz` by coverage (`fuzz/`).

#[path = "files.rs"]
mod files;

use std::collections::BTreeMap;
use std::io::Cursor;
use std::ops::ControlFlow;
use std::sync::LazyLock;
use std::time::Duration;

use penstock_api::{cursors, multipart, query, ranges};
use penstock_crypto::{ApiKey, Keyring};
use penstock_domain::ids::BatchId;
use penstock_domain::pipeline::{Pipeline, ResponseView, RowContext, RowValues};
use penstock_domain::time::Timestamp;
use penstock_downstream::{asked_pause, wait_until};
use penstock_flow::intake::unpack::Unpack;
use penstock_flow::read::links::Link;
use penstock_workbook::convert;
use serde_json::{Map, Value, json};
use uuid::Uuid;

pub use files::{csv, delimiters, dialects, encodings, error_lists};

/// A parser: its name, its function, and bytes to begin with.
pub type Target = (&'static str, fn(&[u8]), &'static [&'static [u8]]);

/// All of them.
pub const TARGETS: [Target; 14] = [
    ("csv", csv, &[b"a,b\n1,2\n", b"\xEF\xBB\xBFa,b\r\n\"1\",\"\"\"2\"\"\n\"\r\"\"\n\",x\n", b"b;a\n1;2", b"a,b\n\"" ]),
    ("multipart", form, &[
        b"--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.csv\"\r\nContent-Type: text/csv; charset=utf-8\r\n\r\nid\n1\n\r\n--x--\r\n",
        b"--x\nContent-Disposition: form-data; name*=utf-8''n%C3%A4me\nContent-Transfer-Encoding: 8bit\n\ny\n--x  \r\n\r\n\r\n--x--",
        b"preamble\r\n--x\r\n\r\n\r\n--xy\r\n--x--",
    ]),
    ("dialects", dialects, &[
        b"sep=;\r\nA; B ;c;;\r\n1;\xE9;2;;\r\n;;;;\r\n\x1A",
        b"\xFF\xFEa\0\t\0b\0\r\0x\0\t\0\"\0y\0\r\0\"\0",
        b"a|b\r1|\"x\ry\"\r\r2|z",
        b"\xEF\xBB\xBF\"a\";\"b\"\n1;\xC3\xA9\n1;2",
    ]),
    ("encodings", encodings, &[
        b"\0a,b\n1,\x83\x5C\x82\xA0\n",
        b"\x01a\0,\0b\0\n\0\x31\0,\0\x3D\xD8\x00\xDE\n\0",
        b"\x02\0a\0,\0b\0\n\0\x31\0,\0x",
        b"\x03a,b\n\x1B$B\x24\x22\x1B(B,2\n",
        b"\x04a,b\n\x81\x30\x81\x30,\xC4\xE3\n",
        b"\x05\xEF\xBB\xBFa,b\n\xC3\xA9,2\n",
    ]),
    ("delimiters", delimiters, &[b"\0a;b\n1;\"2;\"\n", b"\x01a\tb\r\n\"1\t\"\t2\r\n", b"\x02a|b\n1|\"\"\"|\"\n", b"\x03a,b\n1,2\n"]),
    ("error_lists", error_lists, &[
        b"\0{{\n\"G<\"{{\n1,2,3\"\n",
        b"\0a,b\n=1,\n,x\n\"1,\"\n1,2,3\n\"x\"y,\n",
        b"\x01sep=;\nB;A;c\n@x;;'y\n;;\n1;\xE9;\n1;2;3;\n\x1A",
        b"\x01a|b|_ref|_row\n'=1|x|r1|2\n'=1|1\0|r1|\n",
    ]),
    ("gzip", gzip, &[
        b"a,b\n1,2\n",
        b"\x1F\x8B\x08\0\0\0\0\0\0\x03\x4B\xD4\x49\xE2\x32\xD4\x31\xE2\x02\0\x69\x6C\xC1\x53\x08\0\0\0",
        b"\x1F\x8B\x08\0\0\0\0\0\0\x03\x01\x04\0\xFB\xFFa,b\n",
    ]),
    ("workbook", workbook, &[
        b"\0<worksheet><sheetData><row r=\"1\"><c r=\"A1\" t=\"s\"><v>0</v></c><c r=\"C1\" s=\"1\"><v>45000.75</v></c></row><row><c t=\"inlineStr\"><is><r><t xml:space=\"preserve\"> x</t></r></is></c><c t=\"b\"><v>1</v></c></row></sheetData></worksheet>",
        b"\x01<sst count=\"2\"><si><t>a</t></si><si><r><t>b</t></r><rPh><t>c</t></rPh></si></sst>",
        b"\x02<styleSheet><numFmts><numFmt numFmtId=\"164\" formatCode=\"[$-407]yyyy-mm-dd hh:mm;@\"/></numFmts><cellXfs><xf numFmtId=\"0\"/><xf numFmtId=\"164\"/></cellXfs></styleSheet>",
        b"\x03<workbook><workbookPr date1904=\"1\"/><sheets><sheet name=\"A\" state=\"hidden\" r:id=\"r1\"/><sheet name=\"B\" r:id=\"r1\"/></sheets></workbook>",
        b"\x04PK\x03\x04PK\x01\x02PK\x05\x06\0\0\0\0\x01\0\x01\0\x20\0\0\0\0\0\0\0\0\0",
    ]),
    ("boundary", boundary, &[b"multipart/form-data; boundary=x", b"multipart/form-data; charset=utf-8; boundary=\"a b\\\"c\"", b"text/csv"]),
    ("waiting", waiting, &[
        b"retry-after: 17\ndate: Tue, 24 Nov 2026 02:30:53 GMT",
        b"retry-after: Tue, 24 Nov 2026 02:31:53 GMT\nx-ratelimit-reset: 1795560905",
        b"ratelimit: \"default\";r=0;t=30, \"day\";r=7;t=1.5e3\nratelimit-policy: \"day\";q=10;w=60",
        b"x-ratelimit-remaining: 0\nx-ratelimit-reset: 6m30.5s\nretry-after-ms: 1500",
    ]),
    ("templates", template, &[
        b"{{ body.links[0].id }}\0{\"links\":[{\"id\":7}]}",
        b"{{ (row.a | int + 1e400) | round(2) }}{% if body is defined %}{{ body | length }}{% endif %}\0[1,\"x\"]",
        b"{{ headers['x-id'] | default('n') | upper }} {{ status * 99999999999999999999 / 0 }}\0null",
    ]),
    ("tokens", token, &[b"", b"psk_0123456789ab_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"]),
    ("range", range, &[b"bytes=0-1", b"bytes=-1", b"bytes=18446744073709551615-", b"bytes=5-4, 7-8"]),
    ("cursors", cursor, &[b"0", b"123456789", b"1795560905720_01a20fc5-1bf6-7848-b776-b954c12c4f3c", b"limit=1&cursor=%C3%B6&a=%4"]),
];

/// A compressed file unpacks to the same, however it is cut, and never to much more at a time than what it is made of.
pub fn gzip(bytes: &[u8]) {
    let unpacked = |pieces: usize| {
        let (mut unpack, mut plain) = (Unpack::default(), Vec::new());
        for mut piece in bytes.chunks(pieces) {
            while !piece.is_empty() {
                let step = unpack.step(&mut piece).ok()?;
                assert!(step.bytes().len() < 4 * 1024 * 1024);
                plain.extend_from_slice(step.bytes());
            }
        }
        plain.extend(unpack.finish().ok()?);
        Some(plain)
    };
    assert_eq!(unpacked(1), unpacked(usize::MAX));
}

/// A workbook of which one part is these bytes, or a file that is nothing but them, is read or refused; what is read is UTF-8.
pub fn workbook(bytes: &[u8]) {
    let Some((which, part)) = bytes.split_first() else { return };
    let mut parts: [(&str, &[u8]); 5] = [
        ("xl/worksheets/sheet1.xml", b"<worksheet><sheetData><row><c s=\"1\"><v>1.5</v></c><c t=\"s\"><v>1</v></c></row></sheetData></worksheet>"),
        ("xl/sharedStrings.xml", b"<sst><si><t>a</t></si><si><t>b</t></si></sst>"),
        ("xl/styles.xml", b"<styleSheet><cellXfs><xf numFmtId=\"0\"/><xf numFmtId=\"14\"/></cellXfs></styleSheet>"),
        ("xl/workbook.xml", b"<workbook><sheets><sheet name=\"A\" r:id=\"r1\"/></sheets></workbook>"),
        ("xl/_rels/workbook.xml.rels", b"<Relationships><Relationship Id=\"r1\" Target=\"worksheets/sheet1.xml\"/></Relationships>"),
    ];
    let file = match parts.get_mut(usize::from(*which)) {
        Some((_, content)) if *which != 4 => {
            *content = part;
            archive(&parts)
        }
        _ => part.to_vec(),
    };
    let mut csv = Vec::new();
    let read = convert(Cursor::new(file), None, &mut |piece| {
        csv.extend_from_slice(piece);
        ControlFlow::Continue(())
    });
    assert!(read.is_err() || std::str::from_utf8(&csv).is_ok());
}

/// An archive of parts that are not compressed (APPNOTE.TXT, 4.3).
fn archive(parts: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    let length = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX).to_le_bytes();
    for (name, content) in parts {
        let at = out.len();
        let mut crc = flate2::Crc::new();
        crc.update(content);
        let mut head = [20, 0, 0, 0, 0, 0, 0, 0, 0, 0].to_vec();
        head.extend(crc.sum().to_le_bytes());
        head.extend(length(content.len()));
        head.extend(length(content.len()));
        head.extend(&length(name.len())[..2]);
        head.extend([0, 0]);
        out.extend(b"PK\x03\x04");
        out.extend(&head);
        out.extend(name.as_bytes());
        out.extend(*content);
        directory.extend(b"PK\x01\x02\x14\0");
        directory.extend(&head);
        directory.extend([0; 10]);
        directory.extend(length(at));
        directory.extend(name.as_bytes());
    }
    let (start, count) = (out.len(), length(parts.len()));
    out.extend(&directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend([&count[..2], &count[..2]].concat());
    out.extend(length(directory.len()));
    out.extend(length(start));
    out.extend([0, 0]);
    out
}

/// A form has the same parts, however it is cut.
pub fn form(bytes: &[u8]) {
    let parts = |pieces: usize| -> Result<Vec<(multipart::PartHead, Vec<u8>)>, multipart::Malformed> {
        let mut parser = multipart::Parser::new("x");
        let mut parts: Vec<(multipart::PartHead, Vec<u8>)> = Vec::new();
        let mut drain = |parser: &mut multipart::Parser| {
            while let Some(event) = parser.next_event()? {
                match event {
                    multipart::Event::Part(head) => parts.push((head, Vec::new())),
                    multipart::Event::Content(more) => {
                        parts.last_mut().expect("content is a part's").1.extend_from_slice(&more);
                    }
                }
            }
            Ok(())
        };
        for piece in bytes.chunks(pieces) {
            parser.push(piece);
            drain(&mut parser)?;
        }
        parser.finish();
        drain(&mut parser)?;
        Ok(parts)
    };
    assert_eq!(parts(1).ok(), parts(usize::MAX).ok());
}

/// A boundary is one that a line can have; some clients have longer ones than RFC 2046 allows.
pub fn boundary(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(boundary) = multipart::boundary(text) {
        assert!((1..=200).contains(&boundary.len()), "{boundary:?}");
        assert!(!boundary.contains(['\r', '\n']), "{boundary:?}");
    }
    multipart::latin1(bytes);
}

/// What headers say about waiting is a moment that is to come.
pub fn waiting(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let headers: BTreeMap<String, String> = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.trim().to_lowercase(), value.trim().to_owned()))
        .collect();
    let now = Timestamp::from_millis(1_795_560_905_720);
    for status in [200, 429, 503] {
        let until = wait_until(status, &headers, now);
        assert!(until.is_none_or(|until| until >= now && status != 200), "{headers:?}");
    }
    let longest = Duration::from_secs(31 * 86_400);
    let asked = BTreeMap::from([("retry-after".to_owned(), text.trim().to_owned())]);
    let wait = asked_pause(&asked, now);
    assert!(wait.is_none_or(|wait| wait <= longest), "{text:?}");
}

/// A template and an answer, with a zero byte between them: what loads gives a value or an error.
pub fn template(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (template, body) = text.split_once('\0').unwrap_or((&text, "null"));
    let quoted = Value::String(template.to_owned()).to_string();
    let definition = format!(
        "name: p\ncsv: {{ columns: [ {{ name: a }} ] }}\ndependencies: {{ d: {{ base_url: \"http://d.example\" }} }}\n\
         steps: [ {{ name: s, dependency: d, request: {{ method: GET, path: /s }}, output: {{ x: {quoted} }} }} ]\n"
    );
    let Ok(pipeline) = Pipeline::load("p.yaml", &definition, &|_| None) else { return };
    let body: Value = serde_json::from_str(body).unwrap_or(Value::Null);
    let values =
        RowValues::new(&BTreeMap::from([("a".to_owned(), template.to_owned())]), &json!({ "c": body }));
    let context = RowContext { values: &values, steps: &Map::new(), now: Timestamp::default() };
    let headers = BTreeMap::from([("x-id".to_owned(), template.to_owned())]);
    // An error is as good.
    let _ = pipeline.steps[0].output(&context, ResponseView { status: 200, headers: &headers, body: &body });
}

static KEYRING: LazyLock<Keyring> = LazyLock::new(|| {
    Keyring::parse("tests:WX9EIDV99ywIg2xC6vzpTAJnAdGLt132YsRseUckGJk=").expect("a keyring")
});

/// A link opens what it was made for or nothing, and an API key is written as it was read.
pub fn token(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let now = Timestamp::from_millis(1000);
    let link = Link {
        batch: BatchId(Uuid::from_u128(7)),
        report: "results.csv".into(),
        key_id: "0123456789ab".into(),
        key_word: "cdef".into(),
        expires_at: Timestamp::from_millis(2000),
    };
    let genuine = link.token(&KEYRING).expect("a token");
    // The bytes alone, and the token with some of its bytes replaced by them.
    let mut changed = genuine.clone().into_bytes();
    let at = bytes.first().map_or(0, |first| usize::from(*first) % changed.len());
    for (old, new) in changed[at..].iter_mut().zip(bytes.iter().skip(1)) {
        *old = *new;
    }
    for token in [text.as_ref(), &String::from_utf8_lossy(&changed)] {
        if let Ok(opened) = Link::read(&KEYRING, token, now) {
            assert_eq!(opened, link, "{token}");
        }
    }
    if let Some(key) = ApiKey::parse(&text) {
        assert!(text.contains(key.id()), "{text:?}");
    }
}

/// A range is in what it is a range of.
pub fn range(bytes: &[u8]) {
    let Some(wanted) = ranges::Wanted::parse(&String::from_utf8_lossy(bytes)) else { return };
    for length in [0, 1, 10, u64::MAX] {
        if let Some((first, last)) = wanted.within(length) {
            assert!(first <= last && last < length, "{wanted:?} of {length}");
        }
    }
}

/// What is accepted is a cursor as pages write it; a query that is read is text.
pub fn cursor(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(number) = cursors::number(&text, 18) {
        assert_eq!(number.to_string(), text);
    }
    if let Ok((at, id)) = cursors::moment(&text) {
        assert_eq!(cursors::of_moment(at, id), text);
    }
    if let Ok(fields) = query::read::<BTreeMap<String, String>>(&text) {
        assert!(fields.len() <= text.len() + 1);
    }
}
