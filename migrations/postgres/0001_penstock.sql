-- Penstock on PostgreSQL 14 and later. States are the domain's numbers.
CREATE TABLE owners (
    seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    rows INTEGER,
    weight INTEGER NOT NULL DEFAULT 1,
    secret BYTEA,
    previous_secret BYTEA,
    previous_until BIGINT,
    served_at BIGINT NOT NULL DEFAULT 0,
    created_at BIGINT NOT NULL
);

CREATE TABLE api_keys (
    id TEXT PRIMARY KEY,
    owner BIGINT NOT NULL REFERENCES owners,
    role INTEGER NOT NULL,
    hash BYTEA NOT NULL,
    created_at BIGINT NOT NULL,
    revoked_at BIGINT
);

CREATE TABLE definitions (
    version UUID PRIMARY KEY,
    name TEXT NOT NULL,
    source TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE batches (
    seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id UUID NOT NULL UNIQUE,
    owner BIGINT NOT NULL REFERENCES owners,
    pipeline TEXT NOT NULL,
    version UUID NOT NULL,
    name TEXT,
    header TEXT,
    object_key TEXT NOT NULL,
    file_bytes BIGINT NOT NULL,
    unsealed BOOLEAN NOT NULL,
    callback_url TEXT,
    priority INTEGER NOT NULL,
    created_at BIGINT NOT NULL,
    failure_row INTEGER,
    failure TEXT,
    erased_at BIGINT,
    served_at BIGINT NOT NULL DEFAULT 0,
    -- the ledger
    status INTEGER NOT NULL,
    outcome INTEGER,
    allow_failures BOOLEAN NOT NULL,
    paused BOOLEAN NOT NULL,
    held BOOLEAN NOT NULL,
    canary_rows INTEGER,
    canary_max_failure_bp INTEGER,
    canary_stop_after INTEGER,
    canary_passed BOOLEAN NOT NULL,
    total INTEGER NOT NULL,
    pending INTEGER NOT NULL CHECK (pending >= 0),
    queued INTEGER NOT NULL CHECK (queued >= 0),
    processing INTEGER NOT NULL CHECK (processing >= 0),
    completed INTEGER NOT NULL CHECK (completed >= 0),
    failed INTEGER NOT NULL CHECK (failed >= 0),
    cancelled INTEGER NOT NULL CHECK (cancelled >= 0),
    run INTEGER NOT NULL,
    extracted BOOLEAN NOT NULL,
    next_number INTEGER NOT NULL,
    release_end INTEGER NOT NULL,
    failure_said_run INTEGER NOT NULL,
    progress_said INTEGER NOT NULL,
    progress_said_at BIGINT,
    started_at BIGINT,
    finished_at BIGINT,
    cancelled_at BIGINT,
    revision BIGINT NOT NULL,
    -- extraction
    checkpoint_offset BIGINT NOT NULL,
    checkpoint_line BIGINT NOT NULL,
    checkpoint_rows INTEGER NOT NULL,
    extract_token UUID,
    extract_holder TEXT,
    extract_until BIGINT,
    CHECK (total = pending + queued + processing + completed + failed + cancelled)
) WITH (fillfactor = 50);
CREATE INDEX batches_by_owner ON batches (owner, seq);
CREATE INDEX batches_unextracted ON batches (seq) WHERE status IN (0, 1);
CREATE INDEX batches_running ON batches (owner) WHERE status = 2;
CREATE INDEX batches_finished ON batches (finished_at) WHERE finished_at IS NOT NULL;

-- Deleting this record is the erasure.
CREATE TABLE batch_keys (
    batch BIGINT PRIMARY KEY REFERENCES batches,
    key_id TEXT NOT NULL,
    wrapped BYTEA NOT NULL,
    context BYTEA
);

CREATE TABLE idempotency (
    owner BIGINT NOT NULL REFERENCES owners,
    key TEXT NOT NULL,
    key_id TEXT NOT NULL,
    fingerprint BYTEA NOT NULL,
    batch BIGINT NOT NULL REFERENCES batches,
    PRIMARY KEY (owner, key)
);
CREATE INDEX idempotency_by_batch ON idempotency (batch);

CREATE TABLE uploads (
    id UUID PRIMARY KEY,
    owner BIGINT NOT NULL REFERENCES owners,
    object_key TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    batch BIGINT REFERENCES batches
);

-- Written once by extraction (COPY), never updated but by erasure. No foreign key: it would look each batch up for each row.
CREATE TABLE row_data (
    batch BIGINT NOT NULL,
    number INTEGER NOT NULL,
    line INTEGER NOT NULL,
    payload BYTEA NOT NULL,
    PRIMARY KEY (batch, number)
);
ALTER TABLE row_data ALTER COLUMN payload SET STORAGE EXTERNAL;

-- The hot table: no ciphertext in it. A row that was never released has no record here.
CREATE TABLE row_state (
    batch BIGINT NOT NULL,
    number INTEGER NOT NULL,
    status SMALLINT NOT NULL,
    attempts SMALLINT NOT NULL DEFAULT 0,
    step SMALLINT,
    http_status SMALLINT,
    has_output BOOLEAN NOT NULL DEFAULT false,
    not_before BIGINT,
    lease_until BIGINT,
    queued_until BIGINT,
    first_claimed_at BIGINT,
    lease_token UUID,
    code TEXT,
    lease_holder TEXT,
    PRIMARY KEY (batch, number)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX row_state_waiting ON row_state (batch, not_before) WHERE status = 0;
CREATE INDEX row_state_queued ON row_state (queued_until) WHERE status = 1;
CREATE INDEX row_state_leased ON row_state (lease_until) WHERE status = 2;
CREATE INDEX row_state_failed ON row_state (batch, number) WHERE status = 4;

CREATE TABLE row_output (
    batch BIGINT NOT NULL,
    number INTEGER NOT NULL,
    result BYTEA,
    error BYTEA,
    PRIMARY KEY (batch, number)
);

CREATE TABLE row_receipts (
    batch BIGINT NOT NULL,
    number INTEGER NOT NULL,
    step SMALLINT NOT NULL,
    output BYTEA NOT NULL,
    PRIMARY KEY (batch, number, step)
);

CREATE TABLE callbacks (
    id UUID PRIMARY KEY,
    owner BIGINT NOT NULL,
    batch BIGINT NOT NULL,
    run INTEGER NOT NULL,
    event TEXT NOT NULL,
    ordinal INTEGER NOT NULL,
    url TEXT NOT NULL,
    snapshot TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    position INTEGER NOT NULL,
    status SMALLINT NOT NULL,
    attempts SMALLINT NOT NULL,
    next_at BIGINT,
    lease_token UUID,
    lease_until BIGINT,
    last_status SMALLINT,
    last_error TEXT,
    UNIQUE (batch, run, event, ordinal)
);
CREATE INDEX callbacks_due ON callbacks (next_at) WHERE status = 0;
CREATE INDEX callbacks_by_owner ON callbacks (owner, created_at);

CREATE TABLE runs (
    started_at BIGINT PRIMARY KEY,
    body TEXT NOT NULL
);

CREATE TABLE audit (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at BIGINT NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    batch UUID,
    detail TEXT
);
CREATE INDEX audit_by_batch ON audit (batch, at);
