"""An app that lives through outages and is killed at a failpoint: `python -m support.outage_app`.

Each line of stdin is a `Part` as JSON.  It is played by a child of this process's own, which is
forked (that is quick, as everything is imported); two lines of stdout tell its pid, and how it
ended.  The outages are made by a proxy of the child's own, which dies with it.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psycopg

import standfast
from chaos.calls import CLAIMS, COUNTERS, LISTS, REGISTERS, Calls, Ended
from chaos.history import History
from standfast.backends.postgres import backend as postgres
from standfast.engine import replicated as core
from standfast.system import failpoints
from support.proxy import Proxy

PATCHES, GONE = "patches", "gone"
BATCHED = ("b0", "b1")
NOT_DRAINED = 3
_LIMIT_S = 30.0
_DEADLINE_S = 3.0
_CALLERS = 6

#: Imported before the first fork, so that no child has to.
IMPORTED = (postgres, core)


class Part(msgspec.Struct, kw_only=True):
    """What a child is to do, where, and at which failpoint it dies (`NAME@N`; "": at none).

    `port` is the server's, `address` that at which the store knows it: what is written before the
    server was reached is meant for that address.
    """

    role: str
    process: str
    url: str
    port: int
    address: int
    data_dir: str
    history: str
    log: str
    failpoint: str = ""
    seed: int = 0


def arm(failpoint: str) -> None:
    """What STANDFAST_FAILPOINT does for a process that starts."""
    name, _, count = failpoint.partition("@")
    failpoints._wanted, failpoints._left = name, int(count or 1) if name else 0


class AppCalls(Calls):
    """All kinds of writes, each with its lines of history."""

    def patch(self, key: str, token: str) -> Ended:
        """A member of its own for each token: the document is a list of them, to the checkers."""

        def patch(c: Any) -> dict[str, Any]:
            receipt = c.patch(key, {token: 1})
            return {"durable_on": receipt.durable_on}

        return self._call("append", PATCHES, key, token, patch)

    def batch(self, token: str, n: int) -> None:
        """A token for two lists and a number for a counter, all or nothing."""
        history = self.history
        calls = [history.invoke("append", LISTS, key, token) for key in BATCHED]
        calls.append(history.invoke("increment", COUNTERS, "bn", n))
        with self.store.batch() as batch:
            for key in BATCHED:
                batch.append(LISTS, key, "", token)
            batch.increment(COUNTERS, "bn", "", n)
        for call in calls:
            history.done(call, "ok", durable_on=batch.receipts[0].durable_on)

    def come_and_go(self, key: str) -> None:
        """A document that is put and deleted."""
        self._call("make", GONE, key, None, lambda c: {"version": c.put(key, 1).version})
        self._call("delete", GONE, key, None, lambda c: {"version": c.delete(key).version})

    def look(self, collection: str, key: str, *, first: bool) -> None:
        """Read; what an earlier process wrote and was acknowledged is never `not_mirrored`."""

        def see(c: Any) -> dict[str, Any]:
            try:
                found = c.read(key)
            except standfast.Unavailable as error:
                if not first or error.code != "not_mirrored":
                    raise
                return {"result": None, "source": "nowhere"}
            value = None if found is None else found.value
            is_patched = collection == PATCHES and isinstance(value, dict)
            return {"result": list(value) if is_patched else value}

        self._call("read", collection, key, "primary", see)


class App:
    """One life of the app."""

    def __init__(self, part: Part, *, answering: bool) -> None:
        self.part = part
        self.history = History(
            Path(part.history), part.process, worker="app", directory=part.data_dir
        )
        self.proxy = Proxy(part.port, port=part.address)
        if not answering:
            self.proxy.refuse()
        self.store = standfast.open(
            self.proxy.url(part.url), data_dir=part.data_dir, deadline_s=_DEADLINE_S
        )
        self.calls = AppCalls(self.store, self.history)
        self._count = 0
        self._choose = random.Random(f"{part.seed}:{part.process}")

    def token(self) -> str:
        self._count += 1
        return f"{self.part.process}:{self._count}"

    def write(self) -> None:
        """One write of every kind."""
        calls, choose = self.calls, self._choose
        steps: list[Callable[[], object]] = [
            lambda: calls.put(choose.choice(["r0", "r1"]), self.token()),
            lambda: calls.increment("n0", choose.randrange(1, 100)),
            lambda: calls.append(choose.choice(["l0", "l1"]), self.token()),
            lambda: calls.patch("p0", self.token()),
            lambda: calls.batch(self.token(), choose.randrange(1, 100)),
            lambda: calls.claim("c0", self.token()),
            lambda: calls.come_and_go(self.token()),
        ]
        if self.part.seed:
            choose.shuffle(steps)
        for step in steps:
            step()

    def know(self) -> None:
        """Write to every place, so that each is known here before an outage."""
        for key in ("r0", "r1"):
            self.calls.put(key, self.token())
        for key in ("l0", "l1"):
            self.calls.append(key, self.token())
        self.write()

    def look(self, *, first: bool = False) -> None:
        """Read every place."""
        places = [
            *((LISTS, key) for key in ("l0", "l1", *BATCHED, "l2")),
            *((COUNTERS, key) for key in ("n0", "bn")),
            *((REGISTERS, key) for key in ("r0", "r1")),
            *((PATCHES, "p0"), (CLAIMS, "c0")),
        ]
        for place in places:
            self.calls.look(*place, first=first)

    def burst(self) -> None:
        """Several callers at once: batches of more than one, confirmed while the next is sent."""
        tokens = [[self.token() for _ in range(4)] for _ in range(_CALLERS)]

        def call(own: list[str]) -> None:
            for token in own:
                self.store[LISTS].append("l2", "", token)
                self.history.note("told", token=token)

        threads = [threading.Thread(target=call, args=(own,)) for own in tokens]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def resent(self) -> None:
        """The reply of one commit is lost, and a fresh connection gives it (R19)."""
        self.proxy.drop_commit_replies(1)
        self.calls.append("l0", self.token())
        self.proxy.disarm()

    def doubt(self) -> None:
        """The reply of one commit is lost, and nobody is let in to ask: it stays in doubt."""
        dropped = self.proxy.fired["drop_commit_reply"]
        self.proxy.drop_commit_reply_and_refuse()
        self.calls.append("l0", self.token())
        assert self.proxy.fired["drop_commit_reply"] == dropped + 1, "it has not struck"
        assert self.store.health().lag_ops == 1, "it is journaled"

    def refused_in_doubt(self) -> None:
        """A put is lost on its way, and refused when it is sent again: neither has taken effect,
        which only a fence of the lane makes sure."""
        with psycopg.connect(self.part.url, autocommit=True) as connection:
            connection.execute(
                "ALTER TABLE registers DROP CONSTRAINT IF EXISTS not_this,"
                " ADD CONSTRAINT not_this CHECK (key <> 'refused')"
            )
        self.proxy.reset_before_commits(1)
        self.calls.put("refused", self.token())
        self.proxy.disarm()

    def outage(self) -> None:
        """The server is away, and writes go on."""
        self.proxy.refuse()
        self.write()
        self.look()
        self.write()

    def fenced(self) -> None:
        """A copy of the directory has taken this store's lane for dead, and closed it."""
        lane = self.store.health().lane
        with psycopg.connect(self.part.url, autocommit=True) as connection:
            connection.execute(
                "UPDATE standfast.lanes SET state = 'fenced' WHERE lane = %s", (lane,)
            )

    def back(self) -> None:
        """The server is back, and everything is on it."""
        self.proxy.heal()
        until = time.monotonic() + _LIMIT_S
        # Not `healthy`: the refusal of one write remains a problem to be looked at.
        while (health := self.store.health()).state != "direct" or health.lag_ops:
            if time.monotonic() > until:
                raise TimeoutError(f"never drained: {health}")
            threading.Event().wait(0.003)

    def close(self) -> int:
        left = self.store.close()
        self.history.note("drained" if not left else "not drained")
        self.history.close()
        self.proxy.close()
        return NOT_DRAINED if left else 0


# ---- the roles


def doubter(part: Part) -> int:
    """Knows every place, and dies with a write in its journal that has taken effect already."""
    app = App(part, answering=True)
    app.know()
    arm("drain-locked")
    app.doubt()
    app.back()
    return 1  # it is killed before


def outsider(part: Part) -> int:
    """Never reaches the server, and dies with writes in its journal."""
    app = App(part, answering=False)
    app.write()
    os.kill(os.getpid(), signal.SIGKILL)
    return 1


def life(part: Part) -> int:
    """Through an outage and back, twice, and then to its end."""
    arm(part.failpoint)
    is_fresh = not (Path(part.data_dir) / "journal.db").exists()
    app = App(part, answering=is_fresh)
    if is_fresh:
        app.know()
    app.look()
    app.write()
    app.back()
    app.write()
    app.look()
    app.burst()
    app.resent()
    app.refused_in_doubt()
    app.doubt()
    app.back()
    app.outage()
    app.fenced()
    app.back()
    app.write()
    if part.seed % 2:
        app.outage()
    return app.close()


def heir(part: Part) -> int:
    """Opens what a killed one left, at first without the server."""
    arm(part.failpoint)
    app = App(part, answering=False)
    app.look(first=True)
    app.write()
    app.back()
    app.look()
    app.write()
    return app.close()


def last(part: Part) -> int:
    """Opens, drains, reads, closes."""
    app = App(part, answering=True)
    app.look(first=True)
    app.back()
    app.look()
    app.write()
    return app.close()


ROLES: dict[str, Callable[[Part], int]] = {
    role.__name__: role for role in (doubter, outsider, life, heir, last)
}


def play(part: Part) -> int:
    """In the child: play the part; its exit code."""
    log = os.open(part.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        return ROLES[part.role](part)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        return 1


def main() -> None:
    """Fork a child for each line, until the end of the input."""
    for line in sys.stdin.buffer:
        part = msgspec.json.decode(line, type=Part)
        pid = os.fork()
        if not pid:
            os._exit(play(part))
        sys.stdout.write(json.dumps(pid) + "\n")
        sys.stdout.flush()
        _, status = os.waitpid(pid, 0)
        sys.stdout.write(json.dumps(os.waitstatus_to_exitcode(status)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
