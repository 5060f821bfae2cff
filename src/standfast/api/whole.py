"""Whole collections: copied and renamed, page by page, so that it can be taken up again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from standfast.api.collection import Documents, KeyRange
from standfast.api.store import StoreHandle
from standfast.document.codec import decode
from standfast.document.merge import same_value
from standfast.engine.write_queue import Result
from standfast.errors import ConfigError, ConflictError, Unavailable
from standfast.limits import MAX_UPDATE_ATTEMPTS
from standfast.ops.build import build_op
from standfast.ops.types import ABSENT, Op, Row

#: Documents that one transaction copies, or moves: a move is two writes.
_PAGE = 500


async def copy(handle: StoreHandle, source: str, target: str) -> int:
    """Put every document of one collection into another; returns how many there are."""
    _require_two(source, target)
    count, span = 0, KeyRange()
    while True:
        rows = await _page(handle, source, span)
        results = await _submit(handle, [_put(handle, target, row) for row in rows])
        await _require_same(handle, target, rows, results)
        count += len(rows)
        if len(rows) < _PAGE:
            return count
        span = msgspec.structs.replace(span, after=rows[-1].key)


async def move(handle: StoreHandle, source: str, target: str) -> int:
    """Move every document of one collection to another, each as a whole; returns how many."""
    _require_two(source, target)
    count = 0
    for _ in range(MAX_UPDATE_ATTEMPTS):
        again, span = False, KeyRange()
        while True:
            rows = await _page(handle, source, span)
            ops: list[Op] = []
            for number, row in enumerate(rows, 1):
                gone = build_op("delete", source, row.key, if_version=row.version, group=number)
                ops += [msgspec.structs.replace(_put(handle, target, row), group=number), gone]
            results = await _submit(handle, ops)
            puts, deletes = results[::2], results[1::2]
            _require_free(target, puts)
            moved = sum(result.outcome.status == "applied" for result in deletes)
            count += moved
            again = again or moved < len(rows)  # those that others changed meanwhile
            if len(rows) < _PAGE:
                break
            span = msgspec.structs.replace(span, after=rows[-1].key)
        if not again and not await _is_left(handle, source):
            return count
    raise _contended(source)


async def drop(handle: StoreHandle, name: str, *, if_empty: bool = False) -> bool:
    """Remove a collection with its table; whether there was one."""
    try:
        return await handle.engine.drop(name, if_empty=if_empty, loop=handle.loop())
    except Unavailable as error:
        if error.code != "not_mirrored":
            raise
        raise Unavailable(
            f"drop of `{name}`: only the primary can do it, and it did not in time",
            code="needs_primary",
            hint="try again later; delete_many(keys) is journaled meanwhile",
        ) from error


async def _is_left(handle: StoreHandle, source: str) -> bool:
    """Whether documents came into a collection that was moved away; else it is dropped.

    Where that is not allowed, it stays behind, empty.
    """
    try:
        await drop(handle, source, if_empty=True)
    except ConflictError:
        return True
    except ConfigError:
        pass
    return False


async def _page(handle: StoreHandle, name: str, span: KeyRange) -> list[Row]:
    documents: Documents[Any] = Documents(handle, name)
    try:
        return await documents.page(span, size=_PAGE, by_primary=True)
    except Unavailable as error:
        if error.code != "not_mirrored":
            raise
        raise Unavailable(
            f"`{name}`: only the primary can say which documents there are, and it did not in time",
            code="needs_primary",
            hint="the same call again, later, goes on where this one stopped",
        ) from error


async def _submit(handle: StoreHandle, ops: Sequence[Op]) -> list[Result]:
    if not ops:
        return []
    return await handle.engine.submit(ops, loop=handle.loop(), independent=True)


def _put(handle: StoreHandle, target: str, row: Row) -> Op:
    """The document in its new place, if that is free: with its exact text, and what it has left."""
    op = build_op("put", target, row.key, body=None, if_version=ABSENT)
    ttl_us = None
    if row.expires_us is not None:
        ttl_us = max(1, row.expires_us - handle.engine.server_now_us())
    return msgspec.structs.replace(op, body=row.text, exact=None, ttl_us=ttl_us)


async def _require_same(
    handle: StoreHandle, target: str, rows: Sequence[Row], results: Sequence[Result]
) -> None:
    """What was there already must be the same document: left by a copy that was cut short."""
    documents: Documents[Any] = Documents(handle, target)
    for row, result in zip(rows, results, strict=True):
        if result.outcome.status != "refused":
            continue
        found = (await documents.read_one(row.key)).view.text
        if found is None or not same_value(decode(found), decode(row.text)):
            raise _taken(target, row.key)


def _require_free(target: str, puts: Sequence[Result]) -> None:
    for put in puts:
        if put.outcome.status == "refused" and put.outcome.code != "batch":
            raise _taken(target, put.op.key)


def _require_two(source: str, target: str) -> None:
    if source == target:
        raise ConfigError(
            f"`{source}` to itself", code="usage", hint="give the collection another name"
        )


def _taken(target: str, key: str) -> ConflictError:
    return ConflictError(
        f"key {key!r} in `{target}`: there is another document already; it was left as it is",
        hint="give the name of an empty collection, or delete the document first",
    )


def _contended(name: str) -> ConflictError:
    return ConflictError(
        f"rename of `{name}`: others kept writing to it",
        code="contended",
        hint="stop what writes to it; the same call again goes on where this one stopped",
    )
