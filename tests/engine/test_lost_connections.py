"""R19: a lost connection is replaced, and what was sent goes again under the same names."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from standfast import ConflictError, DataError, StandfastError, Unavailable
from standfast.api.sync import Collection, Store
from standfast.engine.embedded import EmbeddedEngine
from standfast.engine.state_machine import Mode
from standfast.limits import MAX_FRESH_CONNECTIONS
from support.faulty import (
    GONE,
    LOCKED,
    LOST,
    Fault,
    Link,
    Open,
    Opened,
    Server,
    at_once,
    before,
    cut_off,
    wait_direct,
)

SENT = ["before", "after"]
CHECK = DataError("a CHECK refuses it", code="check")


def assert_no_outage(opened: Opened) -> None:
    """The store has not left DIRECT, and nothing is or was in its journal."""
    engine = opened[1]
    assert engine.mode is Mode.DIRECT
    assert engine.situation.cause == "everything is on the primary"
    assert engine.local_state.journal.totals().ops == 0


@pytest.mark.parametrize("when", SENT)
@pytest.mark.parametrize("code", [LOST, GONE])
def test_what_was_sent_goes_again_under_its_name(
    link: Link, opened: Opened, c: Collection, when: Any, code: str
) -> None:
    """R19, I2: on a fresh connection the same op takes effect once; the primary answers it."""
    c.put("n", 1)
    link.script = [Fault(when, code)]
    assert c.increment("n", "", 5) == 6
    assert_no_outage(opened)
    assert len({(op.lane, op.seq) for op in link.server.sent("c", "n")}) == 2
    assert c.read("n").version == 2  # type: ignore[union-attr]


@pytest.mark.parametrize("when", SENT)
def test_many_that_were_sent_have_their_own_answers(
    link: Link, opened: Opened, c: Collection, when: Any
) -> None:
    """R19, R12: each op of a batch gets the version and the value that it made, or its refusal."""
    c.put("n", 0)
    c.put("k", 1)
    link.script = [Fault("before"), Fault(when, LOST)]
    calls = [lambda: c.increment("n", "") for _ in range(3)]
    results = at_once(
        opened,
        link,
        [
            *calls,
            lambda: c.put("k", 2, if_version=1),
            lambda: c.put("k", 3, if_version=1),
            lambda: c.update("n", lambda value: value + 10),
            lambda: c.append("k", "", 1),
        ],
    )
    assert results[:3] == [1, 2, 3]
    assert (results[3].version, results[3].durable_on) == (2, "primary")
    assert isinstance(results[4], ConflictError)
    assert results[5] == 13
    assert isinstance(results[6], DataError)
    assert c.get("n") == 13
    assert c.get("k") == 2
    assert_no_outage(opened)


def test_a_connection_that_never_lasts_is_an_outage(
    link: Link, opened: Opened, c: Collection
) -> None:
    """R19: a primary that ends each fresh connection at once counts as lost after a few of them."""
    c.put("n", 1)
    link.script = [before(LOST)] * (MAX_FRESH_CONNECTIONS + 1)
    assert c.put("n", 2).durable_on == "journal"
    wait_direct(opened[1])
    assert c.get("n") == 2


def test_a_fresh_connection_that_fails_is_an_outage(
    link: Link, opened: Opened, c: Collection
) -> None:
    """R19: when no connection can be made, the op goes into the journal under its name."""
    c.put("n", 1)
    link.script = [cut_off(link, "after")]
    c.increment("n", "")
    wait_direct(opened[1])
    assert c.get("n") == 2


@pytest.mark.parametrize("reads", ["get", "count", "find", "items"])
def test_a_read_is_asked_again(link: Link, opened: Opened, c: Collection, reads: str) -> None:
    """R19: a read whose connection has ended is answered by the primary on a fresh one."""
    Store(EmbeddedEngine(link.server.database))["c"].put("k", {"a": 1})  # not known here
    c.put("other", 2)
    link.connected = False
    if reads == "get":
        assert c.get("k") == {"a": 1}
    elif reads == "count":
        assert c.count() == 2
    elif reads == "find":
        assert len(list(c.find({"a": 1}))) == 1
    else:
        assert dict(c.items()) == {"k": {"a": 1}, "other": 2}
    assert_no_outage(opened)


# ---- refused after it was sent once (R21: fence, then move)


@pytest.mark.parametrize("error", [CHECK, Unavailable("held", code=LOCKED)], ids=["check", LOCKED])
@pytest.mark.parametrize("arrives", ["never", "before the fence", "after the fence"])
def test_a_refusal_in_doubt_is_not_believed(
    server: Server, open_it: Open, error: Any, arrives: str
) -> None:
    """R21, I2: a batch is refused when it is sent again, while its first send may still run.

    Behind a fence of the lane it is known which; whatever was acknowledged takes effect once.
    """
    link = Slow(server)
    opened = store, engine = open_it(link)
    c = store["c"]
    c.put("n", 0)
    lane = store.health().lane
    link.holds = True
    hook = link.deliver if arrives == "before the fence" else None
    link.script = [Fault("before"), before(error, hook=hook)]
    results = at_once(opened, link, [lambda: c.increment("n", ""), lambda: c.put("other", 1)])
    if arrives == "after the fence":
        link.deliver()
    wait_direct(engine)
    assert results[0] == 1
    assert results[1].durable_on == ("journal" if arrives == "before the fence" else "primary")
    assert dict(c.items()) == {"n": 1, "other": 1}
    assert store.health().conflicts == {}
    assert lane != store.health().lane


class Slow(Link):
    """A link that loses the connection once, while a batch is still on its way to the server."""

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self.holds = False
        self._held: list[tuple[Any, Any]] = []

    def _apply(self, ops: Any, **options: Any) -> Any:
        if self.holds and len(ops) > 1:
            self.holds = False
            self._held.append((list(ops), options))
            raise Unavailable("lost", code=LOST)
        return super()._apply(ops, **options)

    def deliver(self) -> None:
        """What was on its way arrives."""
        for ops, options in self._held:
            with contextlib.suppress(StandfastError):  # it may find its lane closed
                self.server.database.apply(ops, **options)
