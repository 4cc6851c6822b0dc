//! Workbooks as programs write them, and such as nobody should be able to harm a worker with.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::{Cursor, Write as _};
use std::ops::ControlFlow;

use penstock_workbook::{WorkbookError, convert};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

const RELS: &str = r#"<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="rId1" Type="x" Target="worksheets/sheet1.xml"/><Relationship Id="rId2" Type="x" Target="/xl/worksheets/sheet2.xml"/></Relationships>"#;
const WORKBOOK: &str = r#"<workbook xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main" xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"><workbookPr/><sheets><sheet name="People" sheetId="1" r:id="rId1"/><sheet name="A &amp; B" sheetId="2" r:id="rId2"/></sheets></workbook>"#;
const STYLES: &str = r#"<styleSheet><numFmts count="1"><numFmt numFmtId="164" formatCode="00000"/></numFmts><cellStyleXfs><xf numFmtId="0"/></cellStyleXfs><cellXfs><xf numFmtId="0"/><xf numFmtId="164"/><xf numFmtId="14"/></cellXfs></styleSheet>"#;
const STRINGS: &str = r#"<sst><si><t>name</t></si><si><r><t>J&#246;rg </t></r><r><t>&amp; Co, "x"</t></r><rPh><t>no</t></rPh></si><si><t>two
lines_x000D_</t></si><si/></sst>"#;

fn sheet(rows: &str) -> String {
    format!(r#"<worksheet><dimension ref="A1"/><sheetData>{rows}</sheetData><pageMargins/></worksheet>"#)
}

fn archive(parts: &[(&str, &[u8])]) -> Vec<u8> {
    archive_by(CompressionMethod::Deflated, parts)
}

fn archive_by(method: CompressionMethod, parts: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(method);
    for (name, content) in parts {
        zip.start_file(*name, options).unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn workbook(rows: &str) -> Vec<u8> {
    let first = sheet(rows);
    archive(&[
        ("[Content_Types].xml", b"<Types/>"),
        ("xl/workbook.xml", WORKBOOK.as_bytes()),
        ("xl/_rels/workbook.xml.rels", RELS.as_bytes()),
        ("xl/styles.xml", STYLES.as_bytes()),
        ("xl/sharedStrings.xml", STRINGS.as_bytes()),
        ("xl/worksheets/sheet1.xml", first.as_bytes()),
        ("xl/worksheets/sheet2.xml", sheet("<row><c><v>2</v></c></row>").as_bytes()),
    ])
}

fn read(file: &[u8], name: Option<&str>) -> Result<String, WorkbookError> {
    let mut csv = Vec::new();
    convert(Cursor::new(file), name, &mut |piece| {
        csv.extend_from_slice(piece);
        ControlFlow::Continue(())
    })?;
    Ok(String::from_utf8(csv).unwrap())
}

#[test]
fn cells_are_read_as_a_person_sees_them() {
    let rows = r#"<row r="2"><c r="A2" t="s"><v>0</v></c><c r="B2" t="inlineStr"><is><t>zip</t></is></c><c r="C2" t="str"><f>1</f><v>born</v></c><c r="D2" s="1"/></row>
        <row r="3"><c r="A3" t="s"><v>1</v></c><c r="B3" s="1"><v>1067</v></c><c r="C3" s="2"><v>46350</v></c></row>
        <row r="4"/><row r="5"><c r="B5" s="1"/></row>
        <row r="6"><c r="A6" t="s"><v>2</v></c><c r="C6" t="b"><v>1</v></c></row>
        <row r="8"><c r="A8" t="e"><v>#N/A</v></c><c r="D8"><v>4</v></c></row>"#;
    let file = workbook(rows);
    assert_eq!(
        read(&file, None).unwrap(),
        "\nname,zip,born\n\"Jörg & Co, \"\"x\"\"\",01067,2026-11-24\n\n\n\"two\nlines\r\",,TRUE\n\n#N/A,,,4\n"
    );
    assert_eq!(read(&file, Some("A & B")).unwrap(), "2\n");
    assert!(matches!(read(&file, Some("Persons")), Err(WorkbookError::NoSheet(_))));
    // Excel knows no two sheets whose names differ only in capital letters, and nobody sees blanks at the end.
    assert_eq!(read(&file, Some(" a & b")).unwrap(), "2\n");
}

#[test]
fn what_is_no_workbook_that_can_be_read_is_refused() {
    let good = workbook("<row><c><v>1</v></c></row>");
    let code = |file: &[u8]| read(file, None).unwrap_err().code();
    for end in [0, 3, 30, good.len() / 2, good.len() - 1] {
        assert_eq!(code(&good[..end]), "broken_workbook", "{end}");
    }
    // The validator tells one with a password by more than its beginning; this is for whoever reads it without.
    assert_eq!(code(&[0xD0, 0xCF, 0x11, 0xE0, 0xA1, 0xB1, 0x1A, 0xE1]), "archive");
    assert_eq!(code(&archive(&[("rows.csv", b"a,b")])), "archive");
    let macros = archive(&[("xl/workbook.xml", WORKBOOK.as_bytes()), ("xl/vbaProject.bin", b"x")]);
    assert_eq!(code(&macros), "macro_workbook");
    let macros = archive(&[("xl/workbook.xml", WORKBOOK.as_bytes()), ("xl/macrosheets/sheet1.xml", b"x")]);
    assert_eq!(code(&macros), "macro_workbook");
    for rows in [
        "<row r=\"2\"/><row r=\"1\"/>",
        "<row r=\"2000000\"/>",
        "<row><c r=\"B1\"><v>1</v></c><c r=\"A1\"><v>1</v></c></row>",
        "<row><c r=\"ZZZZ1\"><v>1</v></c></row>",
        "<row><c t=\"s\"><v>99</v></c></row>",
        "<row><c><v>&nbsp;</v></c></row>",
        "<row><c></row>",
    ] {
        assert_eq!(code(&workbook(rows)), "broken_workbook", "{rows}");
    }
    let huge = format!("<row><c t=\"str\"><v>{}</v></c></row>", "x".repeat(2 << 20));
    assert_eq!(code(&workbook(&huge)), "workbook_too_large");
}

/// Texts that cells share are held in memory: more than 64 MiB of them are refused.
#[test]
fn more_texts_than_are_held_are_refused() {
    let strings = format!("<sst>{}</sst>", format!("<si><t>{}</t></si>", "x".repeat(1_000_000)).repeat(68));
    let first = sheet("<row><c t=\"s\"><v>1</v></c></row>");
    // Not compressed, or it would be a bomb before.
    let file = archive_by(
        CompressionMethod::Stored,
        &[
            ("xl/workbook.xml", WORKBOOK.as_bytes()),
            ("xl/_rels/workbook.xml.rels", RELS.as_bytes()),
            ("xl/sharedStrings.xml", strings.as_bytes()),
            ("xl/worksheets/sheet1.xml", first.as_bytes()),
        ],
    );
    let error = read(&file, None).unwrap_err();
    assert_eq!(error.code(), "workbook_too_large");
    assert!(error.to_string().contains("more than 64 MiB of different texts"), "{error}");
}

#[test]
fn a_bomb_ends_early() {
    let filler = format!("<row/>{}", "<x></x>".repeat(6 << 20));
    assert_eq!(read(&workbook(&filler), None).unwrap_err().code(), "workbook_ratio");
}

/// The parser keeps the names of all elements that are open.
#[test]
fn elements_are_within_each_other_to_a_bound() {
    let too_deep = format!("<row/>{}", "<x>".repeat(1 << 20));
    assert_eq!(read(&workbook(&too_deep), None).unwrap_err().code(), "workbook_too_large");
    let long_name = format!("<row/><{}>", "x".repeat(1 << 16));
    assert_eq!(read(&workbook(&long_name), None).unwrap_err().code(), "workbook_too_large");
    // Further texts of a phonetic run and extensions of a sheet are some ten deep.
    let deep = format!("<row><c><v>7</v></c></row>{}{}", "<x>".repeat(100), "</x>".repeat(100));
    assert_eq!(read(&workbook(&deep), None).unwrap(), "7\n");
}

/// A directory is read into memory: what the file says of its size does not make it small.
#[test]
fn a_directory_of_many_megabytes_is_not_read() {
    let name = "x".repeat(1000);
    let names: Vec<String> = (0..2500).map(|number| format!("{number}{name}")).collect();
    let parts: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b""[..])).collect();
    let mut file = archive(&parts);
    assert_eq!(read(&file, None).unwrap_err().code(), "workbook_too_large");
    let end = file.windows(4).rposition(|window| window == b"PK\x05\x06").unwrap();
    file[end + 12..end + 16].copy_from_slice(&100_u32.to_le_bytes());
    assert_eq!(read(&file, None).unwrap_err().code(), "workbook_too_large");
}

/// Styles share the format that they name.
#[test]
fn formats_are_bounded_together() {
    let format = |id: u32| format!("<numFmt numFmtId=\"{id}\" formatCode=\"{}\"/>", "0".repeat(1000));
    let formats = |most: u32| (200..200 + most).map(format).collect::<String>();
    let styles = |most: u32| {
        let many = "<xf numFmtId=\"200\"/>".repeat(90_000);
        format!("<styleSheet><numFmts>{}</numFmts><cellXfs>{many}</cellXfs></styleSheet>", formats(most))
    };
    let first = sheet("<row><c s=\"1\"><v>7</v></c></row>");
    let file = |styles: &str| {
        archive(&[
            ("xl/workbook.xml", WORKBOOK.as_bytes()),
            ("xl/_rels/workbook.xml.rels", RELS.as_bytes()),
            ("xl/styles.xml", styles.as_bytes()),
            ("xl/worksheets/sheet1.xml", first.as_bytes()),
        ])
    };
    assert_eq!(read(&file(&styles(10)), None).unwrap(), format!("{:0>1000}\n", 7));
    assert_eq!(read(&file(&styles(1100)), None).unwrap_err().code(), "workbook_too_large");
}

#[test]
fn changed_bytes_make_it_neither_panic_nor_hang() {
    let good = workbook(r#"<row r="2"><c r="A2" t="s"><v>1</v></c><c r="B2" s="1"><v>1067</v></c></row>"#);
    let mut state = 7_u64;
    for _ in 0..500 {
        let mut file = good.clone();
        for _ in 0..3 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = usize::try_from(state >> 33).unwrap() % file.len();
            file[at] ^= 1 << ((state >> 29) & 7);
        }
        let _ = read(&file, None);
    }
}

#[test]
fn the_first_sheet_that_is_shown_is_read() {
    let rows = |value: u32| sheet(&format!("<row><c><v>{value}</v></c></row>"));
    let hidden = WORKBOOK.replace("name=\"People\"", "name=\"People\" state=\"hidden\"");
    let file = |workbook: &str| {
        archive(&[
            ("xl/workbook.xml", workbook.as_bytes()),
            ("xl/_rels/workbook.xml.rels", RELS.as_bytes()),
            ("xl/worksheets/sheet1.xml", rows(1).as_bytes()),
            ("xl/worksheets/sheet2.xml", rows(2).as_bytes()),
        ])
    };
    assert_eq!(read(&file(WORKBOOK), None).unwrap(), "1\n");
    assert_eq!(read(&file(&hidden), None).unwrap(), "2\n");
    assert_eq!(read(&file(&hidden), Some("People")).unwrap(), "1\n");
    let all = hidden.replace("name=\"A &amp; B\"", "name=\"B\" state=\"veryHidden\"");
    assert_eq!(read(&file(&all), None).unwrap(), "1\n");
}

#[test]
fn what_is_no_workbook_is_named() {
    for (part, code, says) in [
        ("content.xml", "archive", "OpenDocument"),
        ("xl/workbook.bin", "archive", ".xlsb"),
        ("Index/Document.iwa", "archive", "Numbers"),
        ("[Content_Types].xml", "archive", "another program"),
        ("rows.csv", "archive", "ZIP archive"),
    ] {
        let error = read(&archive(&[(part, b"x")]), None).unwrap_err();
        assert_eq!(error.code(), code);
        assert!(error.to_string().contains(says), "{error}");
    }
    let formula = workbook(
        "<row r=\"2\"><c><f>1+1</f><v>2</v></c></row><row r=\"3\"><c><f t=\"shared\" si=\"0\"/></c></row>",
    );
    let error = read(&formula, None).unwrap_err();
    assert_eq!(error.code(), "not_calculated");
    assert!(error.to_string().contains("the first in row 3"), "{error}");
}

/// As Excel saves a `Strict Open XML Spreadsheet`, in folders of another name, with a chart as its first sheet; parts are named in other
/// capital letters than they are referred to by.
#[test]
fn parts_are_found_by_their_relations_and_not_by_their_names() {
    const STRICT: &str = "http://purl.oclc.org/ooxml/officeDocument/relationships";
    let relation = |id: &str, kind: &str, target: &str| {
        format!(r#"<Relationship Id="{id}" Type="{STRICT}/{kind}" Target="{target}"/>"#)
    };
    let relations = |all: &[String]| format!("<Relationships>{}</Relationships>", all.concat());
    let package = relations(&[
        relation("r1", "extended-properties", "a.xml"),
        relation("r2", "officeDocument", "/Book/Main.xml"),
    ]);
    let parts = relations(&[
        relation("c", "chartsheet", "charts/1.xml"),
        relation("s", "worksheet", "../Tables/one.xml"),
        relation("t", "sharedStrings", "texts.xml"),
        relation("f", "styles", "/book/formats.xml"),
    ]);
    let main = r#"<x:workbook xmlns:x="http://purl.oclc.org/ooxml/spreadsheetml/main" xmlns:r="http://purl.oclc.org/ooxml/officeDocument/relationships" conformance="strict"><x:sheets><x:sheet name="Chart" r:id="c"/><x:sheet name="People" r:id="s"/></x:sheets></x:workbook>"#;
    let styles = r#"<x:styleSheet xmlns:x="m"><x:cellXfs><x:xf numFmtId="0"/><x:xf numFmtId="14"/><x:xf numFmtId="22"/><x:xf numFmtId="20"/></x:cellXfs></x:styleSheet>"#;
    let rows = r#"<x:worksheet xmlns:x="m"><x:sheetData><x:row r="1"><x:c r="A1" t="s"><x:v>0</x:v></x:c></x:row>
        <x:row r="2"><x:c r="A2" s="1" t="d"><x:v>2026-11-24T00:00:00.000</x:v></x:c><x:c r="B2" s="2" t="d"><x:v>2026-11-24T18:00:00Z</x:v></x:c><x:c r="C2" s="3" t="d"><x:v>1899-12-30T18:00:00</x:v></x:c><x:c r="D2" t="d"><x:v>2026-11-24</x:v></x:c></x:row></x:sheetData></x:worksheet>"#;
    let file = archive(&[
        ("_rels/.rels", package.as_bytes()),
        ("book/main.xml", main.as_bytes()),
        ("book/_rels/main.xml.rels", parts.as_bytes()),
        ("Tables\\One.xml", rows.as_bytes()),
        ("book/texts.xml", b"<x:sst xmlns:x='m'><x:si><x:t>born</x:t></x:si></x:sst>"),
        ("book/formats.xml", styles.as_bytes()),
    ]);
    assert_eq!(read(&file, None).unwrap(), "born\n2026-11-24,2026-11-24T18:00:00,18:00:00,2026-11-24\n");
    let word = relations(&[relation("r1", "officeDocument", "word/document.xml")]);
    let document = archive(&[
        ("[Content_Types].xml", b"<Types/>"),
        ("_rels/.rels", word.as_bytes()),
        ("word/document.xml", b"<w:document><w:body/></w:document>"),
    ]);
    assert!(read(&document, None).unwrap_err().to_string().contains("another program than Excel"));
    let binary = relations(&[relation("r1", "officeDocument", "xl/workbook.bin")]);
    let binary = archive(&[("_rels/.rels", binary.as_bytes()), ("xl/workbook.bin", b"\x83\x01\0")]);
    assert!(read(&binary, None).unwrap_err().to_string().contains(".xlsb"));
}

#[test]
fn a_sheet_without_a_value_is_called_empty() {
    for rows in ["", "<row r=\"1\"/><row r=\"2\"><c r=\"A2\" s=\"1\"/></row>"] {
        let error = read(&workbook(rows), None).unwrap_err();
        assert_eq!(error.code(), "header_missing", "{rows}");
        assert!(error.to_string().contains("is empty"), "{error}");
    }
    let file = archive(&[
        ("xl/workbook.xml", WORKBOOK.as_bytes()),
        ("xl/_rels/workbook.xml.rels", RELS.as_bytes()),
        ("xl/worksheets/sheet1.xml", b"<worksheet><sheetData/></worksheet>"),
    ]);
    assert_eq!(read(&file, None).unwrap_err().code(), "header_missing");
}
