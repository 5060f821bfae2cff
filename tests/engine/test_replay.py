"""The replay: in order, whole, once; what cannot go holds up nothing else."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from standfast import ConflictError, DataError, Unavailable
from standfast.api.sync import Store
from standfast.backends.memory import MemoryBackend
from standfast.engine import replayer as replayer_module
from standfast.engine import waiting as waiting_module
from standfast.engine.embedded import EmbeddedEngine
from standfast.engine.state_machine import Mode
from standfast.errors import ConfigError, DeadlineExceeded
from standfast.ops.types import ServerIdentity
from support.faulty import LOST, Link, Open, Server, after, before, eventually, wait_direct

POISON = DataError("a CHECK refuses it", code="check")


def others(server: Server) -> Store:
    return Store(EmbeddedEngine(server.database))


def others_of(server: Server, name: str) -> Any:
    return others(server)[name]


def test_poison_is_parked_and_the_rest_goes_on(server: Server, open_it: Open) -> None:
    """I6, I2: what the primary refuses is a conflict with its reason; all others arrive."""
    link = Link(server, down=True)
    store, engine = open_it(link)
    receipts = [store["c"].put(str(n), n) for n in range(9)]
    again = store["c"].increment("4", "", 10)
    for key in ("0", "4", "8"):
        server.poison[("c", key)] = POISON
    link.down = False
    wait_direct(engine)
    assert again == 14
    assert sorted(server.database.read("c", [str(n) for n in range(9)])) == list("123567")
    entries = server.database.conflicts()
    assert [(entry.key, entry.reason, entry.state) for entry in entries] == [
        ("0", "check", "open"),
        ("4", "check", "open"),
        ("8", "check", "open"),
        ("4", "check", "open"),
    ]
    assert [entry.mine for entry in entries] == ["0", "4", "8", "10"]
    for number, receipt in enumerate(receipts):
        outcome = store.outcome(receipt)
        assert outcome.state == ("rejected" if number in (0, 4, 8) else "applied")
        assert outcome.reason == ("check" if number in (0, 4, 8) else "")
    assert store.health().conflicts == {"open": 4}


NO_RIGHT = ConfigError("no right", code="no_rights", hint="ask for it")


def test_a_collection_with_a_fault_is_held(server: Server, open_it: Open) -> None:
    """R21: its ops wait, named by the cause, in order; all others go; nothing is rejected."""
    link = Link(server, down=True)
    store, engine = open_it(link)
    store["bad"].put("k", [])
    for number in range(30):
        store["bad"].append("k", "", number)
        store["good"].append("k", "", number)
        store["bad"].put(str(number), number)
    server.poison = {("bad", key): NO_RIGHT for key in ("k", *map(str, range(40)))}
    link.down = False
    eventually(lambda: engine.mode is Mode.DIRECT)
    assert Store(EmbeddedEngine(server.database))["good"].get("k") == list(range(30))
    assert store["good"].put("direct", 1).durable_on == "primary"
    assert store["bad"].append("k", "", 30) == list(range(31))  # behind what waits
    health = store.health()
    assert (health.healthy, health.lag_ops) == (False, 62)
    for part in ("`bad` is held since", "no right", "safe in the journal", "ask for it"):
        assert part in health.cause
    assert health.problems == (health.cause,)
    server.poison.clear()
    wait_direct(engine)
    bad = Store(EmbeddedEngine(server.database))["bad"]
    assert bad.get("k") == list(range(31))
    assert bad.count() == 31
    assert server.database.conflicts() == []
    assert store.health().healthy


def test_what_is_written_to_a_held_collection_meanwhile_waits_too(
    memory: Server, open_it: Open
) -> None:
    """R21: a second outage, with new writes on both sides of the fault, changes nothing of it."""
    link = Link(memory, down=True)
    store, engine = open_it(link)
    memory.poison = {("bad", "k"): NO_RIGHT}
    for _ in range(3):
        for name in ("bad", "good"):
            store[name].increment("n" if name == "good" else "k", "")
        link.down = False
        eventually(lambda: engine.mode is Mode.DIRECT)
        store["good"].increment("n", "")
        link.down = True
        eventually(lambda: engine.mode is not Mode.DIRECT or not store["good"].append("l", "", 1))
    link.down = False
    eventually(lambda: engine.mode is Mode.DIRECT)
    assert others_of(memory, "good").get("n") == 6
    memory.poison.clear()
    wait_direct(engine)
    assert others_of(memory, "bad").get("k") == 3
    assert memory.database.conflicts() == []


def test_a_batch_over_a_held_collection_waits_whole(memory: Server, open_it: Open) -> None:
    """R21: an all-or-nothing batch waits for the collection that is held, and what is behind it."""
    link = Link(memory, down=True)
    store, engine = open_it(link)
    store["good"].append("a", "", 1)
    with store.batch() as batch:
        batch.append("good", "a", "", 2)
        batch.append("bad", "k", "", 2)
    store["good"].append("a", "", 3)
    store["good"].append("b", "", 1)
    store["bad"].append("k", "", 3)
    memory.poison = {("bad", "k"): NO_RIGHT}
    link.down = False
    eventually(lambda: engine.mode is Mode.DIRECT)
    good = others_of(memory, "good")
    assert (good.get("a"), good.get("b")) == ([1], [1])
    memory.poison.clear()
    wait_direct(engine)
    assert (good.get("a"), others_of(memory, "bad").get("k")) == ([1, 2, 3], [2, 3])


def test_a_held_collection_survives_a_restart(memory: Server, open_it: Open) -> None:
    """R21: killed while a collection is held, the next process holds it again and loses nothing."""
    link = Link(memory, down=True)
    store, engine = open_it(link)
    store["bad"].put("k", [])
    for number in range(5):
        store["bad"].append("k", "", number)
        store["good"].append("k", "", number)
    memory.poison = {("bad", "k"): NO_RIGHT}
    link.down = False
    eventually(lambda: engine.mode is Mode.DIRECT)
    link.down = True
    store.close(timeout_s=0)
    store, engine = open_it(Link(memory))
    eventually(lambda: engine.mode is Mode.DIRECT and store.health().problems)
    assert store["bad"].append("k", "", 5) == list(range(6))
    memory.poison.clear()
    wait_direct(engine)
    assert others_of(memory, "bad").get("k") == list(range(6))
    assert others_of(memory, "good").get("k") == list(range(5))


FAILING = Unavailable("it always fails", code="server_internal")


def test_a_write_that_the_server_fails_on_is_isolated(
    memory: Server, open_it: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R21, I6: it is tried alone, all others go, and after some attempts it is a conflict."""
    monkeypatch.setattr(waiting_module, "LONGEST_SUSPECT_PAUSE_S", 0.01)
    link = Link(memory, down=True)
    store, engine = open_it(link)
    receipts = [store["c"].put(str(number), number) for number in range(20)]
    after_it = store["c"].increment("7", "", 100)
    memory.poison = {("c", "7"): FAILING}
    link.down = False
    wait_direct(engine)
    assert after_it == 107
    assert sorted(memory.database.read("c", list(map(str, range(20))))) == sorted(
        str(number) for number in range(20) if number != 7
    )
    found = [(one.key, one.reason, one.mine) for one in memory.database.conflicts()]
    assert found == [("7", "server_internal", "7"), ("7", "server_internal", "100")]
    assert [store.outcome(one).state for one in receipts[6:9]] == ["applied", "rejected", "applied"]


def test_a_server_that_fails_on_everything_costs_nothing(
    memory: Server, open_it: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R21: where no write goes, the server is at fault: nothing is rejected, and all of it goes."""
    monkeypatch.setattr(waiting_module, "LONGEST_SUSPECT_PAUSE_S", 0.001)
    monkeypatch.setattr(waiting_module, "FIRST_SUSPECT_PAUSE_S", 0.001)
    link = Link(memory, down=True)
    store, engine = open_it(link)
    for number in range(20):
        store["c"].put(str(number), number)
    memory.poison = {("c", str(number)): FAILING for number in range(20)}
    link.down = False
    eventually(lambda: any("`c` is held" in one for one in store.health().problems))
    eventually(lambda: len(memory.sent("c", "0")) == 0 and engine.mode is Mode.DIRECT)
    assert memory.database.conflicts() == []
    memory.poison.clear()
    wait_direct(engine)
    assert others_of(memory, "c").count() == 20
    assert memory.database.conflicts() == []


def test_a_write_that_takes_long_is_never_rejected(
    memory: Server, open_it: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R20: a miss gives it more time and lets all others go first; it is never a conflict."""
    monkeypatch.setattr(waiting_module, "LONGEST_SUSPECT_PAUSE_S", 0.001)
    link = Link(memory, down=True)
    store, engine = open_it(link)
    for number in range(20):
        store["c"].put(str(number), number)
    given: list[float] = []
    original = link.apply

    def apply(ops: Any, **options: Any) -> Any:
        if any(op.key == "3" for op in ops):
            given.append(options["deadline"] - time.monotonic())
            if given[-1] < 100:
                raise DeadlineExceeded("too slow")
            assert others_of(memory, "c").count() == 19
        return original(ops, **options)

    link.apply = apply  # type: ignore[method-assign]
    link.down = False
    wait_direct(engine)
    eventually(lambda: others_of(memory, "c").count() == 20)
    assert memory.database.conflicts() == []
    alone = [round(one) for one in given[-5:]]
    assert alone == [round(alone[0] * 2**number) for number in range(5)]


def test_a_locked_row_waits_and_loses_nothing(server: Server, open_it: Open) -> None:
    """I2, I3: the store is DIRECT while a replayed op waits for a lock; it arrives when it can."""
    link = Link(server, down=True)
    store, engine = open_it(link)
    first = store["c"].put("k", [1])
    server.locked.add(("c", "k"))
    link.down = False
    eventually(lambda: engine.mode is Mode.DIRECT)
    for number in range(5):
        assert store["c"].put(str(number), number).durable_on == "primary"
    assert store["c"].get("k") == [1]
    assert store["c"].append("k", "", 2) == [1, 2]
    assert store.outcome(first).state == "pending"
    server.locked.clear()
    wait_direct(engine)
    assert others(server)["c"].get("k") == [1, 2]
    assert store.outcome(first).state == "applied"
    assert engine.local_state.journal.lanes()


def test_a_locked_row_among_others_holds_up_only_its_own(server: Server, open_it: Open) -> None:
    """I3: on replay the ops on other keys go on; those on the locked key keep their order."""
    link = Link(server, down=True)
    store, engine = open_it(link)
    for number in range(4):
        store["c"].put(f"a{number}", number)
        store["c"].append("k", "", number)
        with store.batch() as batch:
            batch.append("c", "g", "", number)
            batch.append("c", "k" if number == 2 else "h", "", number)
    server.locked.add(("c", "k"))
    link.down = False
    eventually(lambda: engine.mode is Mode.DIRECT)
    found = others(server)["c"]
    assert list(found.keys()) == ["a0", "a1", "a2", "a3", "g", "h"]
    assert found.get_many(["g", "h"]) == {"g": [0, 1], "h": [0, 1]}  # those behind a group wait
    server.locked.clear()
    wait_direct(engine)
    assert others(server)["c"].get_many(["g", "h", "k"]) == {
        "g": [0, 1, 2, 3],
        "h": [0, 1, 3],
        "k": [0, 1, 2, 2, 3],
    }


def test_groups_are_whole_in_an_outage_and_on_replay(server: Server, open_it: Open) -> None:
    """All or nothing: a batch is journaled whole, replayed in one transaction, rejected whole."""
    link = Link(server, down=True)
    store, engine = open_it(link)
    with store.batch() as kept:
        for number in range(1200):  # more than one transaction takes of single writes
            kept.put("c", str(number), number)

    def refused() -> None:
        with store.batch() as batch:
            batch.put("c", "x", 1)
            batch.put("c", "y", 1, if_absent=True)

    with pytest.raises(Unavailable):
        refused()
    with store.batch() as rejected:
        rejected.put("c", "p", 1)
        rejected.put("c", "poison", 1)
    server.poison[("c", "poison")] = POISON
    assert store.health().lag_ops == 1202
    link.down = False
    wait_direct(engine)
    sizes = [len(batch) for batch in server.applied if any(op.key == "0" for op in batch)]
    assert len(sizes) == 1
    assert sizes[0] >= 1200
    assert others(server)["c"].count() == 1200
    assert {entry.key for entry in server.database.conflicts()} == {"p", "poison"}
    assert store.outcome(kept.receipts[0]).state == "applied"
    assert store.outcome(rejected.receipts[0]).state == "rejected"


def test_groups_stay_whole_on_a_fresh_lane(server: Server, open_it: Open) -> None:
    """R1: a batch whose lane was fenced is one batch still, applied or rejected as a whole."""
    link = Link(server, down=True)
    store, engine = open_it(link)
    for keys in ("ab", "cd", "ef"):
        with store.batch() as batch:
            for key in keys:
                batch.put("c", key, 1)
    server.poison[("c", "d")] = POISON
    server.database.fence([batch.receipts[0].lane])
    link.down = False
    wait_direct(engine)
    assert list(store["c"].keys()) == ["a", "b", "e", "f"]
    assert [entry.key for entry in server.database.conflicts()] == ["c", "d"]
    assert store.outcome(batch.receipts[0]).state == "applied"


@pytest.mark.parametrize("alone", [True, False])
def test_provisional_holds_only_for_exactly_that_document(
    server: Server, open_it: Open, alone: bool
) -> None:
    """A condition judged here is applied if nobody came between, and else rejected, not forced."""
    link = Link(server)
    store, engine = open_it(link)
    wait_direct(engine)
    store["c"].put("k", {"n": 1})
    store["c"].get("new")
    link.down = True
    store["c"].patch("k", {"m": 1})
    seen = store["c"].read("k")
    assert seen is not None
    receipt = store["c"].put("k", {"n": 2}, if_version=seen.version, provisional=True)
    created = store["c"].put("new", 1, if_absent=True, provisional=True)
    for wrong in (seen.version, 1, 0, 7):
        with pytest.raises(ConflictError):
            store["c"].put("k", 3, if_version=wrong, provisional=True)
    with pytest.raises(ConflictError):
        store["c"].put("new", 2, if_absent=True, provisional=True)
    with pytest.raises(Unavailable) as caught:
        store["c"].put("unknown", 1, if_absent=True, provisional=True)
    assert caught.value.code == "needs_primary"
    if not alone:
        others(server)["c"].patch("k", {"x": 1})
        others(server)["c"].put("new", "theirs")
    link.down = False
    wait_direct(engine)
    states = {store.outcome(receipt).state, store.outcome(created).state}
    assert states == ({"applied"} if alone else {"rejected"})
    assert store["c"].get("k") == ({"n": 2} if alone else {"n": 1, "m": 1, "x": 1})
    assert store["c"].get("new") == (1 if alone else "theirs")
    if not alone:
        assert store.outcome(receipt).reason == "condition"


def test_a_sole_writer_judges_conditions_itself(memory: Server, open_it: Open) -> None:
    """`sole_writer=True`: every condition is judged here in an outage, batches included."""
    link = Link(memory)
    store, engine = open_it(link, sole_writer=True)
    wait_direct(engine)
    store["c"].put("k", 1)
    store["c"].get("new")
    link.down = True
    assert store["c"].pop("k") == 1
    assert store["c"].get_or_create("new", [1]) == [1]
    with store.batch() as batch:
        batch.put("c", "k", 2, if_absent=True)
        batch.delete("c", "new", if_version=store["c"].read("new").version)  # type: ignore[union-attr]
    link.down = False
    wait_direct(engine)
    assert dict(store["c"].items()) == {"k": 2}
    assert memory.database.conflicts() == []


def test_time_to_live_goes_on_in_the_journal(open_it: Open) -> None:
    """A document whose time is over when it arrives is not there; another has what is left."""
    server = Server()
    link = Link(server, down=True)
    store, engine = open_it(link)
    store["c"].put("short", 1, ttl_s=0.000001)
    store["c"].put("long", 1, ttl_s=1000)
    store["c"].put("always", 1)
    now = server.database._now_us
    late_us = 400_000_000
    original = replayer_module._aged
    replayer_module._aged = lambda op, now_us: original(op, now_us + late_us)
    try:
        link.down = False
        wait_direct(engine)
    finally:
        replayer_module._aged = original
    rows = server.database.read("c", ["short", "long", "always"])
    assert rows["always"].expires_us is None
    assert 0 < rows["long"].expires_us - now() <= 600_000_000
    eventually(lambda: sorted(server.database.read("c", ["short", "long"])) == ["long"])


@pytest.mark.parametrize("kind", ["identity", "system"])
def test_another_database_gets_nothing(memory: Server, open_it: Open, kind: str) -> None:
    """I9: pending ops are held when another database, or a copy, answers under the same address."""
    identity = memory.database.identity()
    memory.server_identity = ServerIdentity(identity, "system")
    store, engine = open_it(Link(memory))
    wait_direct(engine)
    store["c"].put("k", 1)
    store.close()
    store, engine = open_it(Link(memory, down=True))
    store["c"].put("k", 2)
    store.close(timeout_s=0)
    wrong = Server(
        server_identity=ServerIdentity("other", "system")
        if kind == "identity"
        else ServerIdentity(identity, "copy")
    )
    link = Link(wrong)
    store, engine = open_it(link)
    eventually(lambda: engine.situation.cause == "other_database")
    assert store["c"].put("k", 3).durable_on == "journal"
    assert store["c"].get("k") == 3
    assert wrong.applied == []
    assert store.close(timeout_s=0) == 2
    store, engine = open_it(Link(memory))
    wait_direct(engine)
    assert store["c"].get("k") == 3


def test_a_new_address_with_nothing_pending_is_a_move(memory: Server, open_it: Open) -> None:
    """I9: another address with nothing pending begins anew; what the old one said is forgotten."""
    store, engine = open_it(Link(memory))
    wait_direct(engine)
    store["c"].put("k", 1)
    assert store.close() == 0
    link = Link(Server())
    link.display = "memory://new"
    store, engine = open_it(link)
    wait_direct(engine)
    assert store["c"].get("k") is None
    link.down = True
    store["c"].put("x", 1)
    with pytest.raises(Unavailable) as caught:
        store["c"].get("k")  # others may have made it since
    assert caught.value.code == "not_mirrored"


def test_two_engines_of_one_directory_share_its_journal(server: Server, open_it: Open) -> None:
    """I2, I3: what one leaves pending the other delivers, in the order of the directory."""
    far, near = Link(server, down=True), Link(server)
    first, one = open_it(far)
    second, two = open_it(near)
    wait_direct(two)
    first["c"].append("k", "", 1)
    first["c"].put("only", 1)
    assert second["c"].append("k", "", 2) in ([1, 2], [2], None)
    first["c"].append("k", "", 3)
    assert second["c"].put("look", 1)
    wait_direct(two)
    far.down = False
    wait_direct(one)
    assert first["c"].get("k") == [1, 2, 3]
    assert second["c"].get("only") == 1
    assert {one._writer.lane.id, two._writer.lane.id} <= set(one.local_state.journal.lanes())
    assert second["c"].append("k", "", 4) == first["c"].get("k") == [1, 2, 3, 4]


def test_a_cloned_directory_delivers_nothing_twice(
    server: Server, open_it: Open, tmp_path: Path
) -> None:
    """R1, I2: a copy of the data directory fences the lane; both together deliver each op once."""
    link = Link(server)
    store, engine = open_it(link)
    wait_direct(engine)
    store["c"].put("n", 0)
    link.down = True
    for _ in range(3):
        store["c"].increment("n", "")
    shutil.copytree(tmp_path / "data", tmp_path / "clone")
    clone, cloned = open_it(Link(server, down=True), data_dir=tmp_path / "clone")
    link.down = False
    wait_direct(engine)
    assert store["c"].increment("n", "") == 4
    clone.close(timeout_s=0)
    clone, cloned = open_it(Link(server), data_dir=tmp_path / "clone")
    wait_direct(cloned)
    assert clone["c"].get("n") == 4
    assert store["c"].increment("n", "") == 5
    assert store["c"].put("k", 1).durable_on == "primary"


def test_a_replay_that_is_lost_again_goes_on(server: Server, open_it: Open) -> None:
    """I2, R2: replies of the replay that are lost, before and after, double and lose nothing."""
    link = Link(server, down=True)
    store, engine = open_it(link)
    for number in range(10):
        store["c"].append("l", "", number)
        store["c"].increment("n", "")
    link.script = [after(LOST), before(LOST), after("deadline"), before("disk_full")]
    link.down = False
    wait_direct(engine)
    assert others(server)["c"].get_many(["l", "n"]) == {"l": list(range(10)), "n": 10}
    assert server.database.conflicts() == []


def test_a_new_database_is_known_after_the_first_replay(open_it: Open) -> None:
    """I9, I12: whose ops were delivered is known at once, and what they made stays known here."""
    server = Server(has_schema=False)
    link = Link(server, down=True)
    store, engine = open_it(link)
    store["c"].put("k", 1)
    link.down = False
    wait_direct(engine)
    assert engine.local_state.history is not None
    store["c"].put("k2", 2)
    link.down = True
    store["c"].put("notice", 1)
    assert store["c"].get_many(["k", "k2"]) == {"k": 1, "k2": 2}


def test_a_mirror_that_is_gone_holds_up_nothing(memory: Server, open_it: Open) -> None:
    """The mirror is disposable: without it writes go on, and pending ones are delivered."""
    link = Link(memory)
    store, engine = open_it(link)
    wait_direct(engine)
    store["c"].put("k", 1)
    (engine.local_state.data_dir / "mirror.db").unlink()
    assert store["c"].put("k", 2).durable_on == "primary"
    assert store["c"].get("k") == 2
    link.down = True
    store["c"].put("k", 3)
    assert store["c"].get("k") == 3
    with pytest.raises(Unavailable):
        store["c"].get("other")
    link.down = False
    wait_direct(engine)
    assert store["c"].get("k") == 3


def test_a_journal_that_is_gone_is_written_to_no_more(memory: Server, open_it: Open) -> None:
    """I1: an unlinked journal is noticed before a write is acknowledged.

    A new one has it then, or the spool: whoever opens the directory next finds it.
    """
    link = Link(memory, down=True)
    store, engine = open_it(link)
    (engine.local_state.data_dir / "journal.db").unlink()
    for value in (1, 2):
        assert store["c"].put("k", value).durable_on in ("journal", "spool")
        assert store["c"].get("k") == value
    store.close()
    store, engine = open_it(link)
    assert store["c"].get("k") == 2
    link.down = False
    store.flush(timeout_s=10)
    assert [op.body for batch in memory.applied for op in batch] == ["1", "2"]


def test_an_old_journal_is_not_replayed_unasked(
    memory: Server, open_it: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A journal that was forgotten for a day overwrites nothing until somebody confirms it."""
    monkeypatch.setattr(replayer_module, "MAX_JOURNAL_AGE_S", -1.0)
    link = Link(memory, down=True)
    store, engine = open_it(link)
    store["c"].put("k", 1)
    link.down = False
    eventually(lambda: engine.situation.mode is Mode.DRAINING and engine.situation.attempts > 1)
    assert memory.applied == []
    assert store["c"].put("k", 2).durable_on == "journal"
    assert store["c"].get("k") == 2
    engine.replayer.confirmed = True
    wait_direct(engine)
    assert store["c"].get("k") == 2


@pytest.mark.parametrize(("side", "left"), [("mine", 2), ("theirs", 3), ("newest", 2)])
def test_a_true_conflict_goes_by_the_policy(open_it: Open, side: Any, left: int) -> None:
    """I5: both sides changed one field: `on_conflict` decides, and all three are recorded."""
    server = Server(MemoryBackend(now_us=lambda: 1_000_000))
    link = Link(server)
    store, engine = open_it(link, on_conflict=side)
    wait_direct(engine)
    store["c"].put("k", {"n": 1})
    link.down = True
    receipt = store["c"].put("k", {"n": 2})
    others(server)["c"].put("k", {"n": 3})
    link.down = False
    wait_direct(engine)
    assert store["c"].get("k") == {"n": left}
    (entry,) = server.database.conflicts()
    assert (entry.base, entry.mine, entry.theirs) == ('{"n":1}', '{"n":2}', '{"n":3}')
    assert store.outcome(receipt).conflict == entry.id
