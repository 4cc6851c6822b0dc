//! What a command says: a sentence for people, or JSON for programs.

use serde::Serialize;
use serde_json::Value;

/// How a command speaks.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    pub json: bool,
}

impl Output {
    /// Says something.
    pub fn say(self, value: &impl Serialize, sentence: impl FnOnce() -> String) {
        if self.json {
            println!("{}", serde_json::to_string(value).unwrap_or_else(|_| Value::Null.to_string()));
        } else {
            println!("{}", sentence());
        }
    }

    /// Says a table; `rows` are already text.
    pub fn table(self, value: &impl Serialize, head: &[&str], rows: &[Vec<String>]) {
        self.say(value, || {
            let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
            for row in rows {
                for (width, cell) in widths.iter_mut().zip(row) {
                    *width = (*width).max(cell.chars().count());
                }
            }
            let line = |cells: Vec<&str>| {
                let padded: Vec<String> =
                    cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
                padded.join("  ").trim_end().to_owned()
            };
            let mut lines = vec![line(head.to_vec())];
            lines.extend(rows.iter().map(|row| line(row.iter().map(String::as_str).collect())));
            lines.join("\n")
        });
    }
}
