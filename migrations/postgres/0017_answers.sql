-- Answers that rows have in common (`cache` of a step), by a keyed hash: kept, sealed, until they are over, or asked for by a row.
CREATE TABLE cached_answers (
    key BYTEA PRIMARY KEY,
    -- The batch whose key seals it, where only that batch's rows have it in common.
    batch BIGINT REFERENCES batches,
    answer BYTEA,
    -- Of a call that failed for good: what rows share that had waited for it.
    failure BYTEA,
    failed_at BIGINT,
    asking_batch BIGINT,
    asking_number BIGINT,
    asking_token UUID,
    -- Until when the row that asked is waited for although it is not processing.
    asking_until BIGINT,
    version BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX cached_answers_by_batch ON cached_answers (batch) WHERE batch IS NOT NULL;
CREATE INDEX cached_answers_by_expiry ON cached_answers (expires_at);

-- How many rows of a batch found an answer at a step, and how many asked for one.
CREATE TABLE cached_answer_counts (
    batch BIGINT NOT NULL,
    step BIGINT NOT NULL,
    found BIGINT NOT NULL,
    asked BIGINT NOT NULL,
    PRIMARY KEY (batch, step)
);

INSERT INTO schema_serves (version, oldest) VALUES (17, 1);
