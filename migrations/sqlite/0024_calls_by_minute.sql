-- Calls that were made of a dependency in each minute: what is used of its limits. Kept for some hours.
CREATE TABLE calls_by_minute (
    dependency TEXT NOT NULL,
    minute INTEGER NOT NULL,
    calls INTEGER NOT NULL,
    throttled INTEGER NOT NULL,
    PRIMARY KEY (dependency, minute)
) STRICT, WITHOUT ROWID;
CREATE INDEX calls_by_minute_in_order ON calls_by_minute (minute);

INSERT INTO schema_serves (version, oldest) VALUES (24, 1);
