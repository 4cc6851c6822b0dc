-- A key's name, for people; and whether a sign-in to the console made it: its secret is nowhere, and it is deleted some time after
-- its end.
ALTER TABLE api_keys ADD COLUMN name TEXT;
ALTER TABLE api_keys ADD COLUMN sign_in INTEGER NOT NULL DEFAULT 0;
CREATE INDEX api_keys_of_sign_ins ON api_keys (expires_at) WHERE sign_in;

-- Links that sign in once and were used, until they have ended.
CREATE TABLE used_tickets (
    number TEXT PRIMARY KEY,
    ends_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO schema_serves (version, oldest) VALUES (23, 1);
