-- Files that callers sent or outputs left, and webhooks on their way.
CREATE TABLE files (
    id            TEXT PRIMARY KEY,       -- 26 base32 characters; the bytes lie under this name
    owner         TEXT NOT NULL,
    kind          TEXT NOT NULL CHECK (kind IN ('upload', 'output')),
    prediction_id TEXT,                   -- whose output it is
    name          TEXT NOT NULL,
    content_type  TEXT NOT NULL,
    size          INTEGER NOT NULL,
    sha256        BLOB NOT NULL,
    md5           BLOB NOT NULL,
    metadata      TEXT NOT NULL,          -- JSON object
    created_at    INTEGER NOT NULL,
    expires_at    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX files_by_owner ON files (owner, created_at, id);
CREATE INDEX files_by_expiry ON files (expires_at);
CREATE INDEX files_by_prediction ON files (prediction_id) WHERE prediction_id IS NOT NULL;
-- What the quota counts; a file costs 4 KiB more than it has, so that many small ones cost something too.
CREATE TABLE file_usage (
    owner TEXT PRIMARY KEY,
    bytes INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TRIGGER file_kept AFTER INSERT ON files BEGIN
    INSERT INTO file_usage (owner, bytes) VALUES (NEW.owner, NEW.size + 4096)
        ON CONFLICT (owner) DO UPDATE SET bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER file_gone AFTER DELETE ON files BEGIN
    UPDATE file_usage SET bytes = bytes - OLD.size - 4096 WHERE owner = OLD.owner;
    DELETE FROM file_usage WHERE owner = OLD.owner AND bytes <= 0;
END;

CREATE TABLE webhook_deliveries (
    id            TEXT PRIMARY KEY,       -- msg_…, the same for every attempt
    owner         TEXT NOT NULL,
    prediction_id TEXT NOT NULL,
    url           TEXT NOT NULL,
    target        TEXT NOT NULL,          -- host:port of the URL
    event         TEXT NOT NULL,
    body          TEXT NOT NULL,
    state         TEXT NOT NULL CHECK (state IN ('pending', 'delivered', 'dead', 'skipped')),
    attempts      INTEGER NOT NULL,
    next_at       INTEGER NOT NULL,       -- when a pending one is due
    last_status   INTEGER,
    last_error    TEXT,
    created_at    INTEGER NOT NULL,
    finished_at   INTEGER
) STRICT;
CREATE INDEX deliveries_by_owner ON webhook_deliveries (owner, created_at, id);
CREATE INDEX deliveries_by_prediction ON webhook_deliveries (prediction_id);
CREATE INDEX deliveries_due ON webhook_deliveries (owner, target, next_at) WHERE state = 'pending';
CREATE INDEX deliveries_next ON webhook_deliveries (next_at) WHERE state = 'pending';
CREATE INDEX deliveries_done ON webhook_deliveries (finished_at) WHERE state <> 'pending';
