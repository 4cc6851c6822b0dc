-- What was reserved of a limit's period of the calendar: a limiter that is emptied is given no more than is left.
CREATE TABLE limit_periods (
    limit_id TEXT NOT NULL,
    member TEXT NOT NULL,
    ends_at BIGINT NOT NULL,
    reserved BIGINT NOT NULL,
    PRIMARY KEY (limit_id, member, ends_at)
);
CREATE INDEX limit_periods_by_end ON limit_periods (ends_at);

-- What an operator set of a dependency's limits while services run; NULL: as the definition says.
CREATE TABLE limit_settings (
    dependency TEXT PRIMARY KEY,
    rate_limit BIGINT,
    concurrency BIGINT,
    paused BOOLEAN NOT NULL,
    changed_at BIGINT NOT NULL
);

INSERT INTO schema_serves (version, oldest) VALUES (15, 1);
