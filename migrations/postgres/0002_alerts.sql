-- What a rule of the alerts found, for each receiver that is to hear of it. A resolved one that was never sent, or whose
-- end was sent, is deleted.
CREATE TABLE alerts (
    rule TEXT NOT NULL,
    subject TEXT NOT NULL,
    receiver TEXT NOT NULL,
    text TEXT NOT NULL,
    firing BOOLEAN NOT NULL,
    said SMALLINT NOT NULL,
    since BIGINT NOT NULL,
    attempts SMALLINT NOT NULL,
    next_at BIGINT NOT NULL,
    lease_token UUID,
    lease_until BIGINT,
    PRIMARY KEY (rule, subject, receiver)
);

-- The oldest schema whose programs may run on the one of that version: migrations expand first and contract later, so
-- that services of the release before go on beside an upgrade.
CREATE TABLE schema_serves (
    version BIGINT PRIMARY KEY,
    oldest BIGINT NOT NULL
);
INSERT INTO schema_serves (version, oldest) VALUES (2, 1);
