-- What a rule of the alerts found, for each receiver that is to hear of it. A resolved one that was never sent, or whose
-- end was sent, is deleted.
CREATE TABLE alerts (
    rule TEXT NOT NULL,
    subject TEXT NOT NULL,
    receiver TEXT NOT NULL,
    text TEXT NOT NULL,
    firing INTEGER NOT NULL,
    said INTEGER NOT NULL,
    since INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    next_at INTEGER NOT NULL,
    lease_token TEXT,
    lease_until INTEGER,
    PRIMARY KEY (rule, subject, receiver)
) STRICT, WITHOUT ROWID;

-- The oldest schema whose programs may run on the one of that version: migrations expand first and contract later, so
-- that services of the release before go on beside an upgrade.
CREATE TABLE schema_serves (
    version INTEGER PRIMARY KEY,
    oldest INTEGER NOT NULL
) STRICT;
INSERT INTO schema_serves (version, oldest) VALUES (2, 1);
