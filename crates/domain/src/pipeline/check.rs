//! What the checks of a definition share: its lines, its variables, and the names that templates may read.
#![allow(missing_docs, reason = "private to the loader")]

use super::load::DefinitionError;

/// Routes that are not a pipeline's to take.
const RESERVED: [&str; 8] = [
    "/v2/batches",
    "/v2/pipelines",
    "/v2/uploads",
    "/v2/callbacks",
    "/v2/audit",
    "/v2/openapi.json",
    "/docs",
    "/metrics",
];

/// A definition's text, and the errors found in it.
pub struct Source<'a> {
    file: &'a str,
    text: &'a str,
    vars: &'a (dyn Fn(&str) -> Option<String> + 'a),
    pub errors: Vec<DefinitionError>,
}

impl<'a> Source<'a> {
    pub fn new(file: &'a str, text: &'a str, vars: &'a (dyn Fn(&str) -> Option<String> + 'a)) -> Self {
        Self { file, text, vars, errors: Vec::new() }
    }

    pub fn error(&mut self, line: u64, message: String) {
        let error = DefinitionError { file: self.file.to_owned(), line, message };
        if !self.errors.contains(&error) {
            self.errors.push(error);
        }
    }

    pub fn into_errors(mut self) -> Vec<DefinitionError> {
        self.errors.sort_by_key(|error| error.line);
        self.errors
    }

    /// The line of the first place at or behind `from` that holds `needle`; `from` when there is none (a folded or
    /// escaped string).
    pub fn line_of(&self, needle: &str, from: u64) -> u64 {
        let skip = usize::try_from(from.saturating_sub(1)).unwrap_or(0);
        let needle = needle.lines().next().unwrap_or_default();
        self.text
            .lines()
            .enumerate()
            .skip(skip)
            .find(|(_, line)| line.contains(needle))
            .map_or(from, |(index, _)| index as u64 + 1)
    }

    /// The text with `${NAME}` filled in; none when one is missing.
    pub fn fill(&mut self, text: &str, line: u64) -> Option<String> {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        let mut complete = true;
        while let Some(at) = rest.find("${") {
            let (before, behind) = rest.split_at(at);
            if let Some(escaped) = before.strip_suffix('$') {
                out.push_str(escaped);
                out.push_str("${");
                rest = &behind[2..];
                continue;
            }
            out.push_str(before);
            let Some(end) = behind.find('}') else {
                self.error(
                    self.line_of(text, line),
                    "`${` has no closing `}`; write `$${` for the characters themselves".into(),
                );
                return None;
            };
            let name = &behind[2..end];
            match (self.vars)(name) {
                Some(value) => out.push_str(&value),
                None => {
                    let at = self.line_of(&format!("${{{name}}}"), line);
                    self.error(
                        at,
                        format!("the environment has no variable {name}; set it, or take ${{{name}}} out"),
                    );
                    complete = false;
                }
            }
            rest = &behind[end + 1..];
        }
        out.push_str(rest);
        complete.then_some(out)
    }

    pub fn check_name(&mut self, what: &str, name: &str, line: u64) {
        let good = !name.is_empty()
            && name.len() <= 64
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-');
        if !good {
            self.error(line, format!("{what} `{name}`: a name has 1 to 64 of a–z, 0–9, `_` and `-`"));
        }
    }

    pub fn check_route(&mut self, route: &str, line: u64) {
        let plain = route.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-_.~".contains(&b));
        if !route.starts_with("/v2/") || route.len() < 5 || !plain || route.ends_with('/') {
            self.error(line, format!("route `{route}` begins with `/v2/`, has letters, digits and `-_.~/`, and no `/` at its end"));
        } else if RESERVED.iter().any(|taken| route == *taken || route.starts_with(&format!("{taken}/"))) {
            self.error(line, format!("route `{route}` is one of Penstock's own; choose another"));
        }
    }
}

/// What templates may read at some place.
pub struct Names {
    columns: Vec<String>,
    steps: Vec<(String, Vec<String>)>,
}

impl Names {
    pub fn new(columns: Vec<String>) -> Self {
        Self { columns, steps: Vec::new() }
    }

    pub fn has_step(&self, name: &str) -> bool {
        self.steps.iter().any(|(step, _)| step == name)
    }

    pub fn add_step(&mut self, name: &str, outputs: Vec<String>) {
        self.steps.push((name.to_owned(), outputs));
    }

    /// Whether a variable (`row.email`, `steps.link.id`, …) is known; the error says what is.
    pub fn check(&self, variable: &str, answer: bool) -> Result<(), String> {
        let mut parts = variable.split('.');
        let root = parts.next().unwrap_or_default();
        match root {
            "row" => match parts.next() {
                Some(column) if !self.columns.iter().any(|known| known == column) => {
                    let known: Vec<&str> = self.columns.iter().map(String::as_str).collect();
                    Err(format!("unknown column `{column}` in a template{}", mend(column, &known)))
                }
                _ => Ok(()),
            },
            "context" => Ok(()),
            "steps" => {
                let Some(step) = parts.next() else { return Ok(()) };
                let Some((_, outputs)) = self.steps.iter().find(|(name, _)| name == step) else {
                    let known: Vec<&str> = self.steps.iter().map(|(name, _)| name.as_str()).collect();
                    return Err(format!("no earlier step is named `{step}`{}", mend(step, &known)));
                };
                match parts.next() {
                    Some(output) if !outputs.iter().any(|known| known == output) => {
                        let known: Vec<&str> = outputs.iter().map(String::as_str).collect();
                        Err(format!("step `{step}` has no output `{output}`{}", mend(output, &known)))
                    }
                    _ => Ok(()),
                }
            }
            "body" | "status" | "headers" if answer => Ok(()),
            "body" | "status" | "headers" => {
                Err(format!("`{root}` is the answer's, and only known in a step's `output`"))
            }
            _ => {
                let known: &[&str] = if answer {
                    &["row", "context", "steps", "body", "status", "headers"]
                } else {
                    &["row", "context", "steps"]
                };
                Err(format!("unknown variable `{root}` in a template{}", mend(root, known)))
            }
        }
    }
}

/// `; did you mean …?`, or what there is.
pub fn mend(word: &str, known: &[&str]) -> String {
    let close = known
        .iter()
        .map(|known| (distance(word, known), known))
        .filter(|(distance, known)| *distance <= 2 && *distance < known.len())
        .min();
    match close {
        Some((_, known)) => format!("; did you mean `{known}`?"),
        None if known.is_empty() => "; there is none".to_owned(),
        None => format!("; there are: {}", known.join(", ")),
    }
}

/// Edits between two words (Levenshtein 1965).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut before = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let replace = before + usize::from(ca != *cb);
            before = row[j + 1];
            row[j + 1] = replace.min(before + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
