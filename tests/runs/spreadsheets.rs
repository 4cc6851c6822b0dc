//! `failed.csv` through a spreadsheet and back, several times: whatever its language makes of numbers, dates and truth values, each value
//! stays what the client wrote.

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::{Client, Place};
use serde_json::Value;

use crate::dialects::PEOPLE;

const ROUTE: &str = "/v2/pipelines/people/batches";

/// A spreadsheet in some language: what it takes a text for when it opens a file, and how it saves that.
struct Spreadsheet {
    name: &'static str,
    delimiter: char,
    decimal: char,
    between_thousands: char,
    /// Truth values, as it shows them.
    truths: [&'static str; 2],
    /// How months begin.
    months: [&'static str; 12],
    /// Whether it saves a byte order mark and UTF-8; otherwise Windows-1252.
    is_utf8: bool,
    /// Whether an apostrophe before a cell is a mark of a text to it, which it does not save.
    hides_apostrophes: bool,
}

const ENGLISH: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];

const SPREADSHEETS: [Spreadsheet; 4] = [
    Spreadsheet {
        name: "Excel in the United States",
        delimiter: ',',
        decimal: '.',
        between_thousands: ',',
        truths: ["TRUE", "FALSE"],
        months: ENGLISH,
        is_utf8: false,
        hides_apostrophes: false,
    },
    Spreadsheet {
        name: "Excel in Germany",
        delimiter: ';',
        decimal: ',',
        between_thousands: '.',
        truths: ["WAHR", "FALSCH"],
        months: ["jan", "feb", "mrz", "apr", "mai", "jun", "jul", "aug", "sep", "okt", "nov", "dez"],
        is_utf8: false,
        hides_apostrophes: false,
    },
    Spreadsheet {
        name: "Excel in France, as CSV UTF-8",
        delimiter: ';',
        decimal: ',',
        between_thousands: '\u{202F}',
        truths: ["VRAI", "FAUX"],
        months: ["janv", "févr", "mars", "avr", "mai", "juin", "juil", "août", "sept", "oct", "nov", "déc"],
        is_utf8: true,
        hides_apostrophes: false,
    },
    Spreadsheet {
        name: "Google Sheets",
        delimiter: ',',
        decimal: '.',
        between_thousands: ',',
        truths: ["TRUE", "FALSE"],
        months: ENGLISH,
        is_utf8: true,
        hides_apostrophes: true,
    },
];

/// Values that some spreadsheet changes, and such as none does.
const VALUES: &[&str] = &[
    "01067",
    "1.50",
    "1,50",
    "1.234",
    "1,234",
    "4915112345678",
    "+4915112345678",
    "+49 151 123",
    "-5",
    "-0,5",
    "007",
    "42",
    "0",
    "1e5",
    "12E3",
    "5%",
    "$5",
    "5 €",
    "(3)",
    ".5",
    " 7",
    "2026-11-24",
    "24.11.2026",
    "11/24/2026",
    "1-2",
    "3/4",
    "18:00",
    "MAR1",
    "Dez 24",
    "févr. 3",
    "Sept 2",
    "true",
    "FALSE",
    "wahr",
    "faux",
    "=1+1",
    "@home",
    "+a",
    "-b",
    "12\" pipe",
    "Jörg; \"x\", y",
    "two\nlines",
    " spaces stay ",
    "a1",
];

/// Values that begin with an apostrophe of the client's own.
const APOSTROPHES: [&str; 4] = ["'=1+1", "'x", "''y", "'"];

impl Spreadsheet {
    /// Opens a file and saves it.
    fn saved(&self, file: &str) -> Vec<u8> {
        let mut text = String::new();
        for record in records(file.trim_start_matches('\u{FEFF}'), self.delimiter) {
            let cells: Vec<String> = record.iter().map(|cell| self.field(&self.shown(cell))).collect();
            text.push_str(&cells.join(&self.delimiter.to_string()));
            text.push_str("\r\n");
        }
        if self.is_utf8 {
            return format!("\u{FEFF}{text}").into_bytes();
        }
        // What Windows-1252 does not have is a question mark in it.
        let byte = |c: char| if c == '€' { 0x80 } else { u8::try_from(c).unwrap_or(b'?') };
        text.chars().map(byte).collect()
    }

    fn field(&self, cell: &str) -> String {
        let quoted = cell.contains([self.delimiter, '"', '\n', '\r']);
        if quoted { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell.to_owned() }
    }

    /// What stands in a cell after it was opened.
    fn shown(&self, cell: &str) -> String {
        if let Some(formula) = cell.strip_prefix("=\"").and_then(|rest| rest.strip_suffix('"')) {
            return formula.replace("\"\"", "\"");
        }
        assert!(!cell.starts_with(['=', '@']), "{}: it would be run: {cell}", self.name);
        if self.hides_apostrophes && cell.starts_with('\'') {
            return cell[1..].to_owned();
        }
        let lower = cell.trim().to_lowercase();
        if let Some(truth) = self.truths.iter().find(|truth| truth.to_lowercase() == lower) {
            return (*truth).to_owned();
        }
        self.number(&lower).or_else(|| self.date(&lower)).unwrap_or_else(|| cell.to_owned())
    }

    fn number(&self, cell: &str) -> Option<String> {
        let signs = ['$', '€', ' ', '(', ')', '%', '+', self.between_thousands];
        let plain: String = cell.chars().filter(|c| !signs.contains(c)).collect();
        let plain = plain.replace(self.decimal, ".");
        let is_number = plain.contains(|c: char| c.is_ascii_digit())
            && plain.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | '-' | 'e'));
        let number: f64 = plain.parse().ok().filter(|_| is_number)?;
        let digits = if number.abs() >= 1e11 { format!("{number:.5E}") } else { number.to_string() };
        Some(digits.replace('.', &self.decimal.to_string()))
    }

    /// Day and month with or without a year, or a time of day: saved in some other form than it was written.
    fn date(&self, cell: &str) -> Option<String> {
        let parts: Vec<&str> =
            cell.split(['-', '/', '.', ' ', ':']).filter(|part| !part.is_empty()).collect();
        let is_month = |part: &str| self.months.iter().any(|month| part.starts_with(month));
        let is_date = parts.iter().all(|part| is_month(part) || part.parse::<u16>().is_ok())
            && cell.contains(|c: char| c.is_ascii_digit())
            && parts.iter().any(|part| is_month(part) || parts.len() > 1);
        is_date.then(|| format!("as a date: {cell}"))
    }
}

/// The records of a CSV file without mistakes.
fn records(file: &str, delimiter: char) -> Vec<Vec<String>> {
    let (mut records, mut record, mut cell, mut quoted) = (Vec::new(), Vec::new(), String::new(), false);
    let mut signs = file.chars().peekable();
    while let Some(sign) = signs.next() {
        match sign {
            '"' if quoted && signs.next_if_eq(&'"').is_some() => cell.push('"'),
            '"' => quoted = !quoted,
            '\r' if !quoted => {}
            '\n' if !quoted => {
                record.push(std::mem::take(&mut cell));
                records.push(std::mem::take(&mut record));
            }
            sign if sign == delimiter && !quoted => record.push(std::mem::take(&mut cell)),
            sign => cell.push(sign),
        }
    }
    records
}

/// A file in which every row fails, with a value in a column of the pipeline and in one of the client's own.
fn file(spreadsheet: &Spreadsheet) -> (String, Vec<String>) {
    let own = APOSTROPHES.iter().filter(|_| !spreadsheet.hides_apostrophes);
    let values: Vec<String> = VALUES.iter().chain(own).map(|value| (*value).to_owned()).collect();
    let between = spreadsheet.delimiter;
    let mut text = format!("E-Mail{between}Name{between}Postcode{between}Notiz\n");
    for (number, value) in values.iter().enumerate() {
        let cell = spreadsheet.field(value);
        text.push_str(&format!("p{number}@b.de{between}Ann{between}{cell}{between}{cell}\n"));
    }
    (text, values)
}

/// Uploads a file whose rows fail; the batch's id, and the rows' values in both columns.
async fn failing(client: &Client, file: impl Into<Vec<u8>>) -> (String, Vec<[String; 2]>) {
    let (status, batch) = client.upload(ROUTE, file.into()).await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    let id = batch["id"].as_str().expect("an id").to_owned();
    let ended = client.finished(&id).await;
    assert_eq!(ended["outcome"], "failure", "{ended}");
    let rows = client.text(&format!("/v2/batches/{id}/failed.ndjson")).await;
    let text = |row: &Value, column: &str| row["row"][column].as_str().expect("a text").to_owned();
    let rows = rows.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    (id, rows.map(|row| [text(&row, "postcode"), text(&row, "Notiz")]).collect())
}

#[tokio::test]
async fn a_report_goes_through_a_spreadsheet_and_back_unchanged() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    // Every row fails, and no call is made for it.
    let failing_rows = PEOPLE.replace("{{ row.email }} {{ row.name }}", "{{ row.email | int }}");
    let place = Place::new(&[("people.yaml", &failing_rows)]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    for spreadsheet in &SPREADSHEETS {
        let (text, values) = file(spreadsheet);
        // The spreadsheet would change them: otherwise this shows nothing.
        let changed = values
            .iter()
            .filter(|value| !value.starts_with(['=', '@']))
            .filter(|value| spreadsheet.shown(value) != **value);
        assert!(changed.count() > 15, "{}", spreadsheet.name);
        let expected: Vec<[String; 2]> = values.iter().map(|value| [value.clone(), value.clone()]).collect();
        let (mut id, rows) = failing(&client, text).await;
        assert_eq!(rows, expected);
        for time in 0..3 {
            let report = client.text(&format!("/v2/batches/{id}/failed.csv?for=spreadsheet")).await;
            let (next, rows) = failing(&client, spreadsheet.saved(&report)).await;
            for (found, expected) in rows.iter().zip(&expected) {
                assert_eq!(found, expected, "{}, time {time}", spreadsheet.name);
            }
            assert_eq!(rows.len(), expected.len());
            id = next;
        }
        // Without our columns cells are what stands there, and no apostrophe is added to one.
        let without_ours = |report: &str| {
            let records = records(report.trim_start_matches('\u{FEFF}'), spreadsheet.delimiter);
            let own = records
                .iter()
                .map(|record| record[..4].iter().map(|cell| spreadsheet.field(cell)).collect::<Vec<_>>());
            own.map(|record| record.join(&spreadsheet.delimiter.to_string()) + "\n").collect::<String>()
        };
        let report = client.text(&format!("/v2/batches/{id}/failed.csv")).await;
        let taken = without_ours(&report);
        let mut last = taken.clone();
        for _ in 0..2 {
            let (id, _) = failing(&client, last).await;
            last = without_ours(&client.text(&format!("/v2/batches/{id}/failed.csv")).await);
            assert_eq!(last, taken, "{}", spreadsheet.name);
        }
    }
}
