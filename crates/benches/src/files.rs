//! Files as people have them, beside the same rows as plain CSV: another dialect, compressed, a workbook.

use std::io::{Cursor, Write as _};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use penstock_sandbox::{Config, Sandbox};
use penstock_tests::{Client, Place, Service};
use reqwest::Body;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use crate::{NOOP, Promises, ROUTE, head, rate, say, usage};

/// Of the rate of plain CSV, at least.
const DIALECT_RATE: f64 = 0.5;

/// What a dialect may need more than plain CSV, and a workbook at all beside its texts, MiB.
const MOST_APART_MIB: f64 = 2.0;
const MOST_WORKBOOK_MIB: f64 = 64.0;

/// Rows of the small and of the large workbook.
const WORKBOOK_ROWS: [u32; 2] = [100_000, 500_000];

/// Measures and compares.
pub async fn run(rows: u32, promises: &mut Promises) {
    let plain = Run::of(NOOP, body(rows, |row| line(row).into_bytes()), rows).await;
    say("upload, UTF-8 with commas", rows, plain.uploaded);
    let lenient = NOOP.replace("csv: {", "csv: { delimiter: auto, encoding: auto, formats: [csv, xlsx],");
    let dialect = Run::of(&lenient, body(rows, |row| windows_1252(&line(row).replace(',', ";"))), rows).await;
    say("upload, Windows-1252 with semicolons", rows, dialect.uploaded);
    promises.at_least(
        "its rate, of that",
        rate(rows, dialect.uploaded) / rate(rows, plain.uploaded),
        DIALECT_RATE,
    );
    promises.at_most(
        "its peak memory beside that of plain CSV, MiB",
        dialect.peak() - plain.peak(),
        MOST_APART_MIB,
    );
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    (0..=rows).for_each(|row| packed.write_all(line(row).as_bytes()).expect("memory"));
    let packed = packed.finish().expect("memory");
    let packed = Run::of(NOOP, packed.into(), rows).await;
    say("upload, compressed with gzip", rows, packed.uploaded);
    promises.at_most(
        "its peak memory beside that of plain CSV, MiB",
        packed.peak() - plain.peak(),
        MOST_APART_MIB,
    );
    for rows in WORKBOOK_ROWS.map(|most| most.min(rows)) {
        for is_shared in [true, false] {
            let texts = if is_shared { "shared texts" } else { "texts in its cells" };
            let (file, text_bytes) = workbook(rows, is_shared);
            let read = Run::of(&lenient, file.into(), rows).await;
            say(
                &format!("workbook of {rows} rows with {texts}, until its rows are there"),
                rows,
                read.extracted,
            );
            // Texts that cells share are in memory, each with where it ends.
            let most = MOST_WORKBOOK_MIB + text_bytes as f64 / 1024.0 / 1024.0;
            promises.at_most("peak memory of the process, MiB", read.peak(), most);
            let cells = read.own_cells().await;
            let same = cells.lines().enumerate().filter(|(row, cells)| *cells == expected(*row)).count();
            promises.at_least("rows that are those of its CSV", same as f64, f64::from(rows) + 1.0);
        }
    }
}

/// A row with letters beyond ASCII.
fn line(row: u32) -> String {
    let text = crate::line(row.max(1) - 1).replace("Firstname", "Jörg").replace("Lastname", "Müßig");
    if row == 0 { head().into() } else { text }
}

fn expected(row: usize) -> String {
    line(u32::try_from(row).expect("few")).trim_end().to_owned()
}

fn windows_1252(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(c).expect("a letter of Windows-1252")).collect()
}

/// The header and the rows after it, as they are sent.
fn body(rows: u32, line: fn(u32) -> Vec<u8>) -> Body {
    let blocks = (0..=rows / 500).map(move |block| {
        Ok::<_, std::io::Error>(
            (block * 500..=rows.min(block * 500 + 499)).flat_map(line).collect::<Vec<u8>>(),
        )
    });
    Body::wrap_stream(futures::stream::iter(blocks))
}

/// A workbook as Excel writes it, and the bytes of its texts in memory.
fn workbook(rows: u32, is_shared: bool) -> (Vec<u8>, usize) {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_level(Some(1));
    let mut part = |name: &str, texts: &mut dyn Iterator<Item = String>| {
        zip.start_file(name, options).expect("memory");
        texts.for_each(|text| zip.write_all(text.as_bytes()).expect("memory"));
    };
    let whole = |text: &str| std::iter::once(text.to_owned());
    part(
        "xl/workbook.xml",
        &mut whole(r#"<workbook xmlns:r="r"><sheets><sheet name="A" r:id="r1"/></sheets></workbook>"#),
    );
    part(
        "xl/_rels/workbook.xml.rels",
        &mut whole(r#"<Relationships><Relationship Id="r1" Target="sheet.xml"/></Relationships>"#),
    );
    let cells = |row: u32| {
        let mut text = format!("<row r=\"{}\">", row + 1);
        for (column, cell) in line(row).trim_end().split(',').enumerate() {
            let place = format!("{}{}", char::from(b'A' + u8::try_from(column).expect("few")), row + 1);
            text += &if is_shared {
                format!("<c r=\"{place}\" t=\"s\"><v>{}</v></c>", row as usize * 5 + column)
            } else {
                format!("<c r=\"{place}\" t=\"inlineStr\"><is><t>{cell}</t></is></c>")
            };
        }
        text + "</row>"
    };
    let sheet =
        whole("<worksheet><sheetData>").chain((0..=rows).map(cells)).chain(whole("</sheetData></worksheet>"));
    part("xl/sheet.xml", &mut { sheet });
    let mut text_bytes = 0;
    if is_shared {
        let items = (0..=rows).map(|row| {
            let line = line(row);
            let cells = line.trim_end().split(',');
            text_bytes += cells.clone().map(|cell| cell.len() + 4).sum::<usize>();
            cells.map(|cell| format!("<si><t>{cell}</t></si>")).collect::<String>()
        });
        part("xl/sharedStrings.xml", &mut whole("<sst>").chain(items).chain(whole("</sst>")));
    }
    (zip.finish().expect("memory").into_inner(), text_bytes)
}

/// A file that was uploaded, and whose rows are in the database.
struct Run {
    uploaded: Duration,
    extracted: Duration,
    client: Client,
    id: String,
    service: Service,
    _place: Place,
}

impl Run {
    async fn of(definition: &str, file: Body, rows: u32) -> Self {
        let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
        // Rows are held back: this is about files.
        let place =
            Place::new(&[("noop.yaml", &definition.replace("rows_per_owner: 50000", "rows_per_owner: 1"))]);
        let key = place.key(&sandbox, "bench");
        let service = place.start(&sandbox, None);
        let client = Client::new(&service, &key);
        let began = Instant::now();
        let (status, batch) = client.upload(ROUTE, file).await.expect("an answer");
        assert_eq!(status, 202, "{batch}");
        let uploaded = began.elapsed();
        let id = batch["id"].as_str().expect("an id").to_owned();
        loop {
            let batch = client.get(&format!("/v2/batches/{id}")).await;
            assert_ne!(batch["status"], "failed", "{batch}");
            // A worker may be reading it.
            if batch["status"] != "pending" && batch["status"] != "processing" {
                assert_eq!(batch["counts"]["total"], rows, "{batch}");
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let extracted = began.elapsed();
        Self { uploaded, extracted, client, id, service, _place: place }
    }

    /// Peak resident memory, MiB.
    fn peak(&self) -> f64 {
        usage(&self.service).0
    }

    /// The client's own cells of all rows.
    async fn own_cells(&self) -> String {
        let report = self.client.text(&format!("/v2/batches/{}/results.csv", self.id)).await;
        let own = |line: &str| line.split(',').take(5).collect::<Vec<_>>().join(",") + "\n";
        report.trim_start_matches('\u{FEFF}').lines().map(own).collect()
    }
}
