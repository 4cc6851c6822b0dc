-- How many rows of a running batch had ended at times of the last hour: what its chart is drawn from.
CREATE TABLE batch_samples (
    batch BIGINT NOT NULL,
    -- Which half minute, counted from 1970: processes that sample at once write one record.
    slot BIGINT NOT NULL,
    at BIGINT NOT NULL,
    completed INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    PRIMARY KEY (batch, slot)
);
CREATE INDEX batch_samples_by_slot ON batch_samples (slot);

-- How far uploads under way are, for those who asked to be told: written by the process that receives one, read by any.
CREATE TABLE upload_progress (
    owner BIGINT NOT NULL,
    id UUID NOT NULL,
    at BIGINT NOT NULL,
    bytes BIGINT NOT NULL,
    rows BIGINT NOT NULL,
    errors BIGINT NOT NULL,
    PRIMARY KEY (owner, id)
);
CREATE INDEX upload_progress_by_time ON upload_progress (at);

INSERT INTO schema_serves (version, oldest) VALUES (21, 1);
