-- What calls of a process wait for that no limiter knows of (a token endpoint that fails, what an API says is left), as a JSON list,
-- for people to read.
ALTER TABLE workers ADD COLUMN call_waits TEXT NOT NULL DEFAULT '[]';

INSERT INTO schema_serves (version, oldest) VALUES (18, 1);
