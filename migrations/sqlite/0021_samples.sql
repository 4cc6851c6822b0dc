-- How many rows of a running batch had ended at times of the last hour: what its chart is drawn from.
CREATE TABLE batch_samples (
    batch INTEGER NOT NULL,
    -- Which half minute, counted from 1970: processes that sample at once write one record.
    slot INTEGER NOT NULL,
    at INTEGER NOT NULL,
    completed INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    PRIMARY KEY (batch, slot)
) STRICT;
CREATE INDEX batch_samples_by_slot ON batch_samples (slot);

-- How far uploads under way are, for those who asked to be told: written by the process that receives one, read by any.
CREATE TABLE upload_progress (
    owner INTEGER NOT NULL,
    id TEXT NOT NULL,
    at INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    errors INTEGER NOT NULL,
    PRIMARY KEY (owner, id)
) STRICT;
CREATE INDEX upload_progress_by_time ON upload_progress (at);

INSERT INTO schema_serves (version, oldest) VALUES (21, 1);
