-- Bookkeeping of standfast in PostgreSQL, version 1: the tables.  The schema is there already: who
-- made it decides who owns what is in it.

CREATE TABLE standfast.schema_version (
    version    integer PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- Versions and cursors mean something only within one history.
CREATE TABLE standfast.identity (
    single      boolean PRIMARY KEY DEFAULT true CHECK (single),
    identity    uuid NOT NULL DEFAULT gen_random_uuid(),
    epoch       bigint NOT NULL DEFAULT 1,
    environment text,
    created_at  timestamptz NOT NULL DEFAULT now()
);
INSERT INTO standfast.identity DEFAULT VALUES;

CREATE TABLE standfast.collections (
    name          text COLLATE "C" PRIMARY KEY,
    table_schema  text NOT NULL,
    table_name    text NOT NULL,
    key_column    text NOT NULL,
    adopted       boolean NOT NULL DEFAULT false,
    shape         text NOT NULL DEFAULT 'object',
    key_field     text,
    version_floor bigint NOT NULL DEFAULT 0,
    created_at    timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE standfast.lanes (
    lane       uuid NOT NULL,
    generation integer NOT NULL DEFAULT 0,
    watermark  bigint NOT NULL DEFAULT 0,
    state      text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'fenced')),
    outcomes   text NOT NULL DEFAULT '[]',
    directory  uuid,
    opened_at  timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (lane, generation)
) WITH (fillfactor = 50);

-- One row per statement, never one per document.
CREATE TABLE standfast.changes (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    xid        xid8 NOT NULL DEFAULT pg_current_xact_id(),
    collection text NOT NULL,
    keys       text[],                     -- NULL: anything in the collection
    at         timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX changes_xid ON standfast.changes (xid);
CREATE INDEX changes_at ON standfast.changes (at);

CREATE TABLE standfast.tombstones (
    collection text COLLATE "C" NOT NULL,
    key        text COLLATE "C" NOT NULL,
    version    bigint NOT NULL,
    deleted_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (collection, key)
);
CREATE INDEX tombstones_deleted_at ON standfast.tombstones (deleted_at);

CREATE TABLE standfast.conflicts (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at          timestamptz NOT NULL DEFAULT now(),
    lane        uuid,
    seq         bigint,
    collection  text NOT NULL,
    key         text NOT NULL,
    kind        text NOT NULL,
    reason      text NOT NULL,
    base        text,
    mine        text,
    theirs      text,
    state       text NOT NULL DEFAULT 'open',
    resolved_at timestamptz,
    resolution  text
);

CREATE TABLE standfast.runs (
    run        text PRIMARY KEY,
    state      text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    report     text NOT NULL DEFAULT '{}'
);
