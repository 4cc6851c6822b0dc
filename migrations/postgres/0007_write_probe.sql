-- What readiness and `penstock doctor` write to see that the database takes writes: a server that became read-only, or whose
-- disk is full, answers questions as before.
CREATE TABLE write_probe (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    at BIGINT NOT NULL
);

INSERT INTO schema_serves (version, oldest) VALUES (7, 1);
