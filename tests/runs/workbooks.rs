//! Excel workbooks over the real API: a worker reads them, and what cannot be read ends as a batch that says why.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::DeflateEncoder;
use penstock_sandbox::{Config, Sandbox};
use penstock_tests::{Client, Place};
use serde_json::{Value, json};

use crate::dialects::PEOPLE;

const ROUTE: &str = "/v2/pipelines/people/batches";

/// An archive of parts that are not compressed (APPNOTE.TXT, 4.3).
pub fn archive(parts: &[(&str, &str)]) -> Vec<u8> {
    packed_archive(parts, false)
}

/// The same, with parts that are compressed or not.
fn packed_archive(parts: &[(&str, &str)], compressed: bool) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    let length = |bytes: usize| u32::try_from(bytes).expect("a small one").to_le_bytes();
    for (name, content) in parts {
        let at = out.len();
        let mut crc = flate2::Crc::new();
        crc.update(content.as_bytes());
        let name_bytes = u16::try_from(name.len()).expect("a short one").to_le_bytes();
        let stored = if compressed { deflated(content) } else { content.as_bytes().to_vec() };
        let mut head = [20, 0, 0, 0, u8::from(compressed) * 8, 0, 0, 0, 0, 0].to_vec();
        head.extend(crc.sum().to_le_bytes());
        head.extend(length(stored.len()));
        head.extend(length(content.len()));
        head.extend(name_bytes);
        head.extend([0, 0]);
        out.extend(b"PK\x03\x04");
        out.extend(&head);
        out.extend(name.as_bytes());
        out.extend(stored);
        directory.extend(b"PK\x01\x02\x14\0");
        directory.extend(&head);
        directory.extend([0; 10]);
        directory.extend(length(at));
        directory.extend(name.as_bytes());
    }
    let (start, count) = (out.len(), u16::try_from(parts.len()).expect("few").to_le_bytes());
    out.extend(&directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend(count);
    out.extend(count);
    out.extend(length(directory.len()));
    out.extend(length(start));
    out.extend([0, 0]);
    out
}

fn deflated(content: &str) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(content.as_bytes()).expect("memory");
    encoder.finish().expect("memory")
}

/// A workbook of sheets, each with its name and the texts of its rows.
pub fn workbook_of_sheets(sheets: &[(&str, &[&[&str]])]) -> Vec<u8> {
    let cell = |text: &&str| format!("<c t=\"inlineStr\"><is><t>{text}</t></is></c>");
    let row = |cells: &&[&str]| format!("<row>{}</row>", cells.iter().map(cell).collect::<String>());
    let numbered = || sheets.iter().enumerate().map(|(at, (name, rows))| (at + 1, name, rows));
    let listed: String =
        numbered().map(|(at, name, _)| format!("<sheet name=\"{name}\" r:id=\"r{at}\"/>")).collect();
    let targets: String = numbered()
        .map(|(at, ..)| format!("<Relationship Id=\"r{at}\" Target=\"worksheets/sheet{at}.xml\"/>"))
        .collect();
    let mut parts = vec![
        (
            "xl/workbook.xml".to_owned(),
            format!("<workbook xmlns:r=\"r\"><sheets>{listed}</sheets></workbook>"),
        ),
        ("xl/_rels/workbook.xml.rels".to_owned(), format!("<Relationships>{targets}</Relationships>")),
    ];
    parts.extend(numbered().map(|(at, _, rows)| {
        let rows: String = rows.iter().map(row).collect();
        (
            format!("xl/worksheets/sheet{at}.xml"),
            format!("<worksheet><sheetData>{rows}</sheetData></worksheet>"),
        )
    }));
    let parts: Vec<(&str, &str)> = parts.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    archive(&parts)
}

pub fn workbook(more: &[(&str, &str)]) -> Vec<u8> {
    let rows = r#"        <row r="1"><c r="A1" t="inlineStr"><is><t>E-Mail</t></is></c><c r="B1" t="inlineStr"><is><t>Name</t></is></c><c r="C1" t="inlineStr"><is><t>Postcode</t></is></c></row>
        <row r="3"><c r="A3" t="inlineStr"><is><t>Ada@Example.de</t></is></c><c r="B3" t="inlineStr"><is><t>J&#246;rg</t></is></c><c r="C3" s="1"><v>1067</v></c></row>"#;
    workbook_of(rows, more)
}

/// A workbook of these rows.
fn workbook_of(rows: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let sheet = format!("<worksheet><sheetData>{rows}</sheetData></worksheet>");
    let parts = [
        ("[Content_Types].xml", "<Types/>"),
        (
            "xl/workbook.xml",
            r#"<workbook xmlns:r="r"><sheets><sheet name="People" r:id="rId1"/></sheets></workbook>"#,
        ),
        (
            "xl/_rels/workbook.xml.rels",
            r#"<Relationships><Relationship Id="rId1" Target="worksheets/sheet1.xml"/></Relationships>"#,
        ),
        (
            "xl/styles.xml",
            r#"<styleSheet><numFmts><numFmt numFmtId="164" formatCode="00000"/></numFmts><cellXfs><xf numFmtId="0"/><xf numFmtId="164"/></cellXfs></styleSheet>"#,
        ),
        ("xl/worksheets/sheet1.xml", sheet.as_str()),
    ];
    archive(&[&parts[..], more].concat())
}

/// A workbook of some kilobytes, whose sheet has 36 MiB of nothing.
fn bomb() -> Vec<u8> {
    let sheet = format!("<worksheet><sheetData>{}</sheetData></worksheet>", "<x></x>".repeat(5 << 20));
    let listed = "<workbook xmlns:r=\"r\"><sheets><sheet name=\"A\" r:id=\"r1\"/></sheets></workbook>";
    let targets = "<Relationships><Relationship Id=\"r1\" Target=\"sheet.xml\"/></Relationships>";
    let parts =
        [("xl/workbook.xml", listed), ("xl/_rels/workbook.xml.rels", targets), ("xl/sheet.xml", &sheet)];
    packed_archive(&parts, true)
}

/// More texts than a worker holds.
fn texts() -> String {
    format!("<sst>{}</sst>", format!("<si><t>{}</t></si>", "x".repeat(1_000_000)).repeat(68))
}

#[tokio::test]
async fn a_workbook_is_read_by_a_worker() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let taking = PEOPLE.replace("delimiter: auto", "delimiter: \";\"\n  formats: [csv, xlsx]");
    let place = Place::new(&[("people.yaml", &taking)]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let (status, batch) = client.upload(ROUTE, workbook(&[])).await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    let id = batch["id"].as_str().expect("an id").to_owned();
    let batch = client.finished(&id).await;
    assert_eq!(batch["counts"]["completed"], 1, "{batch}");
    let report = client.text(&format!("/v2/batches/{id}/results.csv")).await;
    assert!(report.starts_with("\u{FEFF}E-Mail;Name;Postcode;_row"), "{report}");
    assert!(report.contains("\r\nAda@Example.de;Jörg;01067;1;completed;ada@example.de Jörg DE;"), "{report}");
    let rows = client.get(&format!("/v2/batches/{id}/rows")).await;
    assert_eq!(rows["data"][0]["line"], 3, "its row in the sheet");
    // The workbook as the body, by its own media type.
    let itself = client.request("POST", ROUTE);
    let itself =
        itself.header("content-type", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet");
    let answer = itself.body(workbook(&[])).send().await.expect("an answer");
    assert_eq!(answer.status(), 202);
    let batch: Value = answer.json().await.expect("JSON");
    assert_eq!(client.finished(batch["id"].as_str().expect("an id")).await["counts"]["completed"], 1);
    // The report goes round as that of any other file.
    let (status, again) = client.upload(ROUTE, report).await.expect("an answer");
    assert_eq!(status, 202, "{again}");
    for (file, code) in [
        (workbook(&[("xl/vbaProject.bin", "x")]), "macro_workbook"),
        (workbook(&[])[..400].to_vec(), "broken_workbook"),
        (bomb(), "workbook_ratio"),
        (workbook(&[("xl/sharedStrings.xml", &texts())]), "workbook_too_large"),
        (
            workbook_of(&format!("<row><c t=\"str\"><v>{}</v></c></row>", "x".repeat(2 << 20)), &[]),
            "workbook_too_large",
        ),
    ] {
        let (status, batch) = client.upload(ROUTE, file).await.expect("an answer");
        assert_eq!(status, 202, "{batch}");
        let batch = client.finished(batch["id"].as_str().expect("an id")).await;
        let failure: &Value = &batch["failure"];
        assert_eq!(
            (&failure["code"], &failure["errors"][0]["code"]),
            (&json!("invalid_file"), &json!(code)),
            "{batch}"
        );
    }
}

/// Whoever opens the workbook sees rows: a cell with several lines is in one of them.
#[tokio::test]
async fn errors_and_rows_name_the_row_of_the_sheet() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("people.yaml", &PEOPLE.replace("delimiter: auto", "formats: [csv, xlsx]"))]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let row = |number: u32, cells: [&str; 3]| {
        let cells = cells.map(|text| format!("<c t=\"inlineStr\"><is><t>{text}</t></is></c>")).concat();
        format!("<row r=\"{number}\">{cells}</row>")
    };
    let rows = |last: &str| {
        [
            row(1, ["E-Mail", "Name", "Postcode"]),
            row(2, ["a@b.co", "one\ntwo\r\nthree", "01067"]),
            row(5, ["b@b.co", "x\n\n\n\n\n\n", "01067"]),
            row(7, [last, "y", "01067"]),
        ]
        .concat()
    };
    let (_, refused) = client.upload(ROUTE, workbook_of(&rows("nobody"), &[])).await.expect("an answer");
    let refused = client.finished(refused["id"].as_str().expect("an id")).await;
    assert_eq!(refused["failure"]["errors"][0]["line"], 7, "{refused}");
    // Its page in the console lists them, too.
    let mut reader = penstock_tests::console::Reader::signed_in(&service, &key).await;
    let page = reader.page(&format!("/console/batches/{}", refused["id"].as_str().expect("an id"))).await;
    assert!(page.contains("The file was not accepted") && page.contains("/errors.csv\""), "{page}");
    assert!(page.contains("<td class=\"num\">7</td>"), "{page}");
    let (_, taken) = client.upload(ROUTE, workbook_of(&rows("c@b.co"), &[])).await.expect("an answer");
    let id = taken["id"].as_str().expect("an id");
    client.finished(id).await;
    let rows = client.get(&format!("/v2/batches/{id}/rows")).await;
    let lines: Vec<&Value> = rows["data"].as_array().expect("rows").iter().map(|row| &row["line"]).collect();
    assert_eq!(lines, [2, 5, 7], "{rows}");
}
