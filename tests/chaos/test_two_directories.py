"""Two machines edit one document while one of them is cut off: nobody's data is lost (I5)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import standfast
from support.cluster import Cluster
from support.faulty import eventually
from support.pg import Sql
from support.proxy import Proxy

_DEADLINE_S = 3.0
_FLUSH_S = 20.0
KEY = "k"
#: A write to the store of a machine, through one of the two APIs.
Write = Callable[[Any], Any]


def longest(base: Any, mine: Any, theirs: Any) -> Any:
    """A resolver: the longer of the two texts of the member `a`."""
    return max(mine, theirs, key=lambda document: len(document["a"]))


@dataclass
class DeadlineConnection:
    """A conflict record, as JSON."""

    kind: str
    reason: str
    state: str
    base: Any
    mine: Any
    theirs: Any


@dataclass
class Meeting:
    """`far` is cut off, `near` is not; both know the document, and write to it meanwhile."""

    cluster: Cluster
    url: str
    folder: Path
    face: str
    on_conflict: Any = "mine"
    proxy: Proxy = field(init=False)

    def __post_init__(self) -> None:
        self.proxy = Proxy(self.cluster.port)

    def hold(self, before: Any, *, far: Write, near: Write) -> Any:
        """The document in the end: `far` writes in an outage, then `near`, then `far` is back."""
        meet = self._meet_async if self.face == "async" else self._meet
        return meet(before, far, near)

    def _options(self) -> dict[str, Any]:
        return {"deadline_s": _DEADLINE_S, "on_conflict": self.on_conflict}

    def _meet(self, before: Any, far: Write, near: Write) -> Any:
        there = self.proxy.url(self.url)
        with (
            standfast.open(there, data_dir=self.folder / "far", **self._options()) as cut_off,
            standfast.open(self.url, data_dir=self.folder / "near", **self._options()) as other,
        ):
            if before is not None:
                other["c"].put(KEY, before)
            assert cut_off["c"].get(KEY) == other["c"].get(KEY) == before
            self.proxy.refuse()
            far(cut_off)
            assert cut_off.health().lag_ops
            near(other)
            self.proxy.heal()
            cut_off.flush(timeout_s=_FLUSH_S)
            eventually(lambda: cut_off.health().healthy)
            assert cut_off["c"].get(KEY) == other["c"].get(KEY)
            return other["c"].get(KEY)

    def _meet_async(self, before: Any, far: Write, near: Write) -> Any:
        there = self.proxy.url(self.url)

        async def meet() -> Any:
            async with (
                standfast.open_async(
                    there, data_dir=self.folder / "far", **self._options()
                ) as cut_off,
                standfast.open_async(
                    self.url, data_dir=self.folder / "near", **self._options()
                ) as other,
            ):
                if before is not None:
                    await other["c"].put(KEY, before)
                assert await cut_off["c"].get(KEY) == before
                self.proxy.refuse()
                await drive(far, cut_off)
                assert (await cut_off.health()).lag_ops
                await drive(near, other)
                self.proxy.heal()
                await cut_off.flush(timeout_s=_FLUSH_S)
                assert await cut_off["c"].get(KEY) == await other["c"].get(KEY)
                return await other["c"].get(KEY)

        return asyncio.run(meet())

    def conflicts(self) -> list[DeadlineConnection]:
        """Every line, oldest first."""
        with Sql(self.url) as sql:
            found = sql(
                "SELECT kind, reason, state, base::json, mine::json, theirs::json"
                " FROM standfast.conflicts ORDER BY id"
            )
        return [DeadlineConnection(*record) for record in found]


async def drive(write: Write, store: Any) -> None:
    """A write made of the words of both APIs: whatever it returns is awaited, in order."""
    steps = write(store)
    for step in steps if isinstance(steps, tuple) else (steps,):
        if hasattr(step, "__await__"):
            await step


@pytest.fixture(params=["sync", "async"])
def meeting(
    request: pytest.FixtureRequest, mortal_cluster: Cluster, mortal_url: str, tmp_path: Path
) -> Generator[Meeting]:
    meeting = Meeting(mortal_cluster, mortal_url, tmp_path, request.param)
    yield meeting
    meeting.proxy.close()


def test_different_members(meeting: Meeting) -> None:
    """I5: puts that change different members are merged: both changes survive."""
    found = meeting.hold(
        {"a": 1, "b": 1, "c": {"d": 1, "e": 1}},
        far=lambda s: s["c"].put(KEY, {"a": 2, "b": 1, "c": {"d": 2, "e": 1}, "new": 1}),
        near=lambda s: s["c"].put(KEY, {"a": 1, "b": 2, "c": {"d": 1, "e": 2}}),
    )
    assert found == {"a": 2, "b": 2, "c": {"d": 2, "e": 2}, "new": 1}
    (line,) = meeting.conflicts()
    assert (line.kind, line.reason, line.state) == ("put", "merged", "merged")
    assert line.theirs == {"a": 1, "b": 2, "c": {"d": 1, "e": 2}}


@pytest.mark.parametrize(
    ("on_conflict", "winner"),
    [("mine", "far"), ("theirs", "nearer"), ("newest", "nearer"), (longest, "nearer")],
    ids=["mine", "theirs", "newest", "callable"],
)
def test_the_same_member(meeting: Meeting, on_conflict: Any, winner: str) -> None:
    """I5: where both change one member differently, the documented side wins, and the
    conflict record has base, mine and theirs, so the loser is kept; other members survive."""
    meeting.on_conflict = on_conflict
    base, far, near = ({"a": text, "b": 1} for text in ("before", "far", "nearer"))
    found = meeting.hold(
        base,
        far=lambda s: s["c"].put(KEY, far),
        near=lambda s: s["c"].put(KEY, near),
    )
    assert found == {"a": winner, "b": 1}
    (line,) = meeting.conflicts()
    # Whoever gave a function has looked at the conflict already.
    assert (line.reason, line.state) == ("conflict", "merged" if callable(on_conflict) else "open")
    assert (line.base, line.mine, line.theirs) == (base, far, near)


def test_a_patch_and_a_put_of_the_same_member(meeting: Meeting) -> None:
    """I5: a patch is applied again as the operation that it is; what it overwrites of the other's
    change is among the conflicts."""
    found = meeting.hold(
        {"a": 1, "b": 1},
        far=lambda s: s["c"].patch(KEY, {"a": 2}),
        near=lambda s: s["c"].put(KEY, {"a": 3, "b": 3}),
    )
    assert found == {"a": 2, "b": 3}
    (line,) = meeting.conflicts()
    assert (line.kind, line.state, line.theirs) == ("patch", "open", {"a": 3, "b": 3})


def test_a_delete_meets_an_update(meeting: Meeting) -> None:
    """I5: a delete of a document that was changed meanwhile is not done: the change wins."""
    found = meeting.hold(
        {"a": 1}, far=lambda s: s["c"].delete(KEY), near=lambda s: s["c"].put(KEY, {"a": 2})
    )
    assert found == {"a": 2}
    (line,) = meeting.conflicts()
    assert (line.kind, line.reason, line.base) == ("delete", "update_beats_delete", {"a": 1})


@pytest.mark.parametrize("kind", ["put", "patch", "append", "increment"])
def test_an_update_meets_a_delete(meeting: Meeting, kind: str) -> None:
    """I5: a put brings the deleted document back; another change of it is set aside, with what it
    carries, and makes no stub."""
    writes: dict[str, Write] = {
        "put": lambda s: s["c"].put(KEY, {"a": 2, "l": [], "n": 0}),
        "patch": lambda s: s["c"].patch(KEY, {"a": 2}),
        "append": lambda s: s["c"].append(KEY, "/l", 1),
        "increment": lambda s: s["c"].increment(KEY, "/n", 5),
    }
    carried = {"put": {"a": 2, "l": [], "n": 0}, "patch": {"a": 2}, "append": 1, "increment": 5}
    found = meeting.hold(
        {"a": 1, "l": [], "n": 0}, far=writes[kind], near=lambda s: s["c"].delete(KEY)
    )
    assert found == (carried["put"] if kind == "put" else None)
    (line,) = meeting.conflicts()
    assert (line.kind, line.mine, line.theirs) == (kind, carried[kind], None)
    assert line.reason == ("update_beats_delete" if kind == "put" else "deleted_meanwhile")
    assert line.state == ("merged" if kind == "put" else "open")


def test_counters(meeting: Meeting) -> None:
    """I2: additions of both sides add up, and are no conflict."""
    found = meeting.hold(
        {"n": 1},
        far=lambda s: (s["c"].increment(KEY, "/n", 10), s["c"].increment(KEY, "/n", 20)),
        near=lambda s: s["c"].increment(KEY, "/n", 100),
    )
    assert found == {"n": 131}
    assert meeting.conflicts() == []


def test_lists(meeting: Meeting) -> None:
    """I2, I3: what both sides append is there, each side's in its order, and is no conflict."""
    found = meeting.hold(
        [0],
        far=lambda s: (s["c"].append(KEY, "", 1), s["c"].append(KEY, "", 2)),
        near=lambda s: (s["c"].append(KEY, "", 8), s["c"].append(KEY, "", 9)),
    )
    assert found == [0, 8, 9, 1, 2]
    assert meeting.conflicts() == []


def test_both_make_the_document(meeting: Meeting) -> None:
    """I5: a document that both sides make anew holds the members of both."""
    found = meeting.hold(
        None,
        far=lambda s: s["c"].put(KEY, {"a": 1, "same": 1}),
        near=lambda s: s["c"].put(KEY, {"b": 1, "same": 1}),
    )
    assert found == {"a": 1, "b": 1, "same": 1}
    (line,) = meeting.conflicts()
    assert (line.base, line.theirs) == (None, {"b": 1, "same": 1})


@pytest.mark.parametrize("fits", [True, False])
def test_batches(meeting: Meeting, fits: bool) -> None:
    """I5: a batch meets other writes as a whole: all of it is applied or merged, or, when a part of
    it no longer fits, all of it is set aside."""

    def fill(batch: Any) -> None:
        batch.patch("c", KEY, {"a": 2})
        batch.append("c", "log", "", "far")
        batch.increment("c", "n", "", 1)

    def far(store: Any) -> None:
        with store.batch() as batch:
            fill(batch)

    async def far_async(store: Any) -> None:
        async with store.batch() as batch:
            fill(batch)

    found = meeting.hold(
        {"a": 1, "b": 1},
        far=far_async if meeting.face == "async" else far,
        near=lambda s: (
            s["c"].patch(KEY, {"b": 2}),
            s["c"].put("n", 10 if fits else "no number"),
            s["c"].append("log", "", "near"),
        ),
    )
    assert found == {"a": 2 if fits else 1, "b": 2}
    with standfast.open(meeting.url, data_dir=meeting.folder / "look") as store:
        rest = store["c"].get_many(["log", "n"])
    if fits:
        assert rest == {"log": ["near", "far"], "n": 11}
        assert [line.reason for line in meeting.conflicts()] == ["merged"]
    else:
        assert rest == {"log": ["near"], "n": "no number"}
        assert {(line.kind, line.state) for line in meeting.conflicts()} == {
            ("patch", "open"),
            ("append", "open"),
            ("increment", "open"),
        }
