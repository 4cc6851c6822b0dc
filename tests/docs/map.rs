//! A stranger finds the way: the walk of one row in ARCHITECTURE.md, and the questions of CONTRIBUTING.md.

use std::collections::BTreeSet;

use crate::markdown::{prose, read, root, spans, table_rows};

/// One row is followed through at most eight folders, each once, and each file of a step is in the folder of that step.
#[test]
fn the_walk_of_one_row_visits_few_folders_each_once() {
    let text = read("docs/ARCHITECTURE.md");
    assert!(text.lines().count() <= 150, "docs/ARCHITECTURE.md is a map, not a book");
    let mut folders = BTreeSet::new();
    for row in table_rows(&text).iter().filter(|row| row.section == "The walk of one row") {
        let [folder] = spans(&row.cells[1])[..] else { panic!("one folder: {:?}", row.cells) };
        assert!(folders.insert(folder.to_owned()), "the walk comes back to {folder}");
        for file in spans(&row.cells[2]) {
            let path = root().join("crates").join(file);
            assert!(path.exists(), "there is no {file}");
            assert_eq!(path.parent().unwrap(), root().join(folder), "{file} is not in {folder}");
        }
    }
    assert!((5..=8).contains(&folders.len()), "{folders:?}");
}

/// Ten questions, each answered by one file that exists, and by a name that stands in it.
#[test]
fn the_ten_questions_lead_to_files_that_answer_them() {
    let text = read("CONTRIBUTING.md");
    let rows = table_rows(&text);
    let questions: Vec<_> = rows.iter().filter(|row| row.heading == "question").collect();
    assert_eq!(questions.len(), 10);
    for row in questions {
        let [file, names @ ..] = &spans(&row.cells[1])[..] else { panic!("a file: {:?}", row.cells) };
        let source = read(file);
        assert!(!names.is_empty(), "{file}: name what to look for");
        for name in names {
            assert!(source.contains(name), "{file} has no `{name}`");
        }
    }
}

/// What the documentation's index leaves out, nobody finds.
#[test]
fn the_index_has_every_page() {
    let index = read("docs/README.md");
    let mut pages = 0;
    for folder in ["", "explanation/"] {
        for entry in std::fs::read_dir(root().join("docs").join(folder)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.ends_with(".md") && name != "README.md" {
                assert!(
                    index.contains(&format!("({folder}{name}")),
                    "docs/README.md does not lead to {folder}{name}"
                );
                pages += 1;
            }
        }
    }
    assert!(pages > 12, "{pages}");
    // Pictures are Mermaid, which GitHub draws.
    let states = read("docs/explanation/states.md");
    assert!(
        states.matches("```mermaid").count() >= 4,
        "a row's way, two kinds of states, what waits for what"
    );
    assert!(!prose(&states).is_empty());
}
