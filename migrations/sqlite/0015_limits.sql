-- What was reserved of a limit's period of the calendar: a limiter that is emptied is given no more than is left.
CREATE TABLE limit_periods (
    limit_id TEXT NOT NULL,
    member TEXT NOT NULL,
    ends_at INTEGER NOT NULL,
    reserved INTEGER NOT NULL,
    PRIMARY KEY (limit_id, member, ends_at)
) STRICT;
CREATE INDEX limit_periods_by_end ON limit_periods (ends_at);

-- What an operator set of a dependency's limits while services run; NULL: as the definition says.
CREATE TABLE limit_settings (
    dependency TEXT PRIMARY KEY,
    rate_limit INTEGER,
    concurrency INTEGER,
    paused INTEGER NOT NULL,
    changed_at INTEGER NOT NULL
) STRICT;

INSERT INTO schema_serves (version, oldest) VALUES (15, 1);
