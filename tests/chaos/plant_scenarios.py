"""What each rule is for, in a few deterministic steps; returns what is wrong, by name.

In the memory of this process, with a scripted link before it.
"""

from __future__ import annotations

import contextlib
import copy
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec

import standfast
from chaos.plant_stage import Memory, Wire, at_step
from standfast import DataError, StandfastError
from standfast.engine import journal as journal_module
from standfast.engine import replayer
from standfast.engine.journal import Journal
from standfast.engine.replay_batches import next_batch
from standfast.engine.state_machine import Mode
from standfast.engine.writer import Writer
from standfast.ops.build import build_op
from standfast.ops.types import Op, ServerIdentity
from support.faulty import (
    LOCKED,
    LOST,
    Link,
    Opened,
    Server,
    after,
    at_once,
    before,
    cut_off,
    eventually,
    fresh,
    wait_direct,
)

Scenario = Callable[[Memory], set[str]]
SCENARIOS: dict[str, Scenario] = {}


def shows(*plants: str) -> Callable[[Scenario], Scenario]:
    """The scenario in which these planted bugs do harm."""

    def enter(scenario: Scenario) -> Scenario:
        SCENARIOS.update(dict.fromkeys(plants, scenario))
        return scenario

    return enter


# ---- lanes, the gate, lost replies


@shows("lane-continued")
def restarted(stage: Memory) -> set[str]:
    link = stage.link()
    store, _ = stage.open(link)
    for _ in range(3):
        store["c"].increment("n", "")
    stage.die(store, link)
    store, engine = stage.open(stage.link())
    with contextlib.suppress(StandfastError):
        store["c"].increment("n", "")
    wait_direct(engine)
    return stage.counted(4)


@shows("lane-not-closed")
def zombie(stage: Memory) -> set[str]:
    wire = Wire(stage.server)
    store, _ = stage.open(wire, fallback="off")
    store["c"].put("k", "before")
    wire.breaks = True
    with contextlib.suppress(standfast.DeadlineExceeded):
        store["c"].put("k", "old")
    stage.die(store, wire)
    store, _ = stage.open(stage.link())
    store["c"].put("k", "newer")
    wire.deliver()
    return set() if stage.others.get("k") == "newer" else {"stale overwrite"}


def in_doubt(stage: Memory) -> Opened:
    """A write that took effect, whose reply is lost, and three more while nobody answers."""
    link = stage.link()
    store, engine = stage.open(link)
    store["c"].increment("n", "")
    link.script = [after(LOST, hook=lambda: setattr(link, "down", True))]
    for _ in range(4):
        store["c"].increment("n", "")
    return store, engine


@shows("batch-skipped-as-a-whole", "batch-applied-as-a-whole", "new-sequence")
def lost_reply(stage: Memory) -> set[str]:
    store, engine = in_doubt(stage)
    link: Any = engine.primary
    link.down = False
    wait_direct(engine)
    assert store["c"].get("n") is not None
    return stage.counted(5)


@shows("final-watermark-not-read")
def lost_reply_and_fenced(stage: Memory) -> set[str]:
    store, engine = in_doubt(stage)
    link: Any = engine.primary
    stage.server.database.fence([store.health().lane])
    link.down = False
    wait_direct(engine)
    return stage.counted(5)


@shows("moved-twice")
def two_copies(stage: Memory) -> set[str]:
    link = stage.link()
    store, engine = stage.open(link)
    store["c"].increment("n", "")
    link.down = True
    for _ in range(3):
        store["c"].increment("n", "")
    shutil.copytree(stage.folder / "data", stage.folder / "copy")
    stage.server.database.fence([store.health().lane])
    stage.open(stage.link(), name="copy")
    link.down = False
    wait_direct(engine)
    return stage.counted(4)


@shows("refusal-forgotten-by-a-fence")
def refusal_in_doubt_and_fenced(stage: Memory) -> set[str]:
    link = stage.link()
    store, engine = stage.open(link)
    stage.others.put("k", "text")  # not known here
    link.script = [after(LOST, hook=lambda: setattr(link, "down", True))]
    store["c"].increment("k", "")
    stage.server.database.fence([store.health().lane])
    link.down = False
    wait_direct(engine)
    return set() if stage.has_line("k") else {"lost"}


@shows("outcomes-replaced-by-a-skip")
def refusal_in_doubt_and_halved(stage: Memory) -> set[str]:
    link = stage.link()
    opened = store, engine = stage.open(link)
    stage.others.put("k", "text")  # not known here
    # The batch of the first is out of the way; the reply of the one behind it is lost.
    link.script = [after(), after(LOST, hook=lambda: setattr(link, "down", True))]
    calls = [lambda: store["c"].put("x", 1), lambda: store["c"].increment("k", "")]
    at_once(opened, link, calls)
    with patch.object(replayer, "next_batch", one_by_one):
        link.down = False
        wait_direct(engine)
    return set() if stage.has_line("k") else {"lost"}


def one_by_one(window: Any, **options: Any) -> Any:
    """Batches of the replay are cut after each op."""
    return next_batch(window, **{**options, "max_ops": 1})


@shows("cut-taken-for-an-outage")
def idle_cut(stage: Memory) -> set[str]:
    link = stage.link()
    store, _ = stage.open(link)
    store["c"].put("k", 1)
    link.connected = False
    return set() if store["c"].put("k", 2).durable_on == "primary" else {"outage"}


@shows("resent-under-a-new-name")
def reply_lost_on_the_way(stage: Memory) -> set[str]:
    link = stage.link()
    store, engine = stage.open(link)
    link.script = [after(LOST)]
    for _ in range(3):
        store["c"].increment("n", "")
    wait_direct(engine)
    return stage.counted(3)


@shows("moved-without-a-fence")
def locked_behind_a_first_send(stage: Memory) -> set[str]:
    wire = Wire(stage.server)
    store, engine = stage.open(wire)
    store["c"].increment("n", "")
    wire.loses = True
    wire.script = [before(LOCKED)]
    store["c"].increment("n", "")
    wire.deliver()
    wait_direct(engine)
    return stage.counted(2)


@shows("lower-watermark-accepted")
def gone_back(stage: Memory) -> set[str]:
    store, _ = stage.open(stage.link())
    database = stage.server.database
    store["c"].put("k", 1)
    names = [name for name in vars(database) if name not in ("_lock", "_now_us")]
    before = copy.deepcopy({name: vars(database)[name] for name in names})
    store["c"].put("k", 2)
    vars(database).update(before)
    receipt = store["c"].put("other", 1)
    return {"went back unnoticed"} if receipt.durable_on == "primary" else set()


@shows("any-history")
def elsewhere(stage: Memory) -> set[str]:
    link = stage.link()
    store, _ = stage.open(link)
    link.down = True
    store["c"].put("k", 1)
    store.close(timeout_s=0)
    wrong = Server()
    link = Link(wrong)
    _, engine = stage.open(link, wait=False)
    eventually(lambda: engine.situation.cause == "other_database" or engine.mode is Mode.DIRECT)
    return {"written elsewhere"} if wrong.applied else set()


# ---- acknowledging


@shows("acknowledged-before-commit")
def killed_before_commit(stage: Memory) -> set[str]:
    _, engine = stage.open(stage.link(down=True), wait=False)
    promises: list[Any] = []
    sent, found = threading.Event(), set[str]()

    def look() -> None:
        """What a kill in this moment leaves, and whether the caller has its answer."""
        sent.wait(20)
        shutil.copytree(stage.folder / "data", stage.folder / "left")
        if promises[0].done:
            left = Journal(stage.folder / "left")
            found.update(set() if left.totals().ops else {"lost"})
            left.close()

    # A caller that is alone would write itself, and have no promise before it has its answer.
    with (
        patch.object(Writer, "lead", lambda *_: False),
        at_step(journal_module, "journal-before-commit", look),
    ):
        promises.append(engine.submit([build_op("put", "c", "k", body=1)]))
        sent.set()
        promises[0].wait(20)
        eventually(lambda: engine.local_state.journal.totals().ops)
    return found


@shows("receipt-without-mirror")
def read_after_a_receipt(stage: Memory) -> set[str]:
    link = stage.link()
    store, _ = stage.open(link)
    for number in range(3):
        store["c"].put("k", number)
    link.down = True
    try:
        return set() if store["c"].get("k") == 2 else {"read your writes"}
    except standfast.Unavailable:
        return {"read your writes"}


def seen_while_replayed(stage: Memory, step: str) -> list[Any]:
    """What the directory says of a counter of three, at this step of the replay."""
    link = stage.link()
    store, engine = stage.open(link)
    store["c"].put("n", 0)
    link.down = True
    for _ in range(3):
        store["c"].increment("n", "")
    seen: list[Any] = []
    with at_step(journal_module, step, lambda: seen.append(engine.local_state.view("c", "n").text)):
        link.down = False
        wait_direct(engine)
        eventually(lambda: seen)
    return seen


@shows("journal-cleared-first")
def read_after_clearing(stage: Memory) -> set[str]:
    seen = seen_while_replayed(stage, "journal-removed")
    return set() if set(seen) == {"3"} else {"read your writes"}


@shows("tags-ignored")
def read_before_clearing(stage: Memory) -> set[str]:
    seen = seen_while_replayed(stage, "journal-before-remove")
    return set() if set(seen) == {"3"} else {"seen twice"}


@shows("read-not-kept")
def read_of_others(stage: Memory) -> set[str]:
    link = stage.link()
    store, _ = stage.open(link)
    store["c"].put("k", 1)
    stage.others.put("k", 2)
    assert store["c"].get("k") == 2
    link.down = True
    return set() if store["c"].get("k") == 2 else {"went back"}


@shows("definite-version")
def version_of_a_receipt(stage: Memory) -> set[str]:
    link = stage.link()
    store, engine = stage.open(link)
    store["c"].put("k", "before")
    link.down = True
    receipt = store["c"].put("k", "mine")
    texts = {stage.others.put("k", "theirs").version: "theirs"}
    link.down = False
    wait_direct(engine)
    return {"false version"} if texts.get(receipt.version) == "theirs" else set()


# ---- one stream


@shows("direct-past-a-pending-key")
def behind_a_locked_row(stage: Memory) -> set[str]:
    store, engine = stage.open(stage.link())
    store["c"].put("k", [])
    server, place = stage.server, ("c", "k")
    original, first = server.refuse, [True]

    def refuse(ops: Sequence[Op]) -> None:
        """Somebody holds the lock whenever the replayer comes, and when the writer does first."""
        is_replayer = threading.current_thread().name == "standfast-replayer"
        if any((op.collection, op.key) == place for op in ops) and (is_replayer or first):
            first.clear()
            raise fresh("locked")
        original(ops)

    server.refuse = refuse  # type: ignore[method-assign]
    store["c"].append("k", "", 1)
    store["c"].append("k", "", 2)
    server.refuse = original  # type: ignore[method-assign]
    wait_direct(engine)
    return set() if stage.others.get("k") == [1, 2] else {"out of order"}


@shows("direct-on-a-pending-lane")
def direct_beside_a_locked_row(stage: Memory) -> set[str]:
    link = stage.link()
    store, _ = stage.open(link)
    store["c"].put("k", [])
    link.down = True
    store["c"].append("k", "", 1)
    stage.die(store, link)
    link = stage.link(down=True)
    store, engine = stage.open(link, wait=False)
    store["c"].append("k", "", 2)
    stage.server.locked.add(("c", "k"))
    link.down = False
    eventually(lambda: engine.mode is Mode.DIRECT)
    assert store["c"].put("other", 1).durable_on == "primary"
    stage.server.locked.clear()
    wait_direct(engine)
    return set() if stage.others.get("k") == [1, 2] else {"lost"}


@shows("reads-past-the-journal")
def read_of_a_locked_row(stage: Memory) -> set[str]:
    store, engine = stage.open(stage.link())
    store["c"].put("k", [])
    stage.server.locked.add(("c", "k"))
    store["c"].append("k", "", 1)
    assert engine.mode is Mode.DIRECT
    return set() if store["c"].get("k") == [1] else {"read your writes"}


# ---- the replay


@shows("half-passes-what-stays")
def poison_in_the_middle(stage: Memory) -> set[str]:
    link = stage.link(down=True)
    store, engine = stage.open(link, wait=False)
    for number in range(4):
        store["c"].put(str(number), number)
    stage.server.poison[("c", "1")] = DataError("a CHECK refuses it", code="check")
    link.down = False
    wait_direct(engine)
    there = stage.others.get_many(["0", "1", "2", "3"])
    return {"lost" for key in "0123" if key not in there and not stage.has_line(key)}


@shows("outcomes-not-kept")
def refusal_in_doubt(stage: Memory) -> set[str]:
    link = stage.link()
    store, engine = stage.open(link)
    stage.others.put("k", "text")  # not known here
    link.script = [cut_off(link, "after")]
    store["c"].increment("k", "")
    wait_direct(engine)
    return set() if stage.has_line("k") else {"lost"}


@shows("rejected-unrecorded", "condition-not-judged-again")
def condition_that_no_longer_holds(stage: Memory) -> set[str]:
    link = stage.link()
    store, engine = stage.open(link)
    version = store["c"].put("k", "before").version
    link.down = True
    store["c"].put("k", "mine", if_version=version, provisional=True)
    stage.others.put("k", "theirs")
    link.down = False
    wait_direct(engine)
    if stage.others.get("k") == "mine":
        return {"stale overwrite"}
    return set() if stage.has_line("k") else {"lost"}


@shows("base-not-kept")
def other_members(stage: Memory) -> set[str]:
    link = stage.link()
    store, engine = stage.open(link)
    store["c"].put("k", {"a": 1, "b": 1})
    link.down = True
    store["c"].put("k", {"a": 2, "b": 1})
    stage.others.patch("k", {"b": 2})
    link.down = False
    wait_direct(engine)
    return set() if stage.others.get("k") == {"a": 2, "b": 2} else {"lost update"}


@shows("set-as-a-whole", "remove-as-a-whole", "touch-as-a-whole")
def other_places(stage: Memory) -> set[str]:
    link = stage.link()
    store, engine = stage.open(link)
    for key in ("set", "remove", "touch"):
        store["c"].put(key, {"a": 1, "b": 1})
    link.down = True
    store["c"].set("set", "/a", 2)
    store["c"].remove("remove", "/a")
    store["c"].touch("touch", 3600)
    for key in ("set", "remove", "touch"):
        stage.others.patch(key, {"b": 2})
    link.down = False
    wait_direct(engine)
    wanted = {"set": {"a": 2, "b": 2}, "remove": {"b": 2}, "touch": {"a": 1, "b": 2}}
    return set() if dict(stage.others.items()) == wanted else {"lost update"}


@shows("prefix-taken-from-the-mirror")
def keys_of_others(stage: Memory) -> set[str]:
    link = stage.link()
    store, engine = stage.open(link)
    store["c"].put("p/1", 1)
    list(store["c"].items())
    stage.others.put("p/2", 2)
    link.down = True
    store["d"].put("starter", 1)  # from here on the store knows
    deleted = 0
    with contextlib.suppress(StandfastError):
        deleted = store["c"].delete(prefix="p/")
    link.down = False
    wait_direct(engine)
    left = list(stage.others.keys(prefix="p/"))
    return {"left behind"} if deleted and left else set()


@shows("no-tombstone")
def made_anew(stage: Memory) -> set[str]:
    store, _ = stage.open(stage.link())
    versions = [store["c"].put("k", 1).version, store["c"].put("k", 2).version]
    store["c"].delete("k")
    versions.append(store["c"].put("k", 3).version)
    return set() if versions == [1, 2, 4] else {"version went down"}


# ---- a failover to a standby that lagged


class Standby:
    """The server's database as it was when this was made; `promote` makes that its present."""

    def __init__(self, stage: Memory) -> None:
        self._database = database = stage.server.database
        self._timeline = 1
        original = database.server_identity

        def server_identity(deadline: float, *, lanes: Sequence[str] = ()) -> ServerIdentity:
            found = original(deadline, lanes=lanes)
            return msgspec.structs.replace(found, system="1", timeline=self._timeline)

        database.server_identity = server_identity
        self._copy: dict[str, Any] = {}

    def copy(self) -> None:
        skipped = ("_lock", "_now_us", "server_identity")
        parts = {name: part for name, part in vars(self._database).items() if name not in skipped}
        self._copy = copy.deepcopy(parts)

    def promote(self) -> None:
        vars(self._database).update(self._copy)
        self._timeline += 1


@shows("failover-not-noticed", "retained-writes-left", "regained-blindly", "regained-whole")
def failover(stage: Memory) -> set[str]:
    standby = Standby(stage)
    store, _ = stage.open(stage.link())
    c = store["c"]
    c.put_many({"put": 1, "contested": 1, "list": [1]})
    standby.copy()
    c.put("put", 2)
    c.put("contested", 2)
    c.append("list", "", 2)
    store.close()
    standby.promote()
    stage.others.put("contested", "others")
    stage.others.append("list", "", "others")
    stage.open(stage.link())
    found = dict(stage.others.items())
    wrong: set[str] = set()
    if found["put"] != 2:
        wrong.add("lost")
    if found["contested"] != "others":
        wrong.add("stale overwrite")
    if found["put"] == 2 and found["list"] != [1, "others", 2]:
        wrong.add("not applied again")
    return wrong


@shows("floor-not-raised")
def dropped_and_made_anew(stage: Memory) -> set[str]:
    store, _ = stage.open(stage.link())
    versions = [store["c"].put("k", n).version for n in range(3)]
    store.drop("c")
    versions.append(store["c"].put("k", 3).version)
    return set() if versions == [1, 2, 3, 4] else {"version went down"}


@shows("drop-of-whatever-is-there")
def dropped_twice(stage: Memory) -> set[str]:
    """Another process makes the collection anew between the two attempts."""
    link: Any = stage.link()
    store, _ = stage.open(link)
    store["c"].put("k", 1)
    database = stage.server.database

    def lost(*args: Any, **options: Any) -> Any:
        del link.drop
        database.drop(*args, **options)
        stage.others.put("k", "theirs")
        link.connected = False
        raise fresh(LOST)

    link.drop = lost
    store.drop("c")
    return set() if stage.others.get("k") == "theirs" else {"lost"}


@shows("drop-without-mirror")
def dropped_before_an_outage(stage: Memory) -> set[str]:
    link = stage.link()
    store, _ = stage.open(link, sole_writer=True)
    store["c"].put("k", 1)
    store.drop("c")
    link.down = True
    store["d"].put("starter", 1)
    return {"read your writes"} if store["c"].get("k") == 1 else set()


@shows("drop-past-the-journal")
def dropped_while_a_write_waits(stage: Memory) -> set[str]:
    """The row of one pending write is locked: it would come back after the drop."""
    link = stage.link()
    store, engine = stage.open(link)
    store["c"].put("k", 1)
    link.down = True
    store["c"].put("k", 2)
    stage.server.locked.add(("c", "k"))
    link.down = False
    eventually(lambda: engine.mode is Mode.DIRECT)
    dropped = False
    with contextlib.suppress(StandfastError):
        dropped = store.drop("c")
    stage.server.locked.clear()
    wait_direct(engine)
    return {"out of order"} if dropped and stage.others.exists("k") else set()


def run_in_memory(name: str, folder: Path) -> set[str]:
    """Play the scenario of a plant; what is wrong afterwards."""
    folder.mkdir()
    stage = Memory(folder)
    try:
        return SCENARIOS[name](stage)
    finally:
        stage.close()
