//! Mistakes of a `csv` block: each is refused in its line, with what to write instead.

use crate::{load, refused};

const FILES: &str = "name: p
csv:
  delimiter: auto
  encoding: auto
  formats: [csv, xlsx]
  sheet: People
  header: { ignore_case: true, trim: true, extra_columns: keep }
  unique: [email, zip]
  max_rows: 10
  columns:
    - { name: email, aliases: [E-Mail], case: lower, default: \"a@b.co\", format: email }
    - { name: zip, pattern: \"^[0-9]+$\", example: \"01067\", message: \"all digits\", normalize: nfc }
    - { name: land, case: upper, enum: [DE, AT] }
steps: []
";

#[test]
fn each_mistake_of_a_csv_block_is_refused_in_its_line_with_its_fix() {
    assert!(load(FILES).is_ok(), "{:?}", load(FILES).err());
    let cases = [
        (
            "delimiter: auto",
            "delimiter: \":\"",
            3,
            "`delimiter: \":\"` is unknown; there are: `,`, `;`, tab, `|`, auto",
        ),
        (
            "encoding: auto",
            "encoding: klingon",
            4,
            "csv.encoding `klingon` is no encoding; write auto, utf-8, windows-1252 or another label of the WHATWG Encoding Standard",
        ),
        (
            "[csv, xlsx]",
            "[xlsx]",
            5,
            "csv.formats: CSV is always taken, as reports are CSV; write [csv, xlsx]",
        ),
        ("[csv, xlsx]", "[csv, xls]", 5, "`xls` is unknown; did you mean `xlsx`?"),
        ("[csv, xlsx]", "[csv]", 6, "csv.sheet is about workbooks; write `formats: [csv, xlsx]` with it"),
        (
            "extra_columns: keep",
            "extra_columns: kepe",
            7,
            "`extra_columns: kepe` is unknown; did you mean `keep`?",
        ),
        ("ignore_case", "ignorecase", 7, "unknown key `ignorecase`; did you mean `ignore_case`?"),
        ("[email, zip]", "[email, email]", 8, "csv.unique names `email` twice; remove one of them"),
        ("[email, zip]", "[mail]", 8, "csv.unique: there is no column `mail`; there are: email, zip, land"),
        (
            "max_rows: 10",
            "max_rows: 5000001",
            8,
            "csv.unique keeps 21 bytes of each row in memory while a file is read; write csv.max_rows of at most 5000000 with it",
        ),
        (
            "aliases: [E-Mail]",
            "aliases: [LAND]",
            13,
            "column `land`: a header's `land` could be the column `email` as well; rename one of them",
        ),
        (
            "aliases: [E-Mail]",
            "aliases: [_line]",
            11,
            "column `_line`: reports have a column of that name; rename it",
        ),
        ("format: email", "format: mail", 11, "`format: mail` is unknown; did you mean `email`?"),
        (
            "\"a@b.co\"",
            "\"nobody\"",
            11,
            "column `email`: its other rules refuse its default `nobody`; change one of them",
        ),
        (
            "\"01067\"",
            "\"x\"",
            12,
            "column `zip`: its other rules refuse its example `x`; change one of them",
        ),
        ("^[0-9]+$", "[0-9", 12, "column `zip`: the pattern cannot be read: error: unclosed character class"),
        ("normalize: nfc", "normalize: nfd", 12, "`normalize: nfd` is unknown; did you mean `nfc`?"),
        (
            "[DE, AT]",
            "[de, AT]",
            13,
            "column `land`: no value becomes `de` of its enum, as values are changed before; write it as `DE`",
        ),
        ("name: land", "name: \"\"", 13, "a column has no name; give it one"),
    ];
    let mut other = Vec::new();
    for (from, to, line, wanted) in cases {
        assert!(FILES.contains(from), "{from}");
        let found = refused(&FILES.replacen(from, to, 1));
        if found.lines().next() != Some(&format!("p.yaml:{line}: {wanted}")) {
            other.push((to, found));
        }
    }
    assert!(other.is_empty(), "{other:#?}");
    let empty = &FILES[..FILES.find("    - ").unwrap()];
    let none = refused(&format!(
        "{}steps: []\n",
        empty.replace("  columns:", "  columns: []").replace("  unique: [email, zip]\n", "")
    ));
    assert_eq!(none, "p.yaml:9: csv.columns is empty; name at least one column");
}
