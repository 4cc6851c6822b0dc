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
const BATCH_COLUMNS: &str = "b.seq, b.id, b.owner, b.pipeline, b.version, b.name, b.labels, b.header, b.object_key, b.file_bytes, b.unsealed, \
    b.callback_url, b.priority, b.created_at, b.failure_row, b.failure, b.erased_at, b.status, b.outcome, \
    b.allow_failures, b.paused, b.held, b.hold_code, b.hold_step, b.hold_since, b.holds, b.canary_rows, b.canary_max_failure_bp, b.canary_stop_after, \
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

/// Where a group of rows goes.
const ROWS: &str = "{rows}";

/// What an engine writes its own way.
#[derive(Clone, Copy, Debug)]
pub struct Dialect {
    /// A fragment by its name, with `@` where its argument goes; none: there is no such fragment.
    pub fragment: fn(name: &str) -> Option<&'static str>,
    /// Whether several processes write at once, so that records have to be locked.
    pub locks: bool,
    /// What stands before a parameter's number.
    pub parameter: &'static str,
    /// A group of rows, of which the first parameter and the number of columns are given.
    pub rows: fn(first: usize, columns: usize) -> String,
}

/// The rendered texts of an engine. What is rendered once is kept: there are some hundreds of statements.
#[derive(Debug)]
pub struct Templates {
    dialect: Dialect,
    rendered: RwLock<HashMap<(&'static str, &'static str), Arc<str>>>,
}

impl Templates {
    /// Texts in a dialect.
    pub fn new(dialect: Dialect) -> Self {
        Self { dialect, rendered: RwLock::default() }
    }

    /// A statement's text.
    ///
    /// # Panics
    /// When the text has an unknown fragment.
    pub fn render(&self, statement: &Statement<'_>) -> Arc<str> {
        let Cow::Borrowed(text) = statement.text else { return self.replaced(statement).into() };
        let key = (statement.name, text);
        let known = self.rendered.read().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        known.unwrap_or_else(|| {
            let text: Arc<str> = self.replaced(statement).into();
            let mut rendered = self.rendered.write().unwrap_or_else(PoisonError::into_inner);
            rendered.insert(key, text.clone());
            text
        })
    }

    /// See [`Dialect::locks`].
    pub fn locks(&self) -> bool {
        self.dialect.locks
    }

    fn replaced(&self, statement: &Statement<'_>) -> String {
        let columns = statement.group.as_ref().map_or(0, |group| group.columns().len());
        let rows = (self.dialect.rows)(statement.values.len() + 1, columns);
        let text = format!("/* penstock:{} */ {}", statement.name, statement.text);
        self.expanded(&text).replace('$', self.dialect.parameter).replacen(ROWS, &rows, 1)
    }

    /// Replaces what stands in braces, but for the rows.
    fn expanded(&self, text: &str) -> String {
        let mut parts = text.split('{');
        let mut whole = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (fragment, rest) = part.split_once('}').unwrap_or((part, ""));
            whole.push_str(&self.fragment(fragment));
            whole.push_str(rest);
        }
        whole
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
            "ledger_columns" => LEDGER_COLUMNS.into(),
            "ledger_changes" => {
                let changes = LEDGER_COLUMNS.split(", ").map(|column| format!("{column} = j.{column}"));
                changes.collect::<Vec<_>>().join(", ").into()
            }
            "rows" => ROWS.into(),
            _ => {
                let text = (self.dialect.fragment)(name);
                let text = text.unwrap_or_else(|| panic!("no fragment is called {fragment}"));
                self.expanded(&text.replace('@', argument)).into()
            }
        }
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
    use crate::{Group, sql};

    fn templates() -> Templates {
        let fragment = |name: &str| match name {
            "in" => Some("= ANY(@)"),
            "queued_of" => Some("@.status = {row queued}"),
            _ => None,
        };
        Templates::new(Dialect {
            fragment,
            locks: true,
            parameter: "?",
            rows: |first, columns| format!("(${first} x {columns})"),
        })
    }

    #[test]
    fn fragments_are_replaced_with_their_arguments() {
        let templates = templates();
        let statement = sql("row_get", "SELECT 1 FROM {rows} s WHERE s.a {in $2} AND {queued_of s}");
        let statement =
            statement.bind(1_i64).bind(2_i64).rows(Group::of_rows([[3_i64.into(), 4_i64.into()]]));
        for _ in 0..2 {
            assert_eq!(
                &*templates.render(&statement),
                "/* penstock:row_get */ SELECT 1 FROM ($3 x 2) s WHERE s.a = ANY(?2) AND s.status = 1"
            );
        }
    }

    #[test]
    #[should_panic(expected = "no fragment is called lok b")]
    fn an_unknown_fragment_is_a_defect() {
        templates().render(&sql("x", "SELECT 1 {lok b}"));
    }
}
