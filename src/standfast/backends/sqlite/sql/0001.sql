-- Bookkeeping of a SQLite file, version 1.  Times are microseconds since 1970 UTC.
CREATE TABLE _standfast_identity (
    single      INTEGER PRIMARY KEY CHECK (single = 1),
    identity    TEXT NOT NULL,
    epoch       INTEGER NOT NULL DEFAULT 1,
    role        TEXT NOT NULL,              -- 'embedded primary', or 'mirror' of another history
    mirror_of   TEXT,
    environment TEXT,
    created_at  INTEGER NOT NULL
) STRICT;
CREATE TABLE _standfast_collections (
    name          TEXT PRIMARY KEY,
    shape         TEXT NOT NULL DEFAULT 'object',
    key_field     TEXT,
    version_floor INTEGER NOT NULL DEFAULT 0,
    complete      INTEGER NOT NULL DEFAULT 1,
    created_at    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE _standfast_lanes (
    lane       TEXT NOT NULL,
    generation INTEGER NOT NULL DEFAULT 0,
    watermark  INTEGER NOT NULL DEFAULT 0,
    state      TEXT NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'fenced')),
    outcomes   TEXT NOT NULL DEFAULT '[]',
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (lane, generation)
) STRICT, WITHOUT ROWID;
CREATE TABLE _standfast_changes (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    collection TEXT NOT NULL,
    keys       TEXT,                        -- JSON array; NULL: anything in the collection
    at         INTEGER NOT NULL
) STRICT;
CREATE TABLE _standfast_tombstones (
    collection TEXT NOT NULL,
    key        TEXT NOT NULL,
    version    INTEGER NOT NULL,
    deleted_at INTEGER NOT NULL,
    PRIMARY KEY (collection, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE _standfast_conflicts (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    at          INTEGER NOT NULL,
    lane        TEXT,
    seq         INTEGER,
    collection  TEXT NOT NULL,
    key         TEXT NOT NULL,
    kind        TEXT NOT NULL,
    reason      TEXT NOT NULL,
    base        TEXT,
    mine        TEXT,
    theirs      TEXT,
    state       TEXT NOT NULL DEFAULT 'open',
    resolved_at INTEGER,
    resolution  TEXT
) STRICT;
CREATE TABLE _standfast_runs (
    run        TEXT PRIMARY KEY,
    state      TEXT NOT NULL,
    started_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    report     TEXT NOT NULL DEFAULT '{}'
) STRICT, WITHOUT ROWID;
