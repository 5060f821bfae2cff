"""What all parts of the contract share: the fixture, names, keys, and short ways to write ops."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec
import pytest

from standfast.backends.base import Backend
from standfast.ops.batch import Place, places
from standfast.ops.types import Applied, ConflictRecord, Kind, Op, Outcome, Row, State

#: Keys that something on the way to a database might take for something else.
ODD_KEYS = (
    "",
    " ",
    "'",
    '"',
    "'; DROP TABLE things; --",
    "%",
    "_",
    "a%b_c",
    "\\",
    "\\N",
    "\\.",
    "a\\",
    "\t",
    "a\nb",
    "a\r\nb",
    "\x01",
    "\x7f",
    "NULL",
    "null",
    "{}",
    "{a,b}",
    "[1,2]",
    "$1",
    "%s",
    "?",
    ":a",
    "é",
    "e\u0301",
    "\u2028",
    "\ufeff",
    "\uffff",
    "🪸",
    "ß",
    "SS",
    "Key",
    "key",
    "0",
    "00",
    "-1",
    "1e3",
    "a" * 1024,
    "é" * 512,
)


def make_lane() -> str:
    """A fresh lane: the text of a random UUID."""
    return str(uuid.uuid4())


def make_op(
    lane: str,
    seq: int,
    kind: Kind,
    key: str,
    body: str | None = None,
    *,
    collection: str = "things",
    pointer: str = "",
    if_version: int | None = None,
    ttl_us: int | None = None,
    group: int = 0,
) -> Op:
    """An op with its lane and sequence; `body` is JSON text."""
    return Op(
        lane=lane,
        seq=seq,
        kind=kind,
        collection=collection,
        key=key,
        body=body,
        pointer=pointer,
        if_version=if_version,
        ttl_us=ttl_us,
        group=group,
    )


class ContractBase:
    """The requirements on a test class, and the words that the tests are written in."""

    #: Collections that the tests write to; with a table that is there already, its name.
    collection: ClassVar[str] = "things"
    other: ClassVar[str] = "others"
    #: Keys that are hard to store; for a key column of integers, its odd integers.
    odd_keys: ClassVar[tuple[str, ...]] = ODD_KEYS

    #: Whether the role may create tables; else what has none is said to be out of reach.
    may_create: ClassVar[bool] = True

    @pytest.fixture
    def backend(self) -> Backend:
        """A fresh backend without documents; the test class provides it."""
        raise NotImplementedError("a subclass of BackendContract needs a fixture `backend`")

    # ---- short ways

    def op(
        self,
        lane: str,
        seq: int,
        kind: Kind,
        key: str,
        body: str | None = None,
        *,
        collection: str | None = None,
        pointer: str = "",
        if_version: int | None = None,
        ttl_us: int | None = None,
        group: int = 0,
        **marks: Any,
    ) -> Op:
        """An op on `collection`; `marks` are the fields that a journal sets."""
        op = make_op(
            *(lane, seq, kind, key, body),
            collection=collection or self.collection,
            pointer=pointer,
            if_version=if_version,
            ttl_us=ttl_us,
            group=group,
        )
        return msgspec.structs.replace(op, **marks) if marks else op

    def replay(self, lane: str, seq: int, kind: Kind, key: str, body: str | None, **how: Any) -> Op:
        """An op as it comes out of a journal; a `base` of None means that none was known."""
        seen = how.setdefault("seen", "present" if how.get("base") else "unknown")
        assert (seen == "present") == (how.get("base") is not None), "a base is what was seen"
        return self.op(lane, seq, kind, key, body, replay=True, **how)

    def write(
        self,
        backend: Backend,
        kind: Kind,
        key: str,
        body: str | None = None,
        *,
        collection: str | None = None,
        pointer: str = "",
        if_version: int | None = None,
        ttl_us: int | None = None,
    ) -> Outcome:
        """One op by a lane of its own."""
        op = self.op(
            *(make_lane(), 1, kind, key, body),
            collection=collection,
            pointer=pointer,
            if_version=if_version,
            ttl_us=ttl_us,
        )
        (outcome,) = backend.apply([op]).outcomes
        return outcome

    def put_all(self, backend: Backend, texts: dict[str, str]) -> Applied:
        """Put documents in one batch, in the order of the mapping."""
        lane = make_lane()
        return backend.apply(
            [
                self.op(lane, seq, "put", key, text)
                for seq, (key, text) in enumerate(texts.items(), 1)
            ]
        )

    def expired(self, backend: Backend, key: str, body: str = '{"old":1}') -> int:
        """Leave a row behind that has expired; returns its version."""
        outcome = self.write(backend, "put", key, body, ttl_us=1)
        assert outcome.version is not None
        # A microsecond is over before a second call begins; a coarse clock may need a few.
        for _ in range(1_000_000):
            if self.row(backend, key) is None:
                return outcome.version
        raise AssertionError("a document with a time to live of 1 microsecond never expired")

    def row(self, backend: Backend, key: str, *, collection: str | None = None) -> Row | None:
        """One document's row, or None."""
        return backend.read(collection or self.collection, [key]).get(key)

    def text(self, backend: Backend, key: str, *, collection: str | None = None) -> str | None:
        """One document's text, or None."""
        row = self.row(backend, key, collection=collection)
        return row.text if row else None

    def version(self, backend: Backend, key: str) -> int | None:
        """One document's version, or None."""
        row = self.row(backend, key)
        return row.version if row else None

    def expiry(self, backend: Backend, key: str) -> int | None:
        """When a document ends; None: never."""
        row = self.row(backend, key)
        assert row is not None, "the document is there"
        return row.expires_us

    def states(
        self, backend: Backend, ops: Sequence[Op], directory: str | None = None
    ) -> tuple[dict[Place, State], dict[str, int]]:
        """What `observe` tells of the places that these ops touch, and the watermarks."""
        found: dict[Place, State] = {}
        watermarks: dict[str, int] = {}
        for collection, keys in places(ops).items():
            observed = backend.observe(collection, keys, directory=directory)
            found.update({(s.collection, s.key): s for s in observed.states})
            watermarks = observed.watermarks
        return found, watermarks

    def lines(self, backend: Backend) -> list[tuple[Any, ...]]:
        """The conflicts as (seq, kind, reason, base, mine, theirs, state, resolution)."""
        return [
            (e.seq, e.kind, e.reason, e.base, e.mine, e.theirs, e.state, e.resolution)
            for e in self.conflicts(backend)
        ]

    def conflicts(self, backend: Backend) -> list[ConflictRecord]:
        """Every conflict record."""
        return backend.conflicts(limit=10_000)

    def contents(self, backend: Backend, *, collection: str | None = None) -> dict[str, str]:
        """Every document's text by key."""
        return {row.key: row.text for row in backend.dump(collection or self.collection)}


def told(outcomes: Sequence[Outcome]) -> list[tuple[int, str, int | None, str]]:
    """Outcomes as (sequence, status, version, code): what of them is part of the contract."""
    return [(o.seq, o.status, o.version, o.code) for o in outcomes]
