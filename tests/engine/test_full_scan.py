"""Whole collections while the primary is away: what was read once as a whole is there whole."""

from __future__ import annotations

import time
from pathlib import Path

import apsw
import pytest

from standfast import DeadlineExceeded, Unavailable
from standfast.api.sync import Collection, Store
from standfast.engine.embedded import EmbeddedEngine
from standfast.engine.full_scan import FullScan
from support.faulty import LOST, Link, Open, Server, after, eventually, wait_direct


def others(server: Server) -> Collection:
    """Another program that writes to the same collection."""
    return Store(EmbeddedEngine(server.database))["c"]


def refused(collection: Collection) -> None:
    """No scan of the collection says anything."""
    for scan in (
        collection.count,
        lambda: list(collection.keys()),
        lambda: list(collection.items()),
        lambda: list(collection.find({})),
    ):
        with pytest.raises(Unavailable) as caught:
            scan()
        assert caught.value.code == "not_mirrored"


def test_what_was_read_whole_is_there_whole_in_an_outage(server: Server, open_it: Open) -> None:
    """I4, I12: every scan answers from the mirror, with what is pending laid over."""
    values = {f"k{number:02}": {"n": number, "even": number % 2 == 0} for number in range(20)}
    others(server).put_many(values)
    link = Link(server)
    store, engine = open_it(link)
    wait_direct(engine)
    collection = store["c"]
    assert dict(collection.items()) == values
    link.down = True
    collection.put("new", {"n": 99, "even": False})
    collection.delete("k00")
    collection.patch("k01", {"even": True})
    expected = {key: value for key, value in values.items() if key != "k00"}
    expected["k01"] = {"n": 1, "even": True}
    expected["new"] = {"n": 99, "even": False}
    assert dict(collection.items()) == expected
    assert list(dict(collection.items())) == sorted(expected)
    assert list(collection.keys()) == sorted(expected)
    assert list(collection.keys(prefix="k1", after="k12", limit=3)) == ["k13", "k14", "k15"]
    behind = collection.keys(prefix="k1", after="k12", limit=3, reverse=True)
    assert list(behind) == ["k11", "k10"]
    assert collection.count() == 20
    found = list(collection.find({"even": True}))
    assert [document.key for document in found] == ["k01", *(f"k{n:02}" for n in range(2, 20, 2))]
    assert {document.source for document in found} == {"mirror"}
    assert all(document.age_s >= 0 for document in found)
    link.down = False
    wait_direct(engine)
    assert dict(others(server).items()) == expected
    assert {document.source for document in collection.find({})} == {"primary"}


def test_a_scan_says_as_of_when_it_is(server: Server, open_it: Open) -> None:
    """R24: now, by the primary; during an outage as of the last whole scan, whatever was read or
    written since; a collection that was never read whole says nothing."""
    others(server).put("old", 1)
    link = Link(server)
    store, engine = open_it(link)
    wait_direct(engine)
    before = time.time()
    assert list(store["c"].keys()) == ["old"]
    after_scan = time.time()
    others(server).put("later", 2)
    assert store["c"].as_of() is None
    link.down = True
    store["c"].put("mine", 3)
    assert list(store["c"].keys()) == ["mine", "old"]
    since = store["c"].as_of()
    assert since is not None
    assert before - 0.1 <= since <= after_scan
    with pytest.raises(Unavailable) as caught:
        store["other"].as_of()
    assert caught.value.code == "not_mirrored"
    link.down = False
    wait_direct(engine)
    assert store["c"].as_of() is None


def test_half_a_collection_is_not_taken_for_the_whole(memory: Server, open_it: Open) -> None:
    """I4: single reads and a scan that was not ended leave no claim to know all."""
    others(memory).put_many({f"k{number:04}": number for number in range(2500)})
    link = Link(memory)
    store, engine = open_it(link)
    wait_direct(engine)
    store["c"].get("k0000")
    for pages in range(3):
        items = store["c"].items()
        assert [next(items)[1] for _ in range(pages * 1000 + 1)][-1] == pages * 1000
        if pages < 2:
            link.down = True
            store["c"].put("zzz", 1)
            refused(store["c"])
            link.down = False
            wait_direct(engine)
    link.down = True
    store["c"].put("zzz", 2)
    assert store["c"].count() == 2501  # the third page was the last


def test_a_document_that_is_gone_is_not_served(server: Server, open_it: Open) -> None:
    """I4: what others deleted before the whole was read is gone in the mirror too."""
    other = others(server)
    other.put_many({"stays": 1, "goes": 2})
    link = Link(server)
    store, engine = open_it(link)
    wait_direct(engine)
    assert store["c"].get_many(["stays", "goes"]) == {"stays": 1, "goes": 2}
    other.delete("goes")
    assert dict(store["c"].items()) == {"stays": 1}
    other.put("made later", 3)
    link.down = True
    store["starter"].put("1", 1)
    assert dict(store["c"].items()) == {"stays": 1}
    for key in ("goes", "made later"):  # others may have made either since (R24)
        with pytest.raises(Unavailable) as caught:
            store["c"].get(key)
        assert caught.value.code == "not_mirrored"
    link.down = False
    wait_direct(engine)
    assert store["c"].get("made later", consistency="local") == 3  # not while it can be asked


def test_an_empty_collection_is_known_to_be_empty(server: Server, open_it: Open) -> None:
    """I4, R24: the only writer knows that a collection which it has read whole is empty."""
    link = Link(server)
    store, engine = open_it(link, sole_writer=True)
    wait_direct(engine)
    assert list(store["c"].items()) == []
    link.down = True
    store["starter"].put("1", 1)
    assert list(store["c"].items()) == []
    assert store["c"].get("k", "default") == "default"
    assert store["c"].append("k", "", "x") == ["x"]


def test_an_op_in_doubt_is_not_laid_over_its_own_effect(memory: Server, open_it: Open) -> None:
    """R8: a swept row that holds an op of ours is tagged so; the op is not applied to it again."""
    link = Link(memory)
    store, engine = open_it(link)
    wait_direct(engine)
    store["c"].put("k", {"n": 0})
    # The reply is lost, and nobody answers any more.
    link.script = [after(LOST, hook=lambda: setattr(link, "down", True))]
    assert store["c"].increment("k", "/n") in (1, None)
    assert engine.local_state.journal.totals().ops == 1
    full_scan = FullScan(engine.local_state, "c")
    full_scan.page(memory.database, after=None, limit=1000, deadline=time.monotonic() + 5)
    assert store["c"].get("k") == {"n": 1}
    assert dict(store["c"].items()) == {"k": {"n": 1}}
    link.down = False
    wait_direct(engine)
    assert others(memory).get("k") == {"n": 1}


def test_a_scan_that_misses_the_primary_is_answered_here(memory: Server, open_it: Open) -> None:
    """I4, I8: the scan that notices the outage gets what is known, and tells the store."""
    link = Link(memory)
    store, engine = open_it(link)
    wait_direct(engine)
    store["c"].put("k", 1)
    assert dict(store["c"].items()) == {"k": 1}
    connects = link.connects
    link.read_error = DeadlineExceeded("no answer")
    assert dict(store["c"].items()) == {"k": 1}
    link.read_error = None
    eventually(lambda: link.connects > connects)
    wait_direct(engine)
    assert dict(store["c"].items()) == {"k": 1}


def test_a_restart_without_the_primary_knows_the_whole(
    memory: Server, open_it: Open, tmp_path: Path
) -> None:
    """I12: a bot that starts while the database is away lists what it knew before."""
    link = Link(memory)
    store, engine = open_it(link)
    wait_direct(engine)
    store["c"].put_many({"a": 1, "b": 2})
    assert store["c"].count() == 2
    assert dict(store["c"].items()) == {"a": 1, "b": 2}
    link.down = True
    store["c"].put("c", 3)
    store.close(timeout_s=0.0)
    again, _ = open_it(Link(memory, down=True))
    assert dict(again["c"].items()) == {"a": 1, "b": 2, "c": 3}


def test_a_sole_writer_decides_on_keys_that_do_not_exist(memory: Server, open_it: Open) -> None:
    """What is known whole is known well enough for conditions, and they hold on replay."""
    link = Link(memory)
    store, engine = open_it(link, sole_writer=True)
    wait_direct(engine)
    store["c"].put("there", 1)
    assert len(list(store["c"].items())) == 1
    link.down = True
    receipt = store["c"].put("new", {"n": 1}, if_absent=True)
    document = store["c"].read("new")
    assert document is not None
    second = store["c"].put("new", {"n": 2}, if_version=document.version)
    store["c"].update("other", lambda value: [*value, 1], default=[])
    link.down = False
    wait_direct(engine)
    assert others(memory).get_many(["new", "other"]) == {"new": {"n": 2}, "other": [1]}
    assert [store.outcome(one).state for one in (receipt, second)] == ["applied", "applied"]


def test_too_stale_and_closed_fallbacks_are_refused(memory: Server, open_it: Open) -> None:
    """The bounds that a store was opened with hold for whole collections too."""
    link = Link(memory)
    store, engine = open_it(link, max_stale_s=1e-6)
    wait_direct(engine)
    store["c"].put("k", 1)
    list(store["c"].items())
    link.down = True
    store["starter"].put("1", 1)
    with pytest.raises(Unavailable) as caught:
        list(store["c"].items())
    assert caught.value.code == "too_stale"


def test_fallback_off_refuses_the_whole(memory: Server, open_it: Open) -> None:
    """`fallback="off"`: nothing is served from here."""
    link = Link(memory)
    store, engine = open_it(link, fallback="off")
    wait_direct(engine)
    store["c"].put("k", 1)
    list(store["c"].items())
    link.down = True
    with pytest.raises(Unavailable):
        store["c"].put("k", 2)
    refused(store["c"])


def test_a_mirror_of_an_earlier_version_is_used(
    memory: Server, open_it: Open, tmp_path: Path
) -> None:
    """A file that knows nothing of whole collections learns it."""
    link = Link(memory)
    store, _ = open_it(link)
    store.close()
    conn = apsw.Connection(str(tmp_path / "data" / "mirror.db"))
    conn.execute("DROP TABLE whole")
    conn.close()
    store, engine = open_it(Link(memory))
    wait_direct(engine)
    store["c"].put("k", 1)
    assert dict(store["c"].items()) == {"k": 1}


def test_the_first_write_of_all_leaves_what_was_read(memory: Server, open_it: Open) -> None:
    """A database gets its history with the first write; what was read before is still its own."""
    memory.has_schema = False
    link = Link(memory)
    store, engine = open_it(link)
    wait_direct(engine)
    assert list(store["c"].items()) == []
    store["c"].put("k", 1)
    link.down = True
    store["c"].put("l", 2)
    assert dict(store["c"].items()) == {"k": 1, "l": 2}
