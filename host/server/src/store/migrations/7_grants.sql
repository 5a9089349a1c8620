-- What a version was granted when it was published.
ALTER TABLE versions ADD COLUMN granted TEXT;      -- JSON; nothing for versions of before
