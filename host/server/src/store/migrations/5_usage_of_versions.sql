-- Usage knows its version. What was counted before knows only the model: its version is empty, and stands for any of them.

CREATE TABLE usage_of_versions (
    owner       TEXT NOT NULL,
    day         INTEGER NOT NULL,          -- days since 1970-01-01, UTC
    model       TEXT NOT NULL,
    version     BLOB NOT NULL,
    token       TEXT NOT NULL,
    predictions INTEGER NOT NULL,
    cached      INTEGER NOT NULL,
    compute_us  INTEGER NOT NULL,
    billed_ms   INTEGER NOT NULL,
    cost        INTEGER NOT NULL,
    PRIMARY KEY (owner, day, model, version, token)
) STRICT, WITHOUT ROWID;
INSERT INTO usage_of_versions
    SELECT owner, day, model, x'', token, predictions, cached, compute_us, billed_ms, cost FROM usage;
DROP TABLE usage;
ALTER TABLE usage_of_versions RENAME TO usage;
CREATE INDEX usage_by_version ON usage (model, version);
