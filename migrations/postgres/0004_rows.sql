-- Rows that came back, by the time at which they may run again. `row_state_waiting` had those without a time last, so that
-- a release read all of a batch's waiting rows.
CREATE INDEX row_state_due ON row_state (batch, coalesce(not_before, 0), number) WHERE status = 0;
DROP INDEX row_state_waiting;

INSERT INTO schema_serves (version, oldest) VALUES (4, 1);
