-- Keys that wrap batches' data keys for a time, each sealed under the keyring. Dropping one makes every copy of the keys that
-- it wrapped worthless.
CREATE TABLE epochs (
    id BIGINT PRIMARY KEY,
    sealed BYTEA NOT NULL,
    created_at BIGINT NOT NULL,
    erased BOOLEAN NOT NULL
);

-- NULL: wrapped by the keyring itself, and bound to the batch alone. `penstock migrate` wraps those anew. The reference keeps
-- an epoch while a request that runs beside the drop uses it.
ALTER TABLE batch_keys ADD COLUMN epoch BIGINT REFERENCES epochs;
CREATE INDEX batch_keys_by_epoch ON batch_keys (epoch);

-- Under the keyring, over version, name and source: whoever writes to the database makes no definition.
ALTER TABLE definitions ADD COLUMN mac BYTEA;

-- Batches that are being erased: who breaks off leaves the record, and a sweep goes on.
CREATE TABLE erasures (
    batch BIGINT PRIMARY KEY REFERENCES batches
);

INSERT INTO schema_serves (version, oldest) VALUES (8, 1);
