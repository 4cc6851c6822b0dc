//! What PostgreSQL writes differently than SQLite, by name, each with its reason.

/// The text of a fragment; `@` is its argument.
pub fn fragment(name: &str) -> Option<&'static str> {
    Some(match name {
        "now" => "(extract(epoch FROM clock_timestamp()) * 1000)::int8",
        "migrations" => {
            "pg_catalog.pg_tables WHERE tablename = '_sqlx_migrations' AND schemaname = current_schema()"
        }
        // Lists are arrays here; SQLite has none.
        "in" => "= ANY(@)",
        // Several processes write at once; SQLite has one writer.
        "lock" => "FOR NO KEY UPDATE OF @",
        "lock_free" => "FOR NO KEY UPDATE OF @ SKIP LOCKED",
        "share" => "FOR KEY SHARE",
        // All records of processes, those that are not there too: any number that nobody else uses in this database.
        "lock_workers" => "pg_advisory_xact_lock(8099000947015246707)",
        "share_workers" => "pg_advisory_xact_lock_shared(8099000947015246707)",
        // What is claimed is read in the same statement; SQLite's RETURNING sees no joined table.
        "claim_data" => {
            "JOIN (SELECT batch AS data_batch, number AS data_number, line, payload FROM row_data) d \
             ON d.data_batch = j.row_batch AND d.data_number = j.row_number"
        }
        "claimed_data" => "line, payload",
        // A limit can name a column, and a join can be lateral; neither is so in SQLite.
        "due_limit" => "coalesce(o.rows, $2)",
        "due_rows" => {
            "FROM j CROSS JOIN LATERAL (SELECT w.number AS due_number FROM row_state w WHERE w.batch = j.row_batch \
             AND w.status = {row pending} AND NOT w.polling AND coalesce(w.not_before, 0) <= $1 \
             ORDER BY coalesce(w.not_before, 0), w.number LIMIT j.row_limit) AS due \
             WHERE s.batch = j.row_batch AND s.number = due.due_number"
        }
        "due_polls" => {
            "FROM j CROSS JOIN LATERAL (SELECT w.number AS due_number FROM row_state w WHERE w.batch = j.row_batch \
             AND w.polling AND w.status = {row pending} AND coalesce(w.not_before, 0) <= $1 \
             ORDER BY coalesce(w.not_before, 0), w.number LIMIT j.row_limit) AS due \
             WHERE s.batch = j.row_batch AND s.number = due.due_number"
        }
        "callbacks_ranked" => CALLBACKS_RANKED,
        // Quicker than a recursion, which SQLite needs.
        "numbers" => "SELECT j.row_batch, generate_series(j.first, j.first + j.row_count - 1), 0 FROM j",
        // A page's long values are not read before they are sent, and can go with it; SQLite would copy them.
        "in_page" => "@",
        "beside_page" => "*",
        "joins_beside" => "",
        "chosen_columns" => "d.batch, d.number, d.line, d.payload",
        "payload_length" => "octet_length(d.payload)",
        "data_of_chosen" => "CROSS JOIN LATERAL (SELECT @.batch, @.number, @.line, @.payload) d",
        // What belongs to rows that were chosen, one by one. The fence (`OFFSET 0`) keeps each a look into the primary key: with
        // statistics that are older than the batch (a server that crashed has none) the planner takes a batch for one row,
        // and joins all of its states to each of its rows.
        "state_of" => {
            "LEFT JOIN LATERAL (SELECT * FROM row_state WHERE batch = @.batch AND number = @.number OFFSET 0) s ON true"
        }
        "data_of" => {
            "CROSS JOIN LATERAL (SELECT * FROM row_data WHERE batch = @.batch AND number = @.number OFFSET 0) d"
        }
        "output_of" => {
            "LEFT JOIN LATERAL (SELECT * FROM row_output WHERE batch = @.batch AND number = @.number OFFSET 0) o ON true"
        }
        _ => return None,
    })
}

/// Of each receiver, only as many callbacks are looked at as it may have under way.
const CALLBACKS_RANKED: &str = "due AS (SELECT DISTINCT owner, coalesce(receiver, url) AS receiver \
    FROM callbacks WHERE status = {callback pending} AND next_at <= $2), \
    under_way AS (SELECT owner, coalesce(receiver, url) AS receiver, count(*) AS n FROM callbacks \
    WHERE status = {callback pending} AND lease_until >= $2 GROUP BY 1, 2), \
    ranked AS (SELECT c.*, row_number() OVER (PARTITION BY due.owner ORDER BY c.attempts > 0, c.next_at, c.position) \
     + coalesce((SELECT sum(o.n) FROM under_way o WHERE o.owner = due.owner), 0) AS of_owner FROM due CROSS JOIN LATERAL \
    (SELECT c.id, c.attempts, c.next_at, c.position FROM callbacks c WHERE c.status = {callback pending} \
     AND c.owner = due.owner AND coalesce(c.receiver, c.url) = due.receiver AND c.next_at <= $2 \
     AND (c.lease_until IS NULL OR c.lease_until < $2) AND NOT EXISTS (SELECT 1 FROM callbacks e \
     WHERE e.batch = c.batch AND e.status = {callback pending} AND (e.attempts = 0 OR e.lease_until >= $2) \
     AND (e.position, e.created_at, e.id) < (c.position, c.created_at, c.id)) \
     ORDER BY c.attempts > 0, c.next_at, c.position LIMIT greatest(0, $5 - coalesce((SELECT u.n FROM under_way u \
     WHERE u.owner = due.owner AND u.receiver = due.receiver), 0))) c)";
