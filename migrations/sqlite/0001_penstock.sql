-- Penstock on SQLite. Times are milliseconds since the Unix epoch; states are the domain's numbers.
CREATE TABLE owners (
    seq INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    rows INTEGER,
    weight INTEGER NOT NULL DEFAULT 1,
    secret BLOB,
    previous_secret BLOB,
    previous_until INTEGER,
    served_at INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE api_keys (
    id TEXT PRIMARY KEY,
    owner INTEGER NOT NULL REFERENCES owners,
    role INTEGER NOT NULL,
    hash BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    revoked_at INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE definitions (
    version TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    source TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE batches (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    owner INTEGER NOT NULL REFERENCES owners,
    pipeline TEXT NOT NULL,
    version TEXT NOT NULL,
    name TEXT,
    header TEXT,
    object_key TEXT NOT NULL,
    file_bytes INTEGER NOT NULL,
    unsealed INTEGER NOT NULL,
    callback_url TEXT,
    priority INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    failure_row INTEGER,
    failure TEXT,
    erased_at INTEGER,
    served_at INTEGER NOT NULL DEFAULT 0,
    -- the ledger
    status INTEGER NOT NULL,
    outcome INTEGER,
    allow_failures INTEGER NOT NULL,
    paused INTEGER NOT NULL,
    held INTEGER NOT NULL,
    canary_rows INTEGER,
    canary_max_failure_bp INTEGER,
    canary_stop_after INTEGER,
    canary_passed INTEGER NOT NULL,
    total INTEGER NOT NULL,
    pending INTEGER NOT NULL CHECK (pending >= 0),
    queued INTEGER NOT NULL CHECK (queued >= 0),
    processing INTEGER NOT NULL CHECK (processing >= 0),
    completed INTEGER NOT NULL CHECK (completed >= 0),
    failed INTEGER NOT NULL CHECK (failed >= 0),
    cancelled INTEGER NOT NULL CHECK (cancelled >= 0),
    run INTEGER NOT NULL,
    extracted INTEGER NOT NULL,
    next_number INTEGER NOT NULL,
    release_end INTEGER NOT NULL,
    failure_said_run INTEGER NOT NULL,
    progress_said INTEGER NOT NULL,
    progress_said_at INTEGER,
    started_at INTEGER,
    finished_at INTEGER,
    cancelled_at INTEGER,
    revision INTEGER NOT NULL,
    -- extraction
    checkpoint_offset INTEGER NOT NULL,
    checkpoint_line INTEGER NOT NULL,
    checkpoint_rows INTEGER NOT NULL,
    extract_token TEXT,
    extract_holder TEXT,
    extract_until INTEGER,
    CHECK (total = pending + queued + processing + completed + failed + cancelled)
) STRICT;
CREATE INDEX batches_by_owner ON batches (owner, seq);
CREATE INDEX batches_unextracted ON batches (seq) WHERE status IN (0, 1);
CREATE INDEX batches_running ON batches (owner, priority, served_at) WHERE status = 2;
CREATE INDEX batches_finished ON batches (finished_at) WHERE finished_at IS NOT NULL;

-- Deleting this record is the erasure.
CREATE TABLE batch_keys (
    batch INTEGER PRIMARY KEY REFERENCES batches,
    key_id TEXT NOT NULL,
    wrapped BLOB NOT NULL,
    context BLOB
) STRICT;

CREATE TABLE idempotency (
    owner INTEGER NOT NULL REFERENCES owners,
    key TEXT NOT NULL,
    key_id TEXT NOT NULL,
    fingerprint BLOB NOT NULL,
    batch INTEGER NOT NULL REFERENCES batches,
    PRIMARY KEY (owner, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_by_batch ON idempotency (batch);

CREATE TABLE uploads (
    id TEXT PRIMARY KEY,
    owner INTEGER NOT NULL REFERENCES owners,
    object_key TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    batch INTEGER REFERENCES batches
) STRICT, WITHOUT ROWID;

-- Written once by extraction, never updated.
CREATE TABLE row_data (
    batch INTEGER NOT NULL,
    number INTEGER NOT NULL,
    line INTEGER NOT NULL,
    payload BLOB NOT NULL,
    PRIMARY KEY (batch, number)
) STRICT, WITHOUT ROWID;

-- A row that was never released has no record here.
CREATE TABLE row_state (
    batch INTEGER NOT NULL,
    number INTEGER NOT NULL,
    status INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    step INTEGER,
    code TEXT,
    http_status INTEGER,
    not_before INTEGER,
    lease_token TEXT,
    lease_holder TEXT,
    lease_until INTEGER,
    queued_until INTEGER,
    first_claimed_at INTEGER,
    has_output INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (batch, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX row_state_waiting ON row_state (batch, not_before) WHERE status = 0;
CREATE INDEX row_state_queued ON row_state (queued_until) WHERE status = 1;
CREATE INDEX row_state_leased ON row_state (lease_until) WHERE status = 2;
CREATE INDEX row_state_failed ON row_state (batch, number) WHERE status = 4;

CREATE TABLE row_output (
    batch INTEGER NOT NULL,
    number INTEGER NOT NULL,
    result BLOB,
    error BLOB,
    PRIMARY KEY (batch, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE row_receipts (
    batch INTEGER NOT NULL,
    number INTEGER NOT NULL,
    step INTEGER NOT NULL,
    output BLOB NOT NULL,
    PRIMARY KEY (batch, number, step)
) STRICT, WITHOUT ROWID;

CREATE TABLE callbacks (
    id TEXT PRIMARY KEY,
    owner INTEGER NOT NULL,
    batch INTEGER NOT NULL,
    run INTEGER NOT NULL,
    event TEXT NOT NULL,
    ordinal INTEGER NOT NULL,
    url TEXT NOT NULL,
    snapshot TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    position INTEGER NOT NULL,
    status INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    next_at INTEGER,
    lease_token TEXT,
    lease_until INTEGER,
    last_status INTEGER,
    last_error TEXT,
    UNIQUE (batch, run, event, ordinal)
) STRICT;
CREATE INDEX callbacks_due ON callbacks (next_at) WHERE status = 0;
CREATE INDEX callbacks_by_owner ON callbacks (owner, created_at);

CREATE TABLE runs (
    started_at INTEGER PRIMARY KEY,
    body TEXT NOT NULL
) STRICT;

CREATE TABLE audit (
    id INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    batch TEXT,
    detail TEXT
) STRICT;
CREATE INDEX audit_by_batch ON audit (batch, at);
