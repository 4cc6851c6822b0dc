//! Files as real programs write them, through `penstock pipelines try`: what would be sent has the values that the file was made of.

use std::process::Command;

use penstock_tests::program;
use serde_json::json;

#[allow(dead_code, reason = "what else is asked about them")]
#[path = "../../crates/domain/tests/csv_corpus/files.rs"]
mod files;
#[allow(dead_code, reason = "what else is asked about them")]
#[path = "../../crates/domain/tests/csv_corpus/programs.rs"]
mod programs;

const DEFINITION: &str = "name: people
csv:
  delimiter: auto
  encoding: ENCODING
  header: { ignore_case: true, trim: true, extra_columns: keep }
  columns: [ { name: email, aliases: [E-Mail], required: true }, { name: name }, { name: amount } ]
dependencies: { api: { base_url: \"https://people.invalid\" } }
steps:
  - name: add
    dependency: api
    request: { method: POST, path: /people, idempotent: true, json: { email: \"{{ row.email }}\", name: \"{{ row.name }}\", amount: \"{{ row.amount }}\" } }
";

#[test]
fn a_file_of_each_program_is_tried_as_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let tables = files::tables();
    let programs = programs::programs();
    assert!(programs.len() >= 30);
    for (number, program_of_file) in programs.iter().enumerate() {
        let mut taken = tables.iter().cycle().skip(number % tables.len());
        let table = taken.find(|table| files::can_write(program_of_file, table)).expect("a table of ASCII");
        let (file, _) = files::write(program_of_file, table);
        std::fs::write(folder.path().join("rows.csv"), file).expect("a file");
        let definition = DEFINITION.replace("ENCODING", program_of_file.encoding());
        std::fs::write(folder.path().join("people.yaml"), definition).expect("a file");
        let output = Command::new(program("penstock"))
            .args(["pipelines", "try", "people.yaml", "rows.csv"])
            .current_dir(folder.path())
            .env_remove("DATABASE_URL")
            .output()
            .expect("it runs");
        let shown = String::from_utf8(output.stdout).expect("text");
        let name = format!("{}, {shown}{}", program_of_file.name, String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{name}");
        for row in &table.rows {
            let amount = if table.extra { "" } else { row[2] };
            let [email, person, amount] = [row[0], row[1], amount].map(|value| json!(value));
            let sent = format!("{{\"amount\":{amount},\"email\":{email},\"name\":{person}}}");
            assert!(shown.lines().any(|line| line == sent), "{sent} in {name}");
        }
    }
}
