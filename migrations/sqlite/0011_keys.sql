-- What a key may do (read, upload, command: the lowest three bits), for which pipelines (JSON; NULL: all), and until when. The MAC
-- is over all of it and over the secret: whoever writes to the database makes no key, and changes none.
ALTER TABLE api_keys ADD COLUMN mac BLOB;
ALTER TABLE api_keys ADD COLUMN scopes INTEGER NOT NULL DEFAULT 7;
ALTER TABLE api_keys ADD COLUMN pipelines TEXT;
ALTER TABLE api_keys ADD COLUMN expires_at INTEGER;
ALTER TABLE api_keys ADD COLUMN last_used_at INTEGER;

INSERT INTO schema_serves (version, oldest) VALUES (11, 1);
