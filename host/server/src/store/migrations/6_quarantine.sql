-- Versions that trap every time are not called until they are released.
ALTER TABLE versions ADD COLUMN quarantine TEXT;   -- JSON of why; nothing for versions that are called
