-- Until when a dependency (its name and a hash of its address) may have been called: a limiter that has no state of it learns from
-- this whether the state was lost, or whether there was none.
CREATE TABLE limit_uses (
    dependency TEXT PRIMARY KEY,
    used_until INTEGER NOT NULL
) STRICT;

-- Which dependencies were called before this was recorded is not known: all of them may have been,
-- and programs of the release before go on calling without recording it for as long as an upgrade takes.
INSERT INTO limit_uses (dependency, used_until)
SELECT '', CAST((unixepoch('subsec') + 6 * 3600) * 1000 AS INTEGER) WHERE EXISTS (SELECT 1 FROM batches);

INSERT INTO schema_serves (version, oldest) VALUES (22, 1);
