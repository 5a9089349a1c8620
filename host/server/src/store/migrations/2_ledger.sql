-- Predictions: the row is the job. Times are Unix milliseconds, durations microseconds, money billionths of the currency's unit.
CREATE TABLE predictions (
    sequence     INTEGER PRIMARY KEY,      -- the order of creation
    owner        TEXT NOT NULL,
    id           TEXT NOT NULL,            -- unique for its owner; nobody learns of another's
    token        TEXT NOT NULL,            -- the id of the token that asked
    model        TEXT NOT NULL,            -- owner/name
    version      BLOB NOT NULL,
    deployment   TEXT,                     -- owner/name
    status       INTEGER NOT NULL,         -- 0 starting, 1 processing, 2 succeeded, 3 failed, 4 canceled
    source       INTEGER NOT NULL,         -- 0 api, 1 web
    origin       TEXT NOT NULL,            -- what the URLs in its object begin with
    input        TEXT NOT NULL,            -- JSON as it was sent, secrets left out
    secret       INTEGER NOT NULL,         -- whether something was left out: such a job cannot be run again
    output       TEXT,                     -- JSON
    error        TEXT,
    logs         TEXT NOT NULL,
    metrics      TEXT NOT NULL,            -- JSON: the figures that the guest set
    created_at   INTEGER NOT NULL,
    started_at   INTEGER,
    completed_at INTEGER,
    deadline     INTEGER,
    attempt      INTEGER NOT NULL,         -- how often it was started; the fence against a run that was given up
    webhook      TEXT,
    events       INTEGER NOT NULL,         -- which events the webhook wants, as bits
    cache        INTEGER NOT NULL,         -- 0 off, 1 miss, 2 hit, 3 shared
    queue_us     INTEGER NOT NULL,
    total_us     INTEGER NOT NULL,
    compute_us   INTEGER NOT NULL,
    load_us      INTEGER NOT NULL,
    billed_ms    INTEGER NOT NULL,
    cost         INTEGER NOT NULL,
    removed      INTEGER NOT NULL          -- whether input, output and logs are gone
) STRICT;
CREATE UNIQUE INDEX predictions_by_id ON predictions (owner, id);
CREATE INDEX predictions_by_owner ON predictions (owner, sequence);
CREATE INDEX predictions_unfinished ON predictions (sequence) WHERE status < 2;
CREATE INDEX predictions_to_clear ON predictions (completed_at) WHERE removed = 0 AND status >= 2;

CREATE TABLE idempotency (
    owner       TEXT NOT NULL,
    key         TEXT NOT NULL,
    fingerprint BLOB NOT NULL,             -- sha256 of the request that the key stands for
    id          TEXT NOT NULL,
    created_at  INTEGER NOT NULL,
    PRIMARY KEY (owner, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE usage (
    owner       TEXT NOT NULL,
    day         INTEGER NOT NULL,          -- days since 1970-01-01, UTC
    model       TEXT NOT NULL,
    token       TEXT NOT NULL,
    predictions INTEGER NOT NULL,
    cached      INTEGER NOT NULL,
    compute_us  INTEGER NOT NULL,
    billed_ms   INTEGER NOT NULL,
    cost        INTEGER NOT NULL,
    PRIMARY KEY (owner, day, model, token)
) STRICT, WITHOUT ROWID;

CREATE TABLE spend_limits (
    owner      TEXT PRIMARY KEY,
    day        INTEGER,                    -- the most that a day (UTC) may cost
    month      INTEGER,                    -- the most that a calendar month (UTC) may cost
    updated_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
