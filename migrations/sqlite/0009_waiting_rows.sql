-- When a row that waits fails if it is not done by then, and as what: no worker may claim it before its dependency is free.
ALTER TABLE row_state ADD COLUMN expires_at INTEGER;
ALTER TABLE row_state ADD COLUMN expires_as TEXT;
CREATE INDEX row_state_expiring ON row_state (expires_at) WHERE status < 2 AND expires_at IS NOT NULL;

-- Why no worker can process a batch: its definition needs a variable that is gone, for example.
CREATE TABLE batch_faults (
    batch INTEGER PRIMARY KEY,
    reason TEXT NOT NULL,
    worker TEXT NOT NULL,
    since INTEGER NOT NULL,
    seen_at INTEGER NOT NULL
) STRICT;

INSERT INTO schema_serves (version, oldest) VALUES (9, 1);
