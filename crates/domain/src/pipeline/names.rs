//! The names that templates may read, and the nearest one to a name that they may not.
#![allow(missing_docs, reason = "private to the loader")]

/// What an answer has, in a step's `output`.
const ANSWER: [&str; 3] = ["body", "status", "headers"];

/// What `owner` has.
const OWNER: [&str; 1] = ["name"];

/// What `batch` has.
const BATCH: [&str; 2] = ["id", "name"];

/// What `item` has.
const ITEM: [&str; 2] = ["index", "id"];

/// Whose values templates read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reads {
    /// Those of one row.
    #[default]
    Row,
    /// Those of one row within a bulk call.
    Item,
    /// What all rows of a bulk call have in common.
    Call,
    /// The same, and one result of the call's answer.
    Result,
}

/// What templates may read at some place.
#[derive(Clone)]
pub struct Names {
    columns: Vec<String>,
    steps: Vec<(String, Vec<String>)>,
    /// Whether there may be other columns, and other steps and outputs, in parts of the text that could not be read.
    open_columns: bool,
    open_steps: bool,
    /// Whether the step whose templates are read sends an idempotency key.
    pub keyed: bool,
    /// Whose values they read.
    pub reads: Reads,
}

impl Names {
    pub fn new(columns: Vec<String>) -> Self {
        let (steps, reads) = (Vec::new(), Reads::Row);
        Self { columns, steps, keyed: false, open_columns: false, open_steps: false, reads }
    }

    /// The same names at a place of a bulk call.
    pub fn reading(&self, reads: Reads) -> Self {
        Self { reads, ..self.clone() }
    }

    /// The same names where there is no idempotency key.
    pub fn unkeyed(&self) -> Self {
        Self { keyed: false, ..self.clone() }
    }

    /// Accepts any column, and any step and output: some of them could not be read.
    pub fn leave_open(&mut self, columns: bool, steps: bool) {
        (self.open_columns, self.open_steps) = (columns, steps);
    }

    pub fn has_step(&self, name: &str) -> bool {
        self.steps.iter().any(|(step, _)| step == name)
    }

    pub fn add_step(&mut self, name: &str, outputs: Vec<String>) {
        self.steps.push((name.to_owned(), outputs));
    }

    /// Whether there is a column; the error says which there are.
    pub fn column(&self, column: &str) -> Result<(), String> {
        if self.open_columns || self.columns.iter().any(|known| known == column) {
            return Ok(());
        }
        let known: Vec<&str> = self.columns.iter().map(String::as_str).collect();
        let hint = dashed("row", column, &known).unwrap_or_else(|| hint(column, &known));
        Err(format!("unknown column `{column}` in a template{hint}"))
    }

    /// The place of an earlier step.
    pub fn step(&self, step: &str) -> Result<usize, String> {
        let place = self.steps.iter().position(|(name, _)| name == step);
        place.or(self.open_steps.then_some(usize::MAX)).ok_or_else(|| {
            let known: Vec<&str> = self.steps.iter().map(|(name, _)| name.as_str()).collect();
            let hint = dashed("steps", step, &known).unwrap_or_else(|| hint(step, &known));
            format!("no earlier step is named `{step}`{hint}")
        })
    }

    /// Whether a step has an output.
    pub fn output(&self, step: usize, output: &str) -> Result<(), String> {
        let Some((step, outputs)) = self.steps.get(step) else { return Ok(()) };
        if self.open_steps || outputs.iter().any(|known| known == output) {
            return Ok(());
        }
        let known: Vec<&str> = outputs.iter().map(String::as_str).collect();
        let hint = dashed(&format!("steps.{step}"), output, &known).unwrap_or_else(|| hint(output, &known));
        Err(format!("step `{step}` has no output `{output}`{hint}"))
    }

    /// Whether `owner` has a member of that name.
    pub fn of_owner(member: &str) -> Result<(), String> {
        one_of("owner", member, &OWNER)
    }

    /// Whether `batch` has a member of that name.
    pub fn of_batch(member: &str) -> Result<(), String> {
        one_of("batch", member, &BATCH)
    }

    /// Whether `item` has a member of that name.
    pub fn of_item(member: &str) -> Result<(), String> {
        one_of("item", member, &ITEM)
    }

    /// Why a variable is none of these.
    pub fn no_variable(&self, name: &str, answer: bool) -> String {
        if matches!(self.reads, Reads::Call | Reads::Result) && ["row", "steps", "row_number"].contains(&name)
        {
            return format!(
                "`{name}` is each row's own, and a bulk call is made for many rows; read it within `each`, `match.row` or `output`"
            );
        }
        if ANSWER.contains(&name) && !answer {
            return format!("`{name}` is the answer's, and only known in a step's `output`");
        }
        if name == "idempotency_key" {
            return "`idempotency_key` is known only in a step whose request says `idempotency_key`"
                .to_owned();
        }
        let mut known = match self.reads {
            Reads::Row | Reads::Item => vec!["row", "context", "steps", "owner", "batch", "row_number"],
            Reads::Call | Reads::Result => vec!["context", "owner", "batch"],
        };
        known.extend((self.reads == Reads::Item).then_some("item"));
        known.extend((self.reads == Reads::Item && answer).then_some("whole"));
        known.extend((self.reads == Reads::Result).then_some("result"));
        known.extend(ANSWER.iter().filter(|_| answer));
        format!("unknown variable `{name}` in a template{}", hint(name, &known))
    }
}

fn one_of(whole: &str, member: &str, known: &[&str]) -> Result<(), String> {
    if known.contains(&member) {
        return Ok(());
    }
    Err(format!("`{whole}` has no `{member}`{}", hint(member, known)))
}

/// `steps.get-user` is read as a subtraction: such names are written in brackets.
fn dashed(of: &str, word: &str, known: &[&str]) -> Option<String> {
    let whole = known
        .iter()
        .find(|known| known.strip_prefix(word).is_some_and(|rest| rest.starts_with(['-', ' ', '.'])))?;
    Some(format!("; write `{of}['{whole}']`"))
}

/// `; did you mean …?`, or what there is.
pub fn hint(word: &str, known: &[&str]) -> String {
    match nearest(word, known) {
        Some(known) => format!("; did you mean `{known}`?"),
        None if known.is_empty() => "; there is none".to_owned(),
        None => {
            // Among commas a delimiter would not be seen, and a tab is seen nowhere.
            let seen = known.iter().filter(|known| !known.contains(char::is_control));
            let shown = |known: &&str| {
                if known.contains(char::is_alphanumeric) { (*known).to_owned() } else { format!("`{known}`") }
            };
            format!("; there are: {}", seen.map(shown).collect::<Vec<_>>().join(", "))
        }
    }
}

/// The word that was probably meant.
pub fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    if let Some(same) = known.iter().find(|known| known.eq_ignore_ascii_case(word)) {
        return Some(same);
    }
    known
        .iter()
        .map(|known| (strsim::levenshtein(word, known), *known))
        .filter(|(distance, known)| *distance <= 2 && *distance < known.len())
        .min()
        .map(|(_, known)| known)
}
