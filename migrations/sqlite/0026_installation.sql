-- The installation's id, by which its keys in Redis are told from those of others. One that was in use before there were ids has
-- none: its keys keep their names, so that programs of the release before and of this one share limits and messages.
CREATE TABLE installation (
    id TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;

INSERT INTO installation (id)
SELECT CASE WHEN EXISTS (SELECT 1 FROM secrets) THEN '' ELSE lower(hex(randomblob(6))) END;

INSERT INTO schema_serves (version, oldest) VALUES (26, 1);
