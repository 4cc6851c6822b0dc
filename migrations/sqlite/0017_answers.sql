-- Answers that rows have in common (`cache` of a step), by a keyed hash: kept, sealed, until they are over, or asked for by a row.
CREATE TABLE cached_answers (
    key BLOB PRIMARY KEY,
    -- The batch whose key seals it, where only that batch's rows have it in common.
    batch INTEGER REFERENCES batches,
    answer BLOB,
    -- Of a call that failed for good: what rows share that had waited for it.
    failure BLOB,
    failed_at INTEGER,
    asking_batch INTEGER,
    asking_number INTEGER,
    asking_token TEXT,
    -- Until when the row that asked is waited for although it is not processing.
    asking_until INTEGER,
    version INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX cached_answers_by_batch ON cached_answers (batch) WHERE batch IS NOT NULL;
CREATE INDEX cached_answers_by_expiry ON cached_answers (expires_at);

-- How many rows of a batch found an answer at a step, and how many asked for one.
CREATE TABLE cached_answer_counts (
    batch INTEGER NOT NULL,
    step INTEGER NOT NULL,
    found INTEGER NOT NULL,
    asked INTEGER NOT NULL,
    PRIMARY KEY (batch, step)
) STRICT, WITHOUT ROWID;

INSERT INTO schema_serves (version, oldest) VALUES (17, 1);
