-- Rows that came back, by the time at which they may run again. `row_state_waiting` had those without a time last, so that
-- a release read all of a batch's waiting rows.
CREATE INDEX row_state_due ON row_state (batch, coalesce(not_before, 0), number) WHERE status = 0;
DROP INDEX row_state_waiting;

-- The step that a row in flight has asked for and of whose answer nothing is known: only of steps that are called at most once.
-- When the row's lease runs out, the row ends, because nobody can tell whether the call had its effect.
ALTER TABLE row_state ADD COLUMN asked SMALLINT;

INSERT INTO schema_serves (version, oldest) VALUES (4, 1);
