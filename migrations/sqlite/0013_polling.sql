-- A row that waits for a result: it is looked at again at `not_before`, by the workers themselves and not by the dispatcher's runs.
ALTER TABLE row_state ADD COLUMN polling INTEGER NOT NULL DEFAULT 0;
CREATE INDEX row_state_polling ON row_state (batch, status, coalesce(not_before, 0)) WHERE polling;

INSERT INTO schema_serves (version, oldest) VALUES (13, 1);
