-- What calls for an owner are made with: its variables (secret = 0) and its secrets (secret = 1), sealed under the keyring.
CREATE TABLE owner_values (
    owner INTEGER NOT NULL REFERENCES owners,
    secret INTEGER NOT NULL,
    name TEXT NOT NULL,
    sealed BLOB NOT NULL,
    PRIMARY KEY (owner, secret, name)
) STRICT, WITHOUT ROWID;

-- Tokens that an endpoint replaces, sealed under the keyring; one worker renews them at a time.
CREATE TABLE tokens (
    name TEXT PRIMARY KEY,
    version INTEGER NOT NULL,
    sealed BLOB,
    renewing_until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO schema_serves (version, oldest) VALUES (14, 1);
