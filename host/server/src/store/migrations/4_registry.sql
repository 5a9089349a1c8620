-- What models say of themselves beside their versions: cards, collections, deployments. And until when tokens hold.
ALTER TABLE models ADD COLUMN private INTEGER NOT NULL DEFAULT 0;
ALTER TABLE models ADD COLUMN card TEXT NOT NULL DEFAULT '{}';   -- JSON of what the owner set
ALTER TABLE models ADD COLUMN runs INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tokens ADD COLUMN expires_at INTEGER;
ALTER TABLE tokens ADD COLUMN last_used_at INTEGER;

CREATE TABLE collections (
    slug   TEXT PRIMARY KEY,
    record TEXT NOT NULL                  -- JSON
) STRICT, WITHOUT ROWID;

CREATE TABLE releases (
    owner         TEXT NOT NULL,
    name          TEXT NOT NULL,          -- of the deployment
    number        INTEGER NOT NULL,       -- 1, 2, …: the last one is in force
    model         TEXT NOT NULL,
    version       BLOB NOT NULL,
    hardware      TEXT NOT NULL,
    min_instances INTEGER NOT NULL,
    max_instances INTEGER NOT NULL,
    created_at    INTEGER NOT NULL,
    created_by    TEXT NOT NULL,
    PRIMARY KEY (owner, name, number)
) STRICT, WITHOUT ROWID;
