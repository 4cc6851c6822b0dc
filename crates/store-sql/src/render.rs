//! Statements' texts as an engine takes them: what stands in braces is replaced.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use penstock_domain::batch::BatchStatus;
use penstock_domain::row::RowStatus;
use penstock_store::callbacks::CallbackStatus;

use crate::Statement;
use crate::ledgers::LEDGER_COLUMNS;

/// What every read of a batch selects. By name, here and everywhere: a `*` would break off statements that are prepared
/// when a later migration adds a column.
const BATCH_COLUMNS: &str = "b.seq, b.id, b.owner, b.pipeline, b.version, b.name, b.header, b.object_key, b.file_bytes, b.unsealed, \
    b.callback_url, b.priority, b.created_at, b.failure_row, b.failure, b.erased_at, b.status, b.outcome, \
    b.allow_failures, b.paused, b.held, b.canary_rows, b.canary_max_failure_bp, b.canary_stop_after, \
    b.canary_passed, b.total, b.pending, b.queued, b.processing, b.completed, b.failed, b.cancelled, b.run, \
    b.extracted, b.next_number, b.release_end, b.failure_said_run, b.progress_said, b.progress_said_at, \
    b.started_at, b.finished_at, b.cancelled_at, b.revision, b.checkpoint_offset, b.checkpoint_line, b.checkpoint_rows, \
    o.name AS owner_name, o.rows AS owner_rows, o.weight AS owner_weight";

/// What every read of a callback selects, without its snapshot.
const CALLBACK_COLUMNS: &str = "id, owner, batch, run, event, url, created_at, status, attempts, next_at, last_status, last_error, \
    (SELECT b.id FROM batches b WHERE b.seq = callbacks.batch) AS batch_id";

/// A row whose process is gone or lets it go fails: a call was on its way whose outcome nobody knows, or it has killed
/// too many processes.
const ROW_ENDS: &str = "(s.asked IS NOT NULL OR s.crashes + $6 >= $7)";

/// A fragment as text, with `@` where its argument goes; none: there is no such fragment.
pub type Fragments = fn(name: &str) -> Option<&'static str>;

/// The rendered texts of an engine. What is rendered once is kept: there are some hundreds of statements.
#[derive(Debug)]
pub struct Templates {
    fragments: Fragments,
    /// What a parameter's number stands after.
    parameter: &'static str,
    rendered: RwLock<HashMap<(&'static str, &'static str), Arc<str>>>,
}

impl Templates {
    /// Texts with an engine's fragments, and with what it writes instead of `$` before a parameter's number.
    pub fn new(fragments: Fragments, parameter: &'static str) -> Self {
        Self { fragments, parameter, rendered: RwLock::default() }
    }

    /// A statement's text. `rows` renders `{rows}`: for one statement always alike.
    ///
    /// # Panics
    /// When the text has an unknown fragment.
    pub fn render(&self, statement: &Statement<'_>, rows: impl FnOnce(&Statement<'_>) -> String) -> Arc<str> {
        let Cow::Borrowed(text) = statement.text else {
            return self.replaced(statement, rows).into();
        };
        let key = (statement.name, text);
        let known = self.rendered.read().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        known.unwrap_or_else(|| {
            let text: Arc<str> = self.replaced(statement, rows).into();
            let mut rendered = self.rendered.write().unwrap_or_else(PoisonError::into_inner);
            rendered.insert(key, text.clone());
            text
        })
    }

    fn replaced(&self, statement: &Statement<'_>, rows: impl FnOnce(&Statement<'_>) -> String) -> String {
        let mut text = format!("/* penstock:{} */ ", statement.name);
        let mut rows = Some(rows);
        let mut rest = statement.text.as_ref();
        while let Some((before, after)) = rest.split_once('{') {
            text.push_str(before);
            let (fragment, after) = after.split_once('}').unwrap_or((after, ""));
            match (fragment, rows.take()) {
                ("rows", Some(rows)) => text.push_str(&rows(statement)),
                (fragment, kept) => {
                    text.push_str(&self.fragment(fragment));
                    rows = kept;
                }
            }
            rest = after;
        }
        text.push_str(rest);
        if self.parameter == "$" { text } else { text.replace('$', self.parameter) }
    }

    fn fragment(&self, fragment: &str) -> Cow<'static, str> {
        let (name, argument) = fragment.split_once(' ').unwrap_or((fragment, ""));
        let code = match name {
            "row" => RowStatus::ALL.into_iter().find(|one| one.name() == argument).map(RowStatus::code),
            "batch" => BatchStatus::ALL.into_iter().find(|one| one.name() == argument).map(BatchStatus::code),
            "callback" => callback_status(argument).map(CallbackStatus::code),
            _ => None,
        };
        if let Some(code) = code {
            return code.to_string().into();
        }
        match name {
            "batch_columns" => BATCH_COLUMNS.into(),
            "callback_columns" => CALLBACK_COLUMNS.into(),
            "row_ends" => ROW_ENDS.into(),
            "ledger_columns" => LEDGER_COLUMNS.join(", ").into(),
            "ledger_changes" => {
                LEDGER_COLUMNS.map(|column| format!("{column} = j.{column}")).join(", ").into()
            }
            _ => {
                let text =
                    (self.fragments)(name).unwrap_or_else(|| panic!("no fragment is called {fragment}"));
                self.states(&text.replace('@', argument)).into()
            }
        }
    }

    /// An engine's fragment, with the numbers of states that it names.
    fn states(&self, text: &str) -> String {
        let mut parts = text.split('{');
        let mut whole = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (fragment, rest) = part.split_once('}').unwrap_or((part, ""));
            whole.push_str(&self.fragment(fragment));
            whole.push_str(rest);
        }
        whole
    }
}

fn callback_status(name: &str) -> Option<CallbackStatus> {
    match name {
        "pending" => Some(CallbackStatus::Pending),
        "delivered" => Some(CallbackStatus::Delivered),
        "exhausted" => Some(CallbackStatus::Exhausted),
        "disabled" => Some(CallbackStatus::Disabled),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql;

    fn fragments(name: &str) -> Option<&'static str> {
        match name {
            "in" => Some("= ANY(@)"),
            "lock" => Some("FOR UPDATE OF @"),
            _ => None,
        }
    }

    #[test]
    fn fragments_are_replaced_with_their_arguments() {
        let templates = Templates::new(fragments, "$");
        let statement =
            sql("row_get", "SELECT 1 FROM {rows} s WHERE s.a {in $2} AND status = {row queued} {lock s}");
        for _ in 0..2 {
            assert_eq!(
                &*templates.render(&statement, |_| "(x)".into()),
                "/* penstock:row_get */ SELECT 1 FROM (x) s WHERE s.a = ANY($2) AND status = 1 FOR UPDATE OF s"
            );
        }
    }

    #[test]
    #[should_panic(expected = "no fragment is called lok b")]
    fn an_unknown_fragment_is_a_defect() {
        Templates::new(fragments, "$").render(&sql("x", "SELECT 1 {lok b}"), |_| String::new());
    }
}
