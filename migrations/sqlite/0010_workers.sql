-- Processes that hold rows, each with a heartbeat. A claimed row names its process (`lease_holder`) and belongs to it for as
-- long as that has a record here; `lease_until` is written only by programs of the schemas before. `looks` counts how often
-- others looked since the last heartbeat, about once a second: enough of them, and the record is deleted.
CREATE TABLE workers (
    name TEXT PRIMARY KEY,
    kind INTEGER NOT NULL,
    version TEXT NOT NULL,
    started_at INTEGER NOT NULL,
    beat_at INTEGER NOT NULL,
    silence_ms INTEGER NOT NULL,
    looks INTEGER NOT NULL,
    looked_at INTEGER NOT NULL,
    in_flight INTEGER NOT NULL,
    waiting INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The latest time that this machine's clock is known to have shown: an earlier one means that it was set back.
CREATE TABLE database_clock (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    latest INTEGER NOT NULL
) STRICT;
INSERT INTO database_clock (id, latest) VALUES (1, 0);

-- How many workers died while they held the row.
ALTER TABLE row_state ADD COLUMN crashes INTEGER NOT NULL DEFAULT 0;

CREATE INDEX row_state_held ON row_state (lease_holder) WHERE status = 2;
DROP INDEX row_state_leased;

INSERT INTO schema_serves (version, oldest) VALUES (10, 1);
