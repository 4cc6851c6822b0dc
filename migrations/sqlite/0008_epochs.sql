-- Keys that wrap batches' data keys for a time, each sealed under the keyring. Dropping one makes every copy of the keys that
-- it wrapped worthless.
CREATE TABLE epochs (
    id INTEGER PRIMARY KEY,
    sealed BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    erased INTEGER NOT NULL
) STRICT;

-- NULL: wrapped by the keyring itself, and bound to the batch alone. `penstock migrate` wraps those anew.
ALTER TABLE batch_keys ADD COLUMN epoch INTEGER REFERENCES epochs;
CREATE INDEX batch_keys_by_epoch ON batch_keys (epoch);

-- Under the keyring, over version, name and source: whoever writes to the database makes no definition.
ALTER TABLE definitions ADD COLUMN mac BLOB;

-- Batches that are being erased: who breaks off leaves the record, and a sweep goes on.
CREATE TABLE erasures (
    batch INTEGER PRIMARY KEY REFERENCES batches
) STRICT;

INSERT INTO schema_serves (version, oldest) VALUES (8, 1);
