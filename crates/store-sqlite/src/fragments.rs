//! What SQLite writes differently than PostgreSQL, by name, each with its reason.

/// The text of a fragment; `@` is its argument.
pub fn fragment(name: &str) -> Option<&'static str> {
    Some(match name {
        "now" => "CAST(unixepoch('subsec') * 1000 AS INTEGER)",
        "migrations" => "sqlite_master WHERE name = '_sqlx_migrations'",
        // There are no arrays: a list is bound as JSON.
        "in" => "IN (SELECT value FROM json_each(@))",
        // There is one writer: nothing needs a lock.
        "lock" | "lock_free" | "share" | "lock_workers" | "share_workers" => "",
        // RETURNING sees the table that is written only.
        "claim_data" => "",
        "claimed_data" => {
            "(SELECT d.line FROM row_data d WHERE d.batch = row_state.batch AND d.number = row_state.number) AS line, \
             (SELECT d.payload FROM row_data d WHERE d.batch = row_state.batch AND d.number = row_state.number) AS payload"
        }
        // A limit cannot name a column: up to the largest quota here, and of one batch a statement below.
        "due_limit" => "max($2, (SELECT coalesce(max(rows), 0) FROM owners))",
        "due_rows" => {
            "WHERE s.batch = (SELECT row_batch FROM j) AND s.number IN (SELECT w.number FROM row_state w \
             WHERE w.batch = (SELECT row_batch FROM j) AND w.status = {row pending} AND NOT w.polling AND coalesce(w.not_before, 0) <= $1 \
             ORDER BY coalesce(w.not_before, 0), w.number LIMIT (SELECT row_limit FROM j))"
        }
        "due_polls" => {
            "WHERE s.batch = (SELECT row_batch FROM j) AND s.number IN (SELECT w.number FROM row_state w \
             WHERE w.batch = (SELECT row_batch FROM j) AND w.polling AND w.status = {row pending} AND coalesce(w.not_before, 0) <= $1 \
             ORDER BY coalesce(w.not_before, 0), w.number LIMIT (SELECT row_limit FROM j))"
        }
        "callbacks_ranked" => CALLBACKS_RANKED,
        // There are no series.
        "numbers" => {
            "SELECT row_batch, first, first + row_count FROM j UNION ALL \
             SELECT row_batch, row_number + 1, last FROM n WHERE row_number + 1 < last"
        }
        "state_of" => "LEFT JOIN row_state s ON s.batch = @.batch AND s.number = @.number",
        // A window copies what it has into a temporary table: lengths only, and the long values are joined to them.
        "in_page" => "c.batch AS batch, c.number AS number",
        "beside_page" => "@, page.following AS following",
        "joins_beside" => "{data_of page} {state_of page} {output_of page}",
        "chosen_columns" => "d.batch, d.number, octet_length(d.payload) AS payload_length",
        "payload_length" => "c.payload_length",
        "data_of_chosen" => "",
        "data_of" => "JOIN row_data d ON d.batch = @.batch AND d.number = @.number",
        "output_of" => "LEFT JOIN row_output o ON o.batch = @.batch AND o.number = @.number",
        _ => return None,
    })
}

/// Without LATERAL, all that are due are ranked.
const CALLBACKS_RANKED: &str = "due AS (SELECT c.id, c.owner, c.attempts, c.next_at, c.position, \
    coalesce(c.receiver, c.url) AS receiver, row_number() OVER (PARTITION BY c.owner, coalesce(c.receiver, c.url) \
    ORDER BY c.attempts > 0, c.next_at, c.position) AS place FROM callbacks c WHERE c.status = {callback pending} \
    AND c.next_at <= $2 AND (c.lease_until IS NULL OR c.lease_until < $2) AND NOT EXISTS (SELECT 1 FROM callbacks e \
    WHERE e.batch = c.batch AND e.status = {callback pending} AND (e.attempts = 0 OR e.lease_until >= $2) \
    AND (e.position, e.created_at, e.id) < (c.position, c.created_at, c.id))), \
    under_way AS (SELECT owner, coalesce(receiver, url) AS receiver, count(*) AS n FROM callbacks \
    WHERE status = {callback pending} AND lease_until >= $2 GROUP BY 1, 2), \
    ranked AS (SELECT d.*, row_number() OVER (PARTITION BY d.owner ORDER BY d.attempts > 0, d.next_at, d.position) \
    + coalesce((SELECT sum(o.n) FROM under_way o WHERE o.owner = d.owner), 0) AS of_owner FROM due d \
    LEFT JOIN under_way u ON u.owner = d.owner AND u.receiver = d.receiver WHERE d.place <= $5 - coalesce(u.n, 0))";
