-- What is published, and who may call. Times are Unix milliseconds everywhere.
CREATE TABLE models (
    name       TEXT PRIMARY KEY,          -- owner/name
    created_at INTEGER NOT NULL           -- Unix milliseconds, as everywhere
) STRICT;
CREATE TABLE versions (
    sequence    INTEGER PRIMARY KEY,      -- the order of publishing
    model       TEXT NOT NULL REFERENCES models(name),
    id          BLOB NOT NULL,            -- sha256 of the canonical manifest
    number      TEXT NOT NULL,            -- semver of the manifest
    description TEXT NOT NULL,
    manifest    TEXT NOT NULL,            -- canonical JSON
    prepared    TEXT NOT NULL,            -- what the sandbox made of the component, as JSON
    created_at  INTEGER NOT NULL,
    UNIQUE (model, id)
) STRICT;
CREATE INDEX versions_by_id ON versions (id);
CREATE TABLE aliases (
    model      TEXT NOT NULL,
    alias      TEXT NOT NULL,
    id         BLOB NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (model, alias),
    FOREIGN KEY (model, id) REFERENCES versions (model, id)
) STRICT, WITHOUT ROWID;
CREATE TABLE tokens (
    id         TEXT PRIMARY KEY,
    hash       BLOB NOT NULL UNIQUE,      -- sha256 of the token; the token itself is kept nowhere
    owner      TEXT NOT NULL,
    label      TEXT NOT NULL,
    scopes     TEXT NOT NULL,             -- JSON list of names
    created_at INTEGER NOT NULL
) STRICT;
