"""What of the journal waits, and why: rows that are locked, collections that are held, suspects.

One bad thing stops one thing (R21).  A *held* collection has a fault that only its owner can mend,
such as a missing right: nothing of it is rejected, and one write of it is tried now and then.  A
*suspect* is a write that the server fails on, or that the table refuses: it is tried alone, with
pauses.  Where the collection takes other writes, it is rejected, after a stated number of attempts
if it is the server that fails; where several fail and none is taken, the collection is held; one
that only takes long is given more time.  Until either is known, the collection is *doubted*: its
writes go one by one, on lanes of their own, after those of all others.

Pure but for its fields: times are given, as of `time.monotonic()`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from datetime import UTC, datetime

import msgspec

from standfast.engine.journal import HeldNote, Pending
from standfast.engine.replay_batches import place_of, units
from standfast.errors import StandfastError
from standfast.limits import MAX_REFUSED_ATTEMPTS, MAX_SUSPECTS, MAX_SUSPICIOUS_ATTEMPTS
from standfast.ops.batch import Place

#: How long ago a write of a collection may have been taken to show that the table is sound.
EVIDENCE_S = 60.0
#: How long something that is due again lets other writes go first.
GRACE_S = 1.0
#: How long a place is left alone after its row was found locked.
LOCK_PAUSE_S = 0.5
#: Pauses between two attempts on a held collection: doubled at each.
FIRST_HELD_PAUSE_S = 0.25
LONGEST_HELD_PAUSE_S = 2.0
#: The same for a suspect.
FIRST_SUSPECT_PAUSE_S = 0.25
LONGEST_SUSPECT_PAUSE_S = 8.0


class Held(msgspec.Struct):
    """A collection with a fault: what the server answered, since when, when it is tried next."""

    note: HeldNote
    pause_s: float = FIRST_HELD_PAUSE_S
    until: float = 0.0


class Suspect(msgspec.Struct):
    """A write, or a batch of them, that does not go: `attempts` failed, `misses` took too long."""

    what: str
    places: frozenset[Place]
    cause: str = ""
    attempts: int = 0
    misses: int = 0
    pause_s: float = FIRST_SUSPECT_PAUSE_S
    until: float = 0.0
    first: float = 0.0

    @property
    def collections(self) -> set[str]:
        """What it writes to."""
        return {place[0] for place in self.places}


class Waiting:
    """What waits in one directory.  Written by the replaying thread alone; read by any."""

    def __init__(self) -> None:
        self.held: dict[str, Held] = {}
        self.suspects: dict[int, Suspect] = {}
        self._doubts: dict[str, str] = {}
        """Doubted collections, with what the server answered."""
        self._refused: dict[str, int] = {}
        """Writes that the table of a collection, which takes others, has refused in a row."""
        self._locked: dict[Place, float] = {}
        self._taken: dict[str, float] = {}
        """When the primary has last taken a write of a collection: it is not the table's fault."""

    def resume(self, held: Mapping[str, HeldNote]) -> None:
        """Begin with what an earlier process has left held: each is tried, by itself, at once."""
        self.held = {name: Held(note) for name, note in held.items()}

    def notes(self) -> dict[str, HeldNote]:
        """What is held, for the next process."""
        return {name: held.note for name, held in self.held.items()}

    def clear(self) -> None:
        """Nothing is pending any more."""
        self.held, self.suspects, self._locked = {}, {}, {}
        self._doubts, self._refused = {}, {}

    def lock(self, unit: Sequence[Pending], now: float) -> None:
        """The row of a unit is locked by another transaction."""
        self._locked |= dict.fromkeys(map(place_of, unit), now + LOCK_PAUSE_S)

    def hold(self, collection: str, error: StandfastError, now: float) -> bool:
        """A collection has a fault; returns whether that is news."""
        before = self.held.get(collection)
        pause_s = FIRST_HELD_PAUSE_S
        if before is not None:
            pause_s = min(LONGEST_HELD_PAUSE_S, before.pause_s * 2)
        since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        since = before.note.since if before else since
        note = HeldNote(error.message, error.hint, since, error.code)
        self.held = {**self.held, collection: Held(note, pause_s, now + pause_s)}
        self._doubts = {k: v for k, v in self._doubts.items() if k != collection}
        self._refused.pop(collection, None)
        return before is None

    def suspect(self, unit: Sequence[Pending], error: StandfastError, now: float) -> Suspect:
        """A unit alone does not go; it waits for its next attempt."""
        op = unit[0].op
        what = f"{op.kind} of key {op.key!r} in `{op.collection}`"
        if len(unit) > 1:
            what += f" and {len(unit) - 1} more of its batch"
        one = self.suspects.get(unit[0].id)
        if one is None:
            one = Suspect(what, frozenset(map(place_of, unit)), first=now)
        one.cause = error.message
        one.until = now + one.pause_s
        one.pause_s = min(LONGEST_SUSPECT_PAUSE_S, one.pause_s * 2)
        self.suspects = {**self.suspects, unit[0].id: one}
        return one

    @property
    def doubted(self) -> frozenset[str]:
        """Collections of which a write or a batch failed, and nothing was taken since."""
        return frozenset(self._doubts)

    def doubt(self, collections: Set[str], cause: str) -> None:
        """It is not known whether a write is at fault or the table: others of it will show."""
        news = dict.fromkeys(collections - self.held.keys(), cause)
        self._doubts = {**self._doubts, **news}

    def is_hopeless(self, suspect: Suspect) -> bool:
        """Whether it is the write that is at fault: tried often enough, while others are taken."""
        goes = all(
            self._taken.get(name, float("-inf")) > suspect.first - EVIDENCE_S
            for name in suspect.collections
        )
        return suspect.attempts >= MAX_SUSPICIOUS_ATTEMPTS and goes

    def is_refused(self, unit: Sequence[Pending], suspect: Suspect | None) -> bool:
        """Whether a write that the table refuses is at fault, and not the table; it is counted.

        So it is where others are taken; and where there are too few to tell, after some attempts.
        Of a collection known to refuse writes one by one, more than `MAX_SUSPECTS` are asked anew.
        """
        collections = {one.op.collection for one in unit}
        if not collections.isdisjoint(self.held):
            return False
        if all(name in self._refused for name in collections):
            for name in collections:
                self._refused[name] += 1
                if self._refused[name] > MAX_SUSPECTS:  # it may have changed since
                    del self._refused[name]
            return True
        if suspect is None:
            return False
        if all(self._taken.get(name, float("-inf")) > suspect.first for name in collections):
            return True
        return suspect.attempts + 1 >= MAX_REFUSED_ATTEMPTS

    def all_fail(self, collection: str) -> bool:
        """Whether several writes of a collection fail and none is taken: the table is at fault."""
        taken = self._taken.get(collection, float("-inf"))
        failing = [
            one
            for one in self.suspects.values()
            if one.attempts and collection in one.collections and one.first > taken
        ]
        return len(failing) >= MAX_SUSPECTS

    def gone(self, unit: Sequence[Pending], *, applied: bool, now: float) -> list[str]:
        """A unit is settled; returns the collections that are not held any more."""
        if unit[0].id in self.suspects:
            self.suspects = {k: v for k, v in self.suspects.items() if k != unit[0].id}
        places = set(map(place_of, unit))
        if not places.isdisjoint(self._locked):
            self._locked = {k: v for k, v in self._locked.items() if k not in places}
        if not applied:
            return []
        collections = {one.op.collection for one in unit}
        self._taken.update(dict.fromkeys(collections, now))
        # It takes writes, and refuses some.
        self._refused.update(dict.fromkeys(collections & (self.doubted | self._refused.keys()), 0))
        if self._doubts:
            self._doubts = {k: v for k, v in self._doubts.items() if k not in collections}
        if not self.held:
            return []
        mended = sorted(collections & self.held.keys())
        self.held = {k: v for k, v in self.held.items() if k not in mended}
        return mended

    def held_now(self, now: float) -> set[str]:
        """The held collections of which nothing is to be tried yet."""
        return {name for name, held in self.held.items() if held.until > now}

    def blocked(self, now: float) -> dict[Place, str]:
        """The places on which nothing is to be tried yet, and the kind of lane for what waits."""
        self._locked = {place: until for place, until in self._locked.items() if until > now}
        places = dict.fromkeys(self._locked, "locked")
        for number, one in self.suspects.items():
            if one.until > now:
                places |= dict.fromkeys(one.places, f"suspect {number}")
        return places

    def is_tried_alone(self, unit: Sequence[Pending]) -> bool:
        """Whether a unit is an attempt on something that failed before."""
        apart = self.held.keys() | self.doubted
        return unit[0].id in self.suspects or any(one.op.collection in apart for one in unit)

    def sentences(self) -> list[str]:
        """What a person must know: what is wrong, since when, what is safe, what to do."""
        found = [held.note.sentence(name) for name, held in sorted(self.held.items())]
        suspected = {name for one in self.suspects.values() for name in one.collections}
        found += [
            f"a batch of collection `{name}` did not go: {cause}; its writes are safe in the"
            " journal, and are tried one by one; all other writes go on"
            for name, cause in sorted(self._doubts.items())
            if name not in suspected
        ]
        found += [
            f"key {key!r} of collection `{name}` is locked by another transaction (pg_locks): its"
            " pending writes are safe in the journal, and are tried again; all other writes go on"
            for name, key in list(self._locked)[:MAX_SUSPECTS]
        ]
        for one in list(self.suspects.values())[:MAX_SUSPECTS]:
            tries = (
                f"it is given more time at each attempt ({one.misses} so far)"
                if not one.attempts
                else f"attempt {one.attempts} of {MAX_SUSPICIOUS_ATTEMPTS}, then it is a conflict"
            )
            found.append(
                f"{one.what} is replayed by itself: {one.cause}; {tries}; all other writes go on"
            )
        return found


class Kinds:
    """Which lane each unit belongs on, asked in their order: "" where it may go.

    What waits gets a lane for each reason, so that no reason holds up another.  `blocked` grows by
    the other places of what waits.
    """

    def __init__(
        self,
        held: Set[str] = frozenset(),
        blocked: Mapping[Place, str] | None = None,
        doubted: Set[str] = frozenset(),
    ) -> None:
        self._held = held
        self._doubted = doubted
        self._blocked = dict(blocked or {})
        self.blocked = dict(self._blocked)

    def __bool__(self) -> bool:
        """Whether anything waits."""
        return bool(self._held or self._doubted or self._blocked)

    def anew(self) -> Kinds:
        """The same for other units, as it was before any."""
        return Kinds(self._held, self._blocked, self._doubted)

    def of(self, unit: Sequence[Pending]) -> str:
        """The kind of lane of a unit."""
        collections = {one.op.collection for one in unit}
        if len(collections) == 1 and collections <= self._held:
            return f"held {unit[0].op.collection}"
        found = {self.blocked[place] for one in unit if (place := place_of(one)) in self.blocked}
        if not found and collections.isdisjoint(self._held):
            apart = len(collections) == 1 and collections <= self._doubted
            return f"held {unit[0].op.collection}" if apart else ""
        kind = found.pop() if len(found) == 1 and collections.isdisjoint(self._held) else "waits"
        self.blocked.update(dict.fromkeys(map(place_of, unit), kind))
        return kind

    def of_lanes(self, window: Sequence[Pending]) -> dict[str, set[str]]:
        """The kinds of the units of each lane."""
        found: dict[str, set[str]] = {}
        for unit in units(window):
            found.setdefault(unit[0].op.lane, set()).add(self.of(unit))
        return found
