-- What a file says of itself lies sealed beside the batch's key, and goes with it: its header, and why it could not be
-- read. `batches.header` is that of older batches; `batches.failure` keeps a code, its sentence and a count.
ALTER TABLE batch_keys ADD COLUMN header BLOB;
ALTER TABLE batch_keys ADD COLUMN failure BLOB;

-- A file without a header line had its first row quoted in these errors.
UPDATE batches SET failure = json_remove(failure, '$.errors') WHERE failure LIKE '%"errors"%';
UPDATE callbacks SET snapshot = json_set(snapshot, '$.failure', json_remove(json_extract(snapshot, '$.failure'), '$.errors'))
    WHERE snapshot LIKE '%errors%' AND json_extract(snapshot, '$.failure') LIKE '%"errors"%';

INSERT INTO schema_serves (version, oldest) VALUES (6, 1);
