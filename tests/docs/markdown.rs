//! What is read of a Markdown file: its text, blocks, spans, tables, links and headings.

use std::path::{Path, PathBuf};

/// A fenced block: its language, its text, and the line on which it stands.
pub struct Block {
    pub language: String,
    pub text: String,
    pub line: usize,
}

/// A row of a table, with the table's first heading and the section in which it stands.
pub struct TableRow {
    pub section: String,
    pub heading: String,
    pub cells: Vec<String>,
}

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

pub fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All pages: those of the root, of `docs`, its guides and its explanations, and the chart's.
pub fn pages() -> Vec<String> {
    let mut pages = vec!["charts/penstock/README.md".to_owned()];
    for folder in ["", "docs/", "docs/how-to/", "docs/explanation/"] {
        for entry in std::fs::read_dir(root().join(folder)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.ends_with(".md") {
                pages.push(format!("{folder}{name}"));
            }
        }
    }
    pages.sort();
    assert!(pages.len() > 12, "{pages:?}");
    pages
}

pub fn blocks(path: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let mut open = false;
    for (number, line) in read(path).lines().enumerate() {
        if let Some(language) = line.strip_prefix("```") {
            if !open {
                found.push(Block { language: language.to_owned(), text: String::new(), line: number + 2 });
            }
            open = !open;
        } else if open {
            let block = found.last_mut().unwrap();
            block.text.push_str(line);
            block.text.push('\n');
        }
    }
    assert!(!open, "{path}: a block is not closed");
    found
}

/// The lines outside of fenced blocks, with their numbers.
pub fn prose(text: &str) -> Vec<(usize, &str)> {
    let mut open = false;
    let mut lines = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.starts_with("```") {
            open = !open;
        } else if !open {
            lines.push((number + 1, line));
        }
    }
    lines
}

/// The `spans` of a line.
pub fn spans(line: &str) -> Vec<&str> {
    line.split('`').skip(1).step_by(2).collect()
}

/// Where the links of a line lead.
pub fn links(line: &str) -> Vec<&str> {
    line.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect()
}

/// The rows of all tables, headings and rules left out.
pub fn table_rows(text: &str) -> Vec<TableRow> {
    let mut rows = Vec::new();
    let (mut section, mut heading, mut inside) = (String::new(), String::new(), false);
    for (_, text) in prose(text) {
        if let Some(title) = text.strip_prefix("## ").or_else(|| text.strip_prefix("# ")) {
            title.clone_into(&mut section);
        }
        let Some(row) = text.strip_prefix('|').and_then(|row| row.strip_suffix('|')) else {
            inside = false;
            continue;
        };
        // A pipe inside a span is not a border.
        let mut cells = vec![String::new()];
        let mut code = false;
        for c in row.chars() {
            code ^= c == '`';
            if c == '|' && !code {
                cells.push(String::new());
            } else {
                cells.last_mut().unwrap().push(c);
            }
        }
        let cells: Vec<String> = cells.iter().map(|cell| cell.trim().to_owned()).collect();
        if inside {
            rows.push(TableRow { section: section.clone(), heading: heading.clone(), cells });
        } else {
            cells[0].clone_into(&mut heading);
            inside = true;
        }
    }
    rows.retain(|row| !row.cells[0].starts_with("---"));
    rows
}

/// What GitHub makes of a page's headings.
pub fn anchors(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for (_, line) in prose(text) {
        let title = line.trim_start_matches('#');
        if title.len() == line.len() || !title.starts_with(' ') {
            continue;
        }
        let mut plain = String::new();
        let mut hidden = false;
        for c in title.trim().chars() {
            match c {
                // A link's title counts, its address does not.
                '(' if plain.ends_with(']') => hidden = true,
                ')' if hidden => hidden = false,
                _ if hidden => {}
                _ => plain.push(c),
            }
        }
        let slug: String = plain
            .to_lowercase()
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        let same = found.iter().filter(|one| **one == slug || one.starts_with(&format!("{slug}-"))).count();
        let taken = found.contains(&slug);
        found.push(if taken { format!("{slug}-{same}") } else { slug });
    }
    found
}
