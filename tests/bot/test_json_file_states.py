"""Two who load, change and save one file in any order: no update of one is lost in silence.

The judge knows nothing of how saves are made.  It looks at what was stored before and after each
one, at the dict that was saved, and at that dict as it was at its last load or save: every field
that the saver left alone is as it was stored, every field that the saver changed is as saved, and
where that took something from the other, base, mine and theirs are among the conflicts.
"""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from standfast import AsyncJsonFile, JsonFile, Saved, Store
from standfast.backends.memory import MemoryBackend
from standfast.document.codec import decode
from standfast.document.merge import same_value
from standfast.document.values import MISSING
from standfast.engine.embedded import EmbeddedEngine
from standfast.ops.types import ConflictRecord
from support.bots import Awaited

Fields = dict[tuple[str, ...], Any]

guilds = st.sampled_from(["1", "2", "3"])
places = st.sampled_from([("a",), ("b",), ("n", "x"), ("n", "y"), ("n", "deep", "z")])
writers = st.sampled_from([0, 1])


def fields(value: Any, path: tuple[str, ...] = ()) -> Fields:
    """Every field with its value: what lies in an object is fields of its own."""
    if not isinstance(value, dict):
        return {path: copy.deepcopy(value)}
    found: Fields = {}
    for name, item in value.items():
        found |= fields(item, (*path, str(name)))
    return found


def has_room(path: tuple[str, ...], document: Fields) -> bool:
    """Whether something else is there in every object that would hold this field."""
    return all(
        any(other[:depth] == path[:depth] for other in document) for depth in range(len(path))
    )


class Writer:
    """One file object, the dict in its owner's hands, and that dict as it was last saved."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.data: dict[str, Any] = {}
        self.settled: dict[str, Any] = {}


class TwoWriters(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.backend = MemoryBackend()
        self.store = Store(EmbeddedEngine(self.backend))
        self.runner = asyncio.Runner()
        self.fresh = 0
        self.writers = [
            Writer(JsonFile("g.json", store=self.store)),
            Writer(Awaited(AsyncJsonFile("g.json", store=self.store.as_async()), self.runner)),
        ]

    def teardown(self) -> None:
        self.runner.close()
        self.store.close()

    @initialize(loaded=st.tuples(st.booleans(), st.booleans()))
    def begin(self, loaded: tuple[bool, bool]) -> None:
        """Some begin with what is stored; some save without having looked."""
        self.store["g"].put_many({"1": {"a": 0, "n": {"x": 0}}, "2": {"b": 0}})
        for who, looks in enumerate(loaded):
            if looks:
                self.load(who)

    def stored(self) -> dict[str, Any]:
        return dict(self.store["g"].items())

    @rule(who=writers)
    def load(self, who: int) -> None:
        writer = self.writers[who]
        writer.data = writer.file.load()
        assert writer.data == self.stored()
        writer.settled = copy.deepcopy(writer.data)

    @rule(who=writers, guild=guilds, place=places, odd=st.booleans())
    def change(self, who: int, guild: str, place: tuple[str, ...], odd: bool) -> None:
        """A field gets a value that nothing had before."""
        document = self.writers[who].data.setdefault(guild, {})
        for name in place[:-1]:
            document = document.setdefault(name, {})
        self.fresh += 1
        document[place[-1]] = (self.fresh,) if odd else self.fresh

    @rule(who=writers, guild=guilds, place=places)
    def append(self, who: int, guild: str, place: tuple[str, ...]) -> None:
        """A change inside of a value that was loaded or saved."""
        document = self.writers[who].data.get(guild, {})
        for name in place[:-1]:
            document = document.get(name, {})
        self.fresh += 1
        if isinstance(document.get(place[-1]), list):
            document[place[-1]].append(self.fresh)
        else:
            self.change(who, guild, place, odd=False)
            self._set(self.writers[who].data[guild], place, [self.fresh])

    def _set(self, document: dict[str, Any], place: tuple[str, ...], value: Any) -> None:
        for name in place[:-1]:
            document = document[name]
        document[place[-1]] = value

    @rule(who=writers, guild=guilds, place=places)
    def settle_for_what_was(self, who: int, guild: str, place: tuple[str, ...]) -> None:
        """A change is taken back before it is saved."""
        was = self.writers[who].settled.get(guild, {})
        document = self.writers[who].data.get(guild, {})
        for name in place[:-1]:
            was, document = was.get(name, {}), document.get(name, {})
        if place[-1] in was and document:
            document[place[-1]] = copy.deepcopy(was[place[-1]])

    @rule(who=writers, guild=guilds, place=places)
    def remove(self, who: int, guild: str, place: tuple[str, ...]) -> None:
        """A field, or a whole object, is removed."""
        document = self.writers[who].data.get(guild, {})
        for name in place[:-1]:
            document = document.get(name, {})
        document.pop(place[-1], None)

    @rule(who=writers, guild=guilds)
    def remove_guild(self, who: int, guild: str) -> None:
        self.writers[who].data.pop(guild, None)

    @rule(who=writers)
    def save(self, who: int) -> None:
        writer = self.writers[who]
        before, conflicts = self.stored(), len(self.backend.conflicts(limit=10**6))
        saved: Saved = writer.file.save(writer.data)
        entries = self.backend.conflicts(limit=10**6)[conflicts:]
        judge(writer, before, self.stored(), {one.key: one for one in entries})
        assert saved.merged == len(entries)
        writer.settled = copy.deepcopy(writer.data)
        assert writer.file.save(writer.data) == Saved()


def judge(
    writer: Writer,
    before: dict[str, Any],
    after: dict[str, Any],
    entries: dict[str, ConflictRecord],
) -> None:
    for guild in {*before, *after, *writer.data, *writer.settled}:
        base, mine, theirs, now = (
            fields(plain(one[guild])) if guild in one else {}
            for one in (writer.settled, writer.data, before, after)
        )
        entry = entries.get(guild)
        if entry is not None:  # nothing is gone for good
            assert fields(text_of(entry.theirs)) == theirs
            assert fields(text_of(entry.mine)) == mine
        for path in {*base, *mine, *theirs, *now}:
            judge_field(path, base, mine, theirs, now, entry)


def judge_field(
    path: tuple[str, ...],
    base: Fields,
    mine: Fields,
    theirs: Fields,
    now: Fields,
    entry: ConflictRecord | None,
) -> None:
    values = [one.get(path, MISSING) for one in (base, mine, theirs, now)]
    mine_changed = not same_value(values[0], values[1])
    theirs_changed = not same_value(values[0], values[2])
    if not mine_changed:
        brought_back = entry is not None and not has_room(path, theirs)
        assert same_value(values[3], values[2]) or (
            # They removed an object in which the saver has changed something else.
            brought_back and same_value(values[3], values[1])
        )
        return
    if values[1] is MISSING and not same_value(values[3], values[1]):
        # What the saver removed is there: only as theirs, who have changed it or what is around it.
        assert same_value(values[3], values[2])
        assert entry is not None
        return
    assert same_value(values[3], values[1])
    if theirs_changed and not same_value(values[1], values[2]):
        assert entry is not None
        assert entry.state == "open" or MISSING in values[:3]


def plain(value: Any) -> Any:
    """As JSON: tuples are lists."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def text_of(text: str | None) -> Any:
    return {} if text is None else decode(text)


TestTwoWriters = TwoWriters.TestCase
TestTwoWriters.settings = settings(max_examples=50, stateful_step_count=50)


@pytest.mark.slow
class TestTwoWritersAtLength(TwoWriters.TestCase):  # type: ignore[misc]
    """The same for more interleavings."""

    settings = settings(max_examples=400, stateful_step_count=50)
