//! What every session, or every transaction where a pooler hands out sessions, sets for itself.

use std::time::Duration;

/// The server ends a transaction whose client says nothing for longer, and frees its locks.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(7);

/// Whatever the database's or the role's defaults are: the isolation that the transactions here rely on, time limits, where
/// the tables are, and that a commit is on disk when it is answered (a note that a crash forgets would have a call made
/// twice).
///
/// The schema is the one of the search path that has the tables; before there are any, the first of the search path.
const EVERYWHERE: &str = "set_config('search_path', quote_ident(coalesce( \
     (SELECT n.nspname FROM unnest(current_schemas(false) || 'public'::name) WITH ORDINALITY AS path(name, place) \
      JOIN pg_catalog.pg_namespace n ON n.nspname = path.name \
      JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = 'batch_keys' ORDER BY path.place LIMIT 1), \
     current_schema(), 'public')), @), \
     set_config('lock_timeout', '0', @), \
     CASE WHEN current_setting('synchronous_commit') = 'off' THEN set_config('synchronous_commit', 'on', @) END";

/// What only a session of this program's own can have. How long the server waits for a client that is gone, too.
const OF_A_SESSION: &str = "set_config('default_transaction_isolation', 'read committed', false), \
     set_config('default_transaction_deferrable', 'off', false), set_config('idle_session_timeout', '0', false), \
     CASE WHEN current_setting('transaction_timeout', true) IS NOT NULL THEN set_config('transaction_timeout', '0', false) END, \
     set_config('tcp_keepalives_idle', '10', false), set_config('tcp_keepalives_interval', '5', false), \
     set_config('tcp_keepalives_count', '3', false), set_config('tcp_user_timeout', '25000', false)";

/// A statement that sets up a session, with a limit for statements; none: no limit.
pub fn of_session(statement: Option<Duration>) -> String {
    format!("SELECT {}, {OF_A_SESSION}", everywhere(statement, false))
}

/// The same for one transaction. What it sets ends with the transaction, so that nobody else's session has it.
pub fn of_transaction(statement: Option<Duration>) -> String {
    format!("SELECT {}", everywhere(statement, true))
}

fn everywhere(statement: Option<Duration>, local: bool) -> String {
    let millis = statement.map_or(0, |limit| limit.as_millis());
    let idle = statement.map_or(0, |_| IDLE_IN_TRANSACTION.as_millis());
    format!(
        "{}, set_config('statement_timeout', '{millis}', {local}), \
         set_config('idle_in_transaction_session_timeout', '{idle}', {local})",
        EVERYWHERE.replace('@', if local { "true" } else { "false" })
    )
}
