"""All documents of a guilds' collection as one dict: loaded, changed in place, saved.

For code that was written for a JSON file.  Any text can be a key here, since such code has used
names besides guilds' ids.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from standfast.api.drive import Blocking, blocking, pause_before, plain
from standfast.bot.guilds import OLDER, SINGLE_ROW, Guilds, Part, Place, is_single_row
from standfast.document.codec import decode, encode
from standfast.document.merge import three_way
from standfast.document.names import key_text
from standfast.document.values import MISSING, Missing
from standfast.errors import ConfigError, ConflictError, DataError, Unavailable
from standfast.limits import MAX_UPDATE_ATTEMPTS

logger = logging.getLogger("standfast")


class LoadedGuilds(dict[str, Any]):
    """What `load` returns: a dict by guild, which knows what was stored when it was loaded.

    So what you save is compared with what *you* have loaded, whoever else loads and saves.
    """

    def __init__(self, documents: Mapping[str, Any] | None = None) -> None:
        super().__init__(documents or {})
        self.stored = {key: encode(value) for key, value in self.items()}


class AsyncGuildDocuments(Part):
    """The documents of one collection, by guild: `bot.documents(collection)`."""

    def __init__(self, guilds: Guilds, collection: str, *, file: str | Path | None) -> None:
        super().__init__(guilds)
        self.collection = collection
        self._file = None if file is None else Path(file)

    def allows(self, key: str | int) -> bool:
        """Whether this process sees and writes the document of this key; no I/O."""
        return self._guilds.guard.allows(key_text(key))

    # ---- reading

    async def load(self) -> LoadedGuilds:
        """The documents of all guilds that this process may see.

        ConfigError("not_migrated") when nothing is stored and the JSON file of former times is
        still there.  In an outage from the mirror, when that holds the whole collection;
        Unavailable("not_mirrored") otherwise.
        """
        found = await self._guilds.scan(self.collection, any_key=True)
        # A process of one guild does not know of the others, of which everything may be stored.
        is_limited = self._guilds.guard.environment.only_guild is not None
        if not found and not is_limited and self._file is not None and _holds_some(self._file):
            raise ConfigError(
                f"{self._file} exists, and nothing of it is stored yet",
                code="not_migrated",
                hint=f"move it: standfast migrate {self._file}; or, to start anew, rename it",
            )
        return LoadedGuilds({document.key: document.value for document in found})

    async def get(self, key: str | int, default: Any = None) -> Any:
        """The document of a key, or `default`: without one, and where this process sees none.

        `default`, where there is a row of all guilds, is that row.
        """
        key = key_text(key)
        if key == SINGLE_ROW and self.collection in OLDER:
            row = await self._guilds.collection(self.collection).read(SINGLE_ROW)
            if row is not None and is_single_row(row.value):
                return dict(await self.load())
        if not self.allows(key):
            return default
        value = (await self._guilds.locate(self.collection, key)).value
        return default if isinstance(value, Missing) else value

    # ---- writing

    async def save(self, data: Mapping[str, Any], *, delete: bool = True) -> None:
        """Write what changed since `data` was loaded, and delete what was removed from it.

        What others have changed meanwhile is kept, field by field.  A dict that was not loaded here
        replaces the documents of the guilds that are in it; nothing is deleted then, nor without
        `delete`.  Each guild is written by itself; it works during an outage too.  Guilds that this
        process may not write are left as they are, with a warning in the log.

        DataError, before anything is written, for what JSON cannot hold.
        """
        known = data.stored if isinstance(data, LoadedGuilds) else {}
        texts = {key_text(key): _text(key, value) for key, value in data.items()}
        changed = {key: text for key, text in texts.items() if known.get(key) != text}
        removed = [key for key in known if key not in texts] if delete else []
        mine = [key for key in (*changed, *removed) if self._may_write(key)]
        if not mine:
            return
        await self._guilds.guard.admit()
        for key in mine:
            base = decode(known[key]) if key in known else MISSING
            if key in changed:
                await self._merge(key, base, decode(changed[key]))
                known[key] = changed[key]
            else:
                await self._delete(key, base)
                known.pop(key, None)

    async def put(self, key: str | int, value: Any) -> None:
        """Replace the document of a key; where this process may not, the log has a warning.

        `default` with an object of guilds stands for all of them, as older bots mean it.
        """
        key = key_text(key)
        if key == SINGLE_ROW and value and is_single_row(value):
            await self.save(value, delete=False)
        else:
            await self.save({key: value}, delete=False)

    async def delete_older(self, days: float) -> int:
        """Delete what nobody has changed for so many days; returns how many documents.

        Of guilds that share one row nothing is deleted, since nobody knows how old each one is.
        """
        limit = self._guilds.clock() - timedelta(days=days)
        await self._guilds.guard.admit()
        calls = self._guilds.collection(self.collection)
        count = 0
        for document in await self._guilds.scan(self.collection, any_key=True):
            place = await self._guilds.locate(self.collection, document.key)
            if place.in_single_row or document.updated_at >= limit:
                continue
            try:
                await calls.delete(document.key, if_version=document.version)
            except ConflictError:
                continue  # it was changed a moment ago
            count += 1
        return count

    def _may_write(self, key: str) -> bool:
        if self.allows(key):
            return True
        logger.warning(
            "`%s`, guild %s: nothing was written, since this process is of %s",
            *(self.collection, key, self._guilds.guard.environment),
        )
        return False

    async def _merge(self, key: str, base: Any, mine: Any) -> None:
        """Write a document that was made from `base`; without a base it replaces what is there."""

        def merged(theirs: Any) -> Any:
            is_blind = isinstance(base, Missing) or isinstance(theirs, Missing)
            return mine if is_blind else three_way(base, mine, theirs).value

        calls = self._guilds.collection(self.collection)
        for attempt in range(MAX_UPDATE_ATTEMPTS):
            await pause_before(attempt, self._guilds.handle.loop())
            try:
                place = await self._guilds.locate(self.collection, key)
            except Unavailable:  # nothing is known of it here: as the caller has it
                await calls.put(key, mine)
                return
            try:
                if place.in_single_row:
                    await calls.update(SINGLE_ROW, _member_change(place, merged))
                else:
                    await calls.update(key, merged, default=mine)
            except ConflictError as error:
                if error.code != "missing":  # the row of all guilds: it was split meanwhile
                    raise
                continue
            return

    async def _delete(self, key: str, base: Any) -> None:
        """Delete a document, unless it was changed since."""
        place = await self._guilds.locate(self.collection, key)
        if isinstance(place.value, Missing) or encode(place.value) != encode(base):
            return
        calls = self._guilds.collection(self.collection)
        if place.in_single_row:
            await calls.update(SINGLE_ROW, lambda row: {k: row[k] for k in row if k != key})
            return
        try:
            await calls.delete(key, if_version=place.version)
        except ConflictError:
            return
        except Unavailable as error:
            if error.code != "needs_primary":
                raise
            await calls.delete(key)


class GuildDocuments(Blocking[AsyncGuildDocuments]):
    """The documents of one collection, by guild, as `AsyncGuildDocuments`.  Thread-safe."""

    allows = plain(AsyncGuildDocuments.allows)
    load = blocking(AsyncGuildDocuments.load)
    get = blocking(AsyncGuildDocuments.get)
    save = blocking(AsyncGuildDocuments.save)
    put = blocking(AsyncGuildDocuments.put)
    delete_older = blocking(AsyncGuildDocuments.delete_older)


def _member_change(place: Place, merged: Any) -> Any:
    def change(row: Any) -> Any:
        return {**row, place.key: merged(row.get(place.key, MISSING))}

    return change


def _text(key: object, value: Any) -> str:
    try:
        return encode(value)
    except DataError as error:
        raise error.about(f"the document of guild {key}") from None


def _holds_some(path: Path) -> bool:
    """Whether a file is there that is more than an empty object."""
    try:
        with path.open("rb") as file:
            return b"".join(file.read(64).split()) not in (b"", b"{}", b"[]")
    except OSError:
        return False
