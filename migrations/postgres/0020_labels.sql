-- What a client marks a batch with: each label between line breaks. Lists look at few batches of an owner at a time, so labels
-- need no index of their own.
ALTER TABLE batches ADD COLUMN labels TEXT NOT NULL DEFAULT '';

INSERT INTO schema_serves (version, oldest) VALUES (20, 1);
