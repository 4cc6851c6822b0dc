-- Calls that were made of a dependency in each minute: what is used of its limits. Kept for some hours.
CREATE TABLE calls_by_minute (
    dependency TEXT NOT NULL,
    minute BIGINT NOT NULL,
    calls BIGINT NOT NULL,
    throttled BIGINT NOT NULL,
    PRIMARY KEY (dependency, minute)
);
CREATE INDEX calls_by_minute_in_order ON calls_by_minute (minute);

INSERT INTO schema_serves (version, oldest) VALUES (24, 1);
