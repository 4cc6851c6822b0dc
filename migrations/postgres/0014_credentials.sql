-- What calls for an owner are made with: its variables (secret = 0) and its secrets (secret = 1), sealed under the keyring.
CREATE TABLE owner_values (
    owner BIGINT NOT NULL REFERENCES owners,
    secret BIGINT NOT NULL,
    name TEXT NOT NULL,
    sealed BYTEA NOT NULL,
    PRIMARY KEY (owner, secret, name)
);

-- Tokens that an endpoint replaces, sealed under the keyring; one worker renews them at a time.
CREATE TABLE tokens (
    name TEXT PRIMARY KEY,
    version BIGINT NOT NULL,
    sealed BYTEA,
    renewing_until BIGINT NOT NULL
);

INSERT INTO schema_serves (version, oldest) VALUES (14, 1);
