"""One sequence of batches has one meaning: memory, SQLite and PostgreSQL agree on all of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from contract.suite.backend import BODILESS, FAR_US, KINDS, POINTED, make_lane, make_op
from standfast.backends.base import Backend, Change, Form, Load
from standfast.backends.memory import MemoryBackend
from standfast.backends.postgres.backend import PostgresBackend
from standfast.backends.sqlite.backend import SqliteBackend
from standfast.config.settings import parse_url
from standfast.document.codec import encode
from standfast.errors import StandfastError
from standfast.ops.types import Op

COLLECTIONS = ("things", "others")
KEYS = ("a", "b", "c'%")
SEQUENCES = itertools.count()


class Write(NamedTuple):
    """Ops that a lane sends for the first time; a gap of sequences may lie before them."""

    lane: int
    drafts: list[dict[str, Any]]
    gap: int


class Retry(NamedTuple):
    """Ops that a lane sends again, cut where it pleases, and new ones behind them."""

    lane: int
    start: int
    length: int
    drafts: list[dict[str, Any]]


class Bulk(NamedTuple):
    """One bulk load: (collection, form, [(key, text or None, error of the plan's version)])."""

    loads: list[tuple[str, Form | None, list[tuple[str, str | None, int]]]]


bodies = st.sampled_from(
    [
        *(None, True, 0, -0.0, 7, 1.5, 2**70, "", "text", "\x00", "\ud800"),
        *([], [1, "\x00"], {}, {"b": 1, "a": [1.0]}, {"n": 1, "l": []}, {"n": None, "l": None}),
    ]
)
pointers = st.sampled_from(["", "/n", "/l", "/l/0", "/new/deep", "/l/-", "no pointer"])


@st.composite
def drafts(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(KINDS))
    return {
        "kind": kind,
        "collection": draw(st.sampled_from(COLLECTIONS)),
        "key": draw(st.sampled_from(KEYS)),
        "body": None if kind in BODILESS else encode(draw(bodies)),
        "pointer": draw(pointers) if kind in POINTED else "",
        "if_version": draw(st.sampled_from([None, None, None, 0, 1, 2, 3, 5])),
        "ttl_us": None if kind == "delete" else draw(st.sampled_from([None, None, 0, FAR_US])),
        "group": draw(st.sampled_from([0, 0, 0, 1, 1, 2])),
    }


@st.composite
def bulks(draw: st.DrawFn) -> Bulk:
    errors = st.sampled_from([0] * 9 + [1])
    return Bulk(
        [
            (
                collection,
                draw(st.sampled_from([None, Form("array", "id"), Form("lines")])),
                [
                    (key, draw(st.none() | bodies.map(encode)), draw(errors))
                    for key in draw(st.lists(st.sampled_from(KEYS), unique=True))
                ],
            )
            for collection in draw(st.lists(st.sampled_from(COLLECTIONS), min_size=1, unique=True))
        ]
    )


batches = st.lists(drafts(), min_size=1, max_size=6)
lanes = st.integers(0, 1)
plans = st.lists(
    st.builds(Write, lanes, batches, st.sampled_from([0, 0, 0, 3]))
    | st.builds(Retry, lanes, st.integers(0, 8), st.integers(1, 6), st.lists(drafts(), max_size=2))
    | bulks(),
    min_size=1,
    max_size=8,
)


class Sender:
    """Turns a plan into calls, and so each backend gets exactly the same."""

    def __init__(self) -> None:
        self.prefix = f"{next(SEQUENCES)}/"
        self.lanes = [make_lane(), make_lane()]
        self.sent: tuple[list[Op], list[Op]] = ([], [])

    def ops(self, step: Write | Retry) -> list[Op]:
        sent = self.sent[step.lane]
        first = (sent[-1].seq if sent else 0) + 1
        again: list[Op] = []
        if isinstance(step, Write):
            first += step.gap
        else:
            again = sent[step.start : step.start + step.length]
            if step.drafts:
                # A batch has no holes below its new ops: they are sent behind all that was.
                again = sent[step.start :]
        lane = self.lanes[step.lane]
        new = [
            make_op(lane, seq, **draft | {"key": self.prefix + draft["key"]})
            for seq, draft in enumerate(step.drafts, first)
        ]
        sent += new
        return again + new

    def loads(self, step: Bulk, backend: Backend) -> list[Load]:
        """The loads as a plan makes them that has seen the rows, or nearly."""
        loads: list[Load] = []
        for collection, form, drafts in step.loads:
            rows = backend.images(collection, [self.prefix + key for key, *_ in drafts])
            inserts: list[tuple[str, str]] = []
            changes: list[Change] = []
            for draft, text, error in drafts:
                key = self.prefix + draft
                version = rows[key].version + error if key in rows else error
                if text is not None and version == 0:
                    inserts.append((key, text))
                else:
                    changes.append(Change(key, version, text))
            loads.append(Load(collection, form, inserts, changes))
        return loads


def answer(call: Callable[[], Any]) -> Any:
    """What a call returns, or the code of its error."""
    try:
        return call()
    except StandfastError as error:
        return error.code


def contents(backend: Backend, prefix: str) -> list[tuple[Any, ...]]:
    """All that a plan left: documents in order of creation, forms, and every next version."""
    found: list[tuple[Any, ...]] = []
    for collection in COLLECTIONS:
        rows = backend.dump(collection, in_order=True)
        found += [(row.key, row.text, row.version) for row in rows if row.key.startswith(prefix)]
        found.append((collection, backend.form(collection)))
        lane = make_lane()
        ops = [
            make_op(lane, seq, "put", prefix + key, "0", collection=collection)
            for seq, key in enumerate(KEYS, 1)
        ]
        # What lies in the graves shows only when something is put on top of them.
        found += [(outcome.seq, outcome.version) for outcome in backend.apply(ops).outcomes]
    return found


def run(backends: Sequence[Backend], plan: list[Write | Retry | Bulk]) -> None:
    sender = Sender()
    for number, step in enumerate(plan):
        if isinstance(step, Bulk):
            loads = sender.loads(step, backends[0])
            name = f"{sender.prefix}{number}"
            answers = [answer(partial(b.load, name, "loaded", loads)) for b in backends]
            answers = [dict(a) if isinstance(a, dict) else a for a in answers]
            records = [backend.run_record(name) for backend in backends]
            assert records == [records[0]] * len(backends), "the run's records"
        else:
            ops = sender.ops(step)
            if not ops:
                continue
            answers = [answer(partial(b.apply, ops)) for b in backends]
        assert answers == [answers[0]] * len(backends), f"step {number}"
    found = [contents(backend, sender.prefix) for backend in backends]
    assert found == [found[0]] * len(backends), "what is stored in the end"


def test_the_backends_agree_on_every_sequence_of_batches(pg_database: str, tmp_path: Path) -> None:
    """The same ops, retries, cuts, groups and loads: the same outcomes and the same documents."""
    backends = [
        MemoryBackend(),
        SqliteBackend(tmp_path / "fallback.db"),
        PostgresBackend(parse_url(pg_database)),
    ]

    @given(plans)
    def agree(plan: list[Write | Retry | Bulk]) -> None:
        run(backends, plan)

    try:
        agree()
    finally:
        for backend in backends:
            backend.close()
