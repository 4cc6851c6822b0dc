-- The bulk call that a row was recorded for, with others of its batch: until an answer says otherwise, exactly these rows go
-- again together, under the call's idempotency key. `call_rows` is how many they are. Rows that have ended keep it: without them the others cannot go.
ALTER TABLE row_state ADD COLUMN call_id TEXT;
ALTER TABLE row_state ADD COLUMN call_rows INTEGER;
CREATE INDEX row_state_call ON row_state (batch, call_id) WHERE call_id IS NOT NULL;

INSERT INTO schema_serves (version, oldest) VALUES (19, 1);
