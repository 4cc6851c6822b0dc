-- What was completed by key, of pipelines with `dedupe`: a keyed hash of owner, pipeline and key, and the row that completed it last.
CREATE TABLE completed_keys (
    key BLOB PRIMARY KEY,
    batch INTEGER NOT NULL REFERENCES batches,
    number INTEGER NOT NULL,
    completed_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX completed_keys_by_batch ON completed_keys (batch, number);
CREATE INDEX completed_keys_by_expiry ON completed_keys (expires_at);

-- Rows that completed without a call, because another batch had completed their key.
CREATE INDEX row_state_duplicates ON row_state (batch, number) WHERE code = 'duplicate';

INSERT INTO schema_serves (version, oldest) VALUES (16, 1);
