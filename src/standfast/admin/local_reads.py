"""Reading a document from the mirror and the journal, for a command during an outage."""

from __future__ import annotations

from typing import NamedTuple

from standfast.admin.data_dir import look
from standfast.admin.journal import opened_local_state
from standfast.config.settings import Settings
from standfast.engine.local_state import age_s
from standfast.errors import ConfigError


class LocalDocument(NamedTuple):
    """A document as a data directory knows it.

    `text` is its JSON, None where there is none; `age_s` how long ago the primary returned it, None
    if it never did; `pending` how many pending writes are in it.
    """

    text: str | None
    source: str
    age_s: float | None
    pending: int


def read_locally(settings: Settings, collection: str, key: str) -> LocalDocument:
    """Read it without asking the database.

    `Unavailable("not_mirrored")` where nothing is known of the key, which does not mean that it is
    missing; ConfigError where the directory keeps nothing of a primary.
    """
    if settings.target.kind == "sqlite" or not look(settings.data_dir).journal:
        raise ConfigError(
            f"{settings.data_dir} keeps nothing of a PostgreSQL database",
            code="no_primary",
            hint="run this with the STANDFAST_DATA_DIR and DATABASE_URL of the app",
        )
    with opened_local_state(settings) as local_state:
        view = local_state.read_local(collection, key)
        pending = local_state.journal.count_at(collection, key, limit=1000)
    return LocalDocument(
        text=view.text,
        source="journal" if pending and not view.seen_us else view.source,
        age_s=age_s(view.seen_us) if view.seen_us else None,
        pending=pending,
    )
