"""One sequence of replays has one meaning: memory, SQLite and PostgreSQL agree on all of it.

PostgreSQL takes part over a line, as the engine uses it: plain puts go their short way there.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from contract.suite.backend import BODILESS, FAR_US, KINDS, POINTED, make_lane, make_op
from standfast.backends.base import Backend
from standfast.backends.memory import MemoryBackend
from standfast.backends.postgres.backend import PostgresBackend
from standfast.backends.sqlite.backend import SqliteBackend
from standfast.config.settings import parse_url
from standfast.document.codec import encode
from standfast.errors import Unavailable
from standfast.ops.reconcile import OnConflict
from standfast.ops.types import Observed, Op, Outcome

COLLECTIONS = ("things", "others")
KEYS = ("a", "b")
PLANS = itertools.count()


class Batch(NamedTuple):
    """What a lane replays: the ops again from `back` ops before its end on, and new ones."""

    lane: int
    back: int
    drafts: list[dict[str, Any]]
    on_conflict: OnConflict


def resolver(base: Any, mine: Any, theirs: Any) -> Any:
    if theirs == 7:
        raise ValueError("no")
    return [mine, theirs]


bodies = st.sampled_from(
    [None, 7, "text", "\x00", [], [1.0], {}, {"b": 1, "aa": 2}, {"b": 2, "aa": 2}, {"b": 1}]
)


@st.composite
def drafts(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(KINDS))
    base = draw(st.none() | bodies.map(encode))
    return {
        "kind": kind,
        "collection": draw(st.sampled_from(COLLECTIONS)),
        "key": draw(st.sampled_from(KEYS)),
        "body": None if kind in BODILESS else encode(draw(bodies)),
        "pointer": draw(st.sampled_from(["", "/b"])) if kind in POINTED else "",
        "if_version": draw(st.sampled_from([None, None, None, 0, 1, 2, 3])),
        "ttl_us": None if kind == "delete" else draw(st.sampled_from([None, None, 0, FAR_US])),
        "group": draw(st.sampled_from([0, 0, 0, 1, 2])),
        "replay": draw(st.sampled_from([True, True, True, False])),
        "seen": "present" if base else draw(st.sampled_from(["unknown", "absent"])),
        "base": base,
        "reject": draw(st.sampled_from(["", "", "", "", "held"])),
        "at_us": draw(st.sampled_from([1, 10**17])),
        "pending": draw(st.lists(st.integers(1, 6), max_size=2, unique=True)),
    }


@st.composite
def plain_puts(draw: st.DrawFn) -> list[dict[str, Any]]:
    """What goes the short way where there is one."""
    plain = {"replay": False, "seen": "unknown", "base": None, "reject": "", "at_us": 0}
    collection = draw(st.sampled_from(COLLECTIONS))
    return [
        {"kind": "put", "collection": collection, "key": key, "body": encode(draw(bodies)), **plain}
        | {"if_version": None, "pending": []}
        for key in draw(st.lists(st.sampled_from(KEYS), min_size=1, unique=True))
    ]


plans = st.lists(
    st.builds(
        Batch,
        st.integers(0, 1),
        st.integers(0, 4),
        st.lists(drafts(), max_size=5) | plain_puts(),
        st.sampled_from(["mine", "theirs", "newest", resolver]),
    )
    | st.integers(0, 1),
    min_size=1,
    max_size=8,
)


def op_of(lane: str, seq: int, prefix: str, draft: dict[str, Any]) -> Op:
    marks = {n: draft[n] for n in ("replay", "seen", "base", "reject", "at_us")}
    if draft["if_version"] is not None:
        marks["pending"] = tuple((lane, number) for number in draft["pending"] if number < seq)
    plain = {n: value for n, value in draft.items() if n not in marks and n != "pending"}
    op = make_op(lane, seq, **plain | {"key": prefix + draft["key"]})
    return msgspec.structs.replace(op, **marks)


def lasting(outcome: Outcome) -> Outcome:
    """An outcome as every way tells it: a plain put that comes again need not tell its version."""
    if outcome.status != "skipped":
        return outcome
    return msgspec.structs.replace(outcome, version=None)


def untimed(observed: Observed) -> Any:
    """States by place, without the times, which are each database's own; and the watermarks."""
    states = {(s.collection, s.key): (s.text, s.version) for s in observed.states}
    return states, observed.watermarks


def play(backend: Backend, steps: Sequence[list[Op] | str], policies: Sequence[Any]) -> list[Any]:
    """All that a backend tells of a plan; a step that is a text fences that lane."""
    directory, told = make_lane(), list[Any]()
    lanes: set[str] = set()
    for step, policy in zip(steps, policies, strict=True):
        if isinstance(step, str):
            told.append(backend.fence([step], directory=directory))
            continue
        try:
            applied = backend.apply(step, directory=directory, on_conflict=policy)
        except Unavailable as error:
            told.append(error.code)
            continue
        lanes.update(op.lane for op in step)
        observed = untimed(applied.observed)
        told += [list(map(lasting, applied.outcomes)), applied.watermark, observed]
        seen: dict[Any, Any] = {}
        applied_ops = [op for op in step if not op.reject]  # a rejected one touches no table (R21)
        for collection in {op.collection for op in applied_ops}:
            keys = sorted({op.key for op in applied_ops if op.collection == collection})
            states, watermarks = untimed(backend.observe(collection, keys, directory=directory))
            assert watermarks == observed[1], f"{backend.kind}: the watermarks after a batch"
            seen |= states
        assert seen == observed[0], f"{backend.kind}: what is observed after a batch"
    entries = [e for e in backend.conflicts(limit=100_000) if e.lane in lanes]
    told.append([msgspec.structs.replace(entry, id=0, at_us=0) for entry in entries])
    return told


def test_the_backends_agree_on_every_replay(pg_database: str, tmp_path: Path) -> None:
    """I2, I5, R12: the same replays, cut and repeated in the same way: the same outcomes, states,
    watermarks and conflict records."""
    line = PostgresBackend(parse_url(pg_database)).new_handle()
    line.connect(time.monotonic() + 60)
    backends = [MemoryBackend(), SqliteBackend(tmp_path / "fallback.db"), line]

    @given(plans)
    def agree(plan: list[Batch | int]) -> None:
        prefix, lanes = f"{next(PLANS)}/", (make_lane(), make_lane())
        sent: tuple[list[Op], list[Op]] = ([], [])
        steps: list[list[Op] | str] = []
        for step in plan:
            if isinstance(step, int):
                steps.append(lanes[step])
                continue
            mine = sent[step.lane]
            again = mine[max(0, len(mine) - step.back) :]
            first = len(mine) + 1
            mine += [
                op_of(lanes[step.lane], seq, prefix, draft)
                for seq, draft in enumerate(step.drafts, first)
            ]
            steps.append(again + mine[first - 1 :])
        policies = ["mine" if isinstance(step, int) else step.on_conflict for step in plan]
        kept = [(s, p) for s, p in zip(steps, policies, strict=True) if s]
        told = [play(b, [s for s, _ in kept], [p for _, p in kept]) for b in backends]
        assert told == [told[0]] * len(backends)

    try:
        agree()
    finally:
        for backend in backends:
            backend.close()
