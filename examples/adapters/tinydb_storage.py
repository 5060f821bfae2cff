"""TinyDB on a standfast collection: one document for each document of TinyDB.

    db = TinyDB(storage=StandfastStorage, store=standfast.open())
    db.table("players").insert({"name": "ann"})

TinyDB hands over its whole state at every write; only the documents that differ are written, in one
transaction.  The keys are `<table>/<id>`.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from tinydb.storages import Storage

import standfast


class StandfastStorage(Storage):
    """A storage of TinyDB; `store` stays open when the database is closed."""

    def __init__(self, store: standfast.Store, collection: str = "tinydb") -> None:
        self._store = store
        self._name = collection
        self._known: dict[str, Any] = {}

    def read(self) -> dict[str, dict[str, Any]] | None:
        """The tables as TinyDB knows them; None when there are none."""
        found = dict(self._store[self._name].items())
        self._known = deepcopy(found)  # TinyDB changes in place what it is given
        tables: dict[str, dict[str, Any]] = {}
        for key, document in found.items():
            table, _, number = key.rpartition("/")
            tables.setdefault(table, {})[number] = document
        return tables or None

    def write(self, data: dict[str, dict[str, Any]]) -> None:
        """Store what differs from what was read last."""
        wanted = {
            f"{table}/{number}": dict(document)
            for table, documents in data.items()
            for number, document in documents.items()
        }
        with self._store.batch() as batch:
            for key, document in wanted.items():
                if self._known.get(key) != document:
                    batch.put(self._name, key, document)
            for key in self._known.keys() - wanted.keys():
                batch.delete(self._name, key)
        self._known = deepcopy(wanted)
