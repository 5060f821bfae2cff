"""What the calls of every part share: guilds as keys, the guard, and decisions on one document."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, cast

from standfast.api.collection import CollectionCalls
from standfast.api.drive import Steps, pause_before
from standfast.api.store import BatchCalls, StoreCalls
from standfast.bot.environment_check import Guard
from standfast.bot.ids import GuildId, guild_key, is_guild_key
from standfast.engine.interfaces import Engine
from standfast.errors import ConfigError, ConflictError, CorruptData, Unavailable
from standfast.limits import MAX_UPDATE_ATTEMPTS
from standfast.ops.types import ABSENT, Document, Receipt

VIEWS = "persisted_views"
SETTINGS = "guild_settings"
WAITLISTS = "waitlist_data"
#: Where the documents of a guild are.
COLLECTIONS = (VIEWS, SETTINGS, WAITLISTS)

Members = dict[str, Any]
"""The members of a guild's document."""


class Guilds:
    """The documents of guilds: a key is a guild's id, and every access passes the guard."""

    def __init__(self, store: StoreCalls, *, guard: Guard, clock: Callable[[], datetime]) -> None:
        self.guard = guard
        self._store = store
        self._clock = clock
        self._collections = {name: CollectionCalls(store, name) for name in COLLECTIONS}

    @property
    def engine(self) -> Engine:
        """The engine that serves the calls."""
        return self._store.engine

    def clock(self) -> datetime:
        """The time now, aware and in UTC."""
        now = self._clock()
        if now.utcoffset() is None:
            raise ConfigError(
                "the clock tells a time without a timezone",
                code="usage",
                hint="clock=lambda: datetime.now(UTC)",
            )
        return now.astimezone(UTC)

    def collection(self, name: str) -> CollectionCalls:
        """The calls on a collection."""
        return self._collections[name]

    def batch(self) -> BatchCalls:
        """Writes that stand or fall together; `begin` and `commit` it."""
        return BatchCalls(self._store)

    def key(self, guild_id: GuildId) -> str:
        """The key of a guild's documents.  DataError("bad_guild")."""
        return guild_key(guild_id)

    def readable(self, guild_id: GuildId) -> str:
        """The key, when this process may see the guild; else ConfigError("wrong_environment")."""
        key = guild_key(guild_id)
        self.guard.check(key)
        return key

    def writable(self, guild_id: GuildId) -> Steps[str]:
        """The key, when this process may write there; else ConfigError("wrong_environment").

        The first time, the store's environment is read, and stamped when it has none.
        """
        key = self.readable(guild_id)
        yield from self.guard.admit()
        return key

    # ---- reading

    def members(self, collection: str, guild_id: GuildId) -> Steps[Members]:
        """The members of a guild's document; none when there is no document.

        While the primary is away, as the mirror knows it: Unavailable("not_mirrored") when it
        does not.  CorruptData("not_an_object") when the document is something else.
        """
        key = self.readable(guild_id)
        value = yield from self.collection(collection).get(key, {})
        return _members(value, collection, key)

    def scan(self, collection: str) -> Steps[list[Document]]:
        """The documents of all guilds that this process may see, in order of their keys.

        Keys that are no guild's id are left out.  While the primary is away the documents come
        from the mirror, when it holds the whole collection; Unavailable("not_mirrored") otherwise.
        """
        calls = self.collection(collection)
        only = self.guard.environment.only_guild
        if only is not None:  # a single document needs no scan
            found = yield from calls.read(only)
            return [] if found is None else [found]
        documents: list[Document] = []
        for steps in calls.pages(""):
            rows = yield from steps
            documents += [calls.document_of_row(row) for row in rows if is_guild_key(row.key)]
        return documents

    def documents(self, collection: str) -> Steps[list[tuple[str, Any]]]:
        """(guild id, value) of all guilds that this process may see, as `scan` finds them."""
        found = yield from self.scan(collection)
        return [(document.key, document.value) for document in found]

    # ---- writing

    def patch(self, collection: str, guild_id: GuildId, patch: Members) -> Steps[Receipt]:
        """Change members of a guild's document by a merge patch; it goes on in an outage."""
        key = yield from self.writable(guild_id)
        return (yield from self.collection(collection).patch(key, patch))

    def patch_seen(
        self,
        collection: str,
        guild_id: GuildId,
        patch_of: Callable[[Members | None], Members | None],
    ) -> Steps[bool]:
        """Patch a guild's document by what is in it; False when `patch_of` gives no patch.

        For removals, which go on in an outage: the members are None where they are not known then.
        """
        key = yield from self.writable(guild_id)
        try:
            members = yield from self.members(collection, guild_id)
        except Unavailable:
            members = None  # if it cannot be written either, the patch says so
        patch = patch_of(members)
        if patch is None:
            return False
        yield from self.collection(collection).patch(key, patch)
        return True

    def change(
        self,
        collection: str,
        guild_id: GuildId,
        change: Callable[[Members], Members | None],
        *,
        also: Callable[[BatchCalls], None] | None = None,
    ) -> Steps[Members]:
        """As `decide`, where `change` asks nobody: it is a plain function."""

        def steps(members: Members) -> Steps[Members | None]:
            yield from ()
            return change(members)

        return (yield from self.decide(collection, guild_id, steps, also=also))

    def decide(
        self,
        collection: str,
        guild_id: GuildId,
        change: Callable[[Members], Steps[Members | None]],
        *,
        also: Callable[[BatchCalls], None] | None = None,
    ) -> Steps[Members]:
        """Decide something on a guild's document, so that of several callers only one does.

        Compare-and-set: `change` gets the members (none: `{}`) and returns the new ones, or None
        when there is nothing to do; it may ask others meanwhile, and be called several times.
        Returns the members as they are then.  `also(batch)` adds writes, with conditions of their
        own perhaps, that stand or fall together with it; it is called again for each attempt.

        The primary decides: Unavailable("needs_primary") while it is away, unless the store is
        its `sole_writer`.  ConflictError: a condition of `also` does not hold; "contended": others
        were faster 50 times.
        """
        key = yield from self.writable(guild_id)
        calls = self.collection(collection)
        lost: ConflictError | None = None
        version = ABSENT
        for attempt in range(MAX_UPDATE_ATTEMPTS):
            yield from pause_before(attempt)
            found = yield from calls.read(key)
            before, version = version, ABSENT if found is None else found.version
            if lost is not None and _same_version(version, before):
                raise lost  # it was not our document that had moved
            new = yield from change({} if found is None else _members(found.value, collection, key))
            if new is None:
                return {} if found is None else _members(found.value, collection, key)
            batch = self.batch()
            batch.begin()
            batch.put(collection, key, new, if_version=version)
            if also is not None:
                also(batch)
            try:
                yield from batch.commit()
            except ConflictError as error:
                lost = error
                continue
            return new
        raise ConflictError(
            f"change of guild {key} in `{collection}`: other writers were faster"
            f" {MAX_UPDATE_ATTEMPTS} times",
            code="contended",
            hint="try again",
        )


def _same_version(one: int, other: int) -> bool:
    """Whether two reads found the same document, own pending writes included."""
    pending = [getattr(version, "pending", ()) for version in (one, other)]
    return one == other and pending[0] == pending[1]


def _members(value: Any, collection: str, key: str) -> Members:
    if isinstance(value, dict):
        return cast("Members", value)
    raise CorruptData(
        f"the document of guild {key} in `{collection}` is not an object",
        code="not_an_object",
        hint=f"look at it: standfast get {collection} {key}",
    )
