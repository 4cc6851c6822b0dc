-- Receivers of callbacks take turns: `receiver` is the address up to its path. Programs of the schema before leave it out.
ALTER TABLE callbacks ADD COLUMN receiver TEXT;
CREATE INDEX callbacks_due_by_receiver ON callbacks ((coalesce(receiver, url)), next_at) WHERE status = 0;

-- Addresses that answered 410: nothing more goes there until somebody names the address again.
CREATE TABLE gone_receivers (
    owner BIGINT NOT NULL REFERENCES owners,
    url TEXT NOT NULL,
    since BIGINT NOT NULL,
    PRIMARY KEY (owner, url)
);

-- Small secrets of the installation itself, sealed by the keyring.
CREATE TABLE secrets (
    name TEXT PRIMARY KEY,
    sealed BYTEA NOT NULL
);

INSERT INTO schema_serves (version, oldest) VALUES (3, 1);
