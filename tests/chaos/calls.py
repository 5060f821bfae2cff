"""Calls to a store, each between its two lines of history."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import standfast
from chaos.api import read
from chaos.history import History, Kind
from standfast.api.sync import Store

LISTS, COUNTERS, REGISTERS, CLAIMS = COLLECTIONS = ("lists", "counters", "registers", "claims")


class Ended(NamedTuple):
    """How a call ended, and what it told."""

    kind: Kind
    fields: dict[str, Any]


class Calls:
    """What one process asks of its store; errors of the tree become the end of the call."""

    def __init__(self, store: Store, history: History) -> None:
        self.store = store
        self.history = history

    def append(self, key: str, token: str) -> Ended:
        def add(c: Any) -> dict[str, Any]:
            found: list[Any] | None = c.append(key, "", token)
            # The elements themselves are in the reads.
            return {"result": None if found is None else len(found)}

        return self._call("append", LISTS, key, token, add)

    def increment(self, key: str, n: int) -> Ended:
        return self._call(
            *("increment", COUNTERS, key, n), lambda c: {"result": c.increment(key, "", n)}
        )

    def put(self, key: str, value: str) -> Ended:
        return self._call("put", REGISTERS, key, value, lambda c: _receipt(c.put(key, value)))

    def claim(self, key: str, token: str) -> Ended | None:
        """Add a token to a list by compare-and-set; None when the list could not be read."""
        try:
            found = self.store[CLAIMS].read(key)
        except standfast.Unavailable:
            return None
        value = [*(found.value if found else []), token]
        # What a version means with own pending ops laid over it is the store's to judge.
        version = found.version if found else 0

        def put(c: Any) -> dict[str, Any]:
            return {**_receipt(c.put(key, value, if_version=version)), "result": value}

        return self._call("cas", CLAIMS, key, token, put)

    def read(self, collection: str, key: str, *, local: bool) -> Ended:
        def see(c: Any) -> dict[str, Any]:
            found = read(c, key, local=local)
            if found is None:
                return {"result": None}
            return {"result": found.value, "source": found.source}

        return self._call("read", collection, key, "local" if local else "primary", see)

    def _call(
        self,
        f: str,
        collection: str,
        key: str,
        value: Any,
        call: Callable[[Any], dict[str, Any]],
    ) -> Ended:
        i = self.history.invoke(f, collection, key, value)
        try:
            ended = Ended("ok", call(self.store[collection]))
        except standfast.DeadlineExceeded as error:
            ended = Ended("info", _told(error))
        except standfast.ConflictError as error:
            # "moved" says that it took effect, and that only the new value is not known.
            ended = Ended("ok" if error.code == "moved" else "fail", _told(error))
        except (standfast.DataError, standfast.Unavailable) as error:
            ended = Ended("fail", _told(error))
        except Exception as error:  # a bug, which the checkers report
            ended = Ended("info", {**_told(error), "text": str(error), "foreign": True})
        self.history.done(i, ended.kind, **ended.fields)
        return ended


def _receipt(receipt: standfast.Receipt) -> dict[str, Any]:
    return {
        "version": receipt.version,
        "durable_on": receipt.durable_on,
        "lane": receipt.lane,
        "seq": receipt.seq,
    }


def _told(error: BaseException) -> dict[str, Any]:
    return {"error": f"{type(error).__name__}({getattr(error, 'code', '')})"}
