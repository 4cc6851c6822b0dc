-- What a file says of itself lies sealed beside the batch's key, and goes with it: its header, and why it could not be
-- read. `batches.header` is that of older batches; `batches.failure` keeps a code, its sentence and a count.
ALTER TABLE batch_keys ADD COLUMN header bytea;
ALTER TABLE batch_keys ADD COLUMN failure bytea;

-- A file without a header line had its first row quoted in these errors.
UPDATE batches SET failure = (failure::jsonb - 'errors')::text WHERE failure LIKE '%"errors"%';
UPDATE callbacks SET snapshot =
    jsonb_set(snapshot::jsonb, '{failure}', to_jsonb(((snapshot::jsonb ->> 'failure')::jsonb - 'errors')::text))::text
    WHERE snapshot LIKE '%errors%' AND snapshot::jsonb ->> 'failure' LIKE '%"errors"%';

INSERT INTO schema_serves (version, oldest) VALUES (6, 1);
