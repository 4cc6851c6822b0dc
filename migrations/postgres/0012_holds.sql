-- The answer that holds a batch, and how often answers have held it.
ALTER TABLE batches ADD COLUMN hold_code TEXT;
ALTER TABLE batches ADD COLUMN hold_step TEXT;
ALTER TABLE batches ADD COLUMN hold_since BIGINT;
ALTER TABLE batches ADD COLUMN holds INTEGER NOT NULL DEFAULT 0;

-- Its words, sealed with the batch's key.
CREATE TABLE batch_holds (
    batch BIGINT PRIMARY KEY,
    words BYTEA NOT NULL
);

-- The codes of APIs that failed rows of a batch have: at most a hundred, all others are counted as `other`.
CREATE TABLE batch_codes (
    batch BIGINT NOT NULL,
    code TEXT NOT NULL,
    PRIMARY KEY (batch, code)
);

INSERT INTO schema_serves (version, oldest) VALUES (12, 1);
