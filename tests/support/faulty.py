"""A scripted primary: a database behind a link that can break, lose replies and refuse.

server = Server()
link = Link(server)            # what one engine reaches it by
link.down = True               # nobody answers on this link
link.script += [after(LOST)]   # the next apply takes effect, and its reply is lost
server.locked.add(("c", "k"))  # somebody holds the lock of this row
server.poison[("c", "k")] = DataError(...)   # the database takes no such row
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from standfast.api.sync import Store
from standfast.backends.base import Backend
from standfast.backends.memory import MemoryBackend
from standfast.engine.local_state import LocalState, OutageOptions
from standfast.engine.replicated import ReplicatedEngine
from standfast.engine.state_machine import Mode
from standfast.errors import StandfastError, Unavailable
from standfast.ops.batch import Place
from standfast.ops.types import Applied, Observed, Op, ServerIdentity

LOST, GONE, LOCKED = "connection_lost", "connection", "locked"
"""Codes of `Unavailable`: a reply is lost, nobody is there, somebody holds the lock of a row."""


def fresh(error: StandfastError | str) -> StandfastError:
    """An error of its own for each time that it is raised."""
    if isinstance(error, str):
        return Unavailable(f"scripted: {error}", code=error)
    return type(error)(error.message, code=error.code, hint=error.hint)


@dataclass(frozen=True)
class Fault:
    """What happens to one apply: an error before it, or after it has taken effect."""

    when: Literal["before", "after"]
    error: StandfastError | str | None = None
    hook: Callable[[], Any] | None = None

    def strike(self) -> None:
        if self.hook is not None:
            self.hook()
        if self.error is not None:
            raise fresh(self.error)


def before(
    error: StandfastError | str | None = None, hook: Callable[[], Any] | None = None
) -> Fault:
    return Fault("before", error, hook)


def after(
    error: StandfastError | str | None = None, hook: Callable[[], Any] | None = None
) -> Fault:
    return Fault("after", error, hook)


def cut_off(link: Link, when: Literal["before", "after"], error: str = LOST) -> Fault:
    """The connection ends, and the next one cannot be made at once."""
    return Fault(when, error, lambda: setattr(link, "unreached", 1))


@dataclass
class Server:
    """The database that links lead to; `has_schema` False: nobody has written to it yet."""

    database: Any = field(default_factory=MemoryBackend)
    locked: set[Place] = field(default_factory=set[Place])
    poison: dict[Place, StandfastError] = field(default_factory=dict[Place, StandfastError])
    has_schema: bool = True
    server_identity: ServerIdentity | None = None
    applied: list[list[Op]] = field(default_factory=list[list[Op]])

    def refuse(self, ops: Sequence[Op]) -> None:
        for op in ops:
            place = (op.collection, op.key)
            if place in self.locked:
                raise fresh(LOCKED)
            if place in self.poison and not op.reject:
                raise fresh(self.poison[place])

    def sent(self, collection: str, key: str) -> list[Op]:
        """Every op on a place in the order in which it was applied or tried again."""
        return [
            op
            for batch in self.applied
            for op in batch
            if (op.collection, op.key) == (collection, key)
        ]


class Serialized:
    """One connection to a real database for all threads of a test."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._lock = threading.RLock()
        backend.connect(time.monotonic() + 10)

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            with self._lock:
                return getattr(self._backend, name)(*args, **options)

        return call


class Link:
    """A backend: one engine's way to the server, shared by all of its threads."""

    kind = "memory"
    display = "memory://"

    def __init__(self, server: Server, *, down: bool = False) -> None:
        self.server = server
        self.script: list[Fault] = []
        self.gate: Callable[[], Any] | None = None
        """Called once, before the next batch that the writer sends."""
        self.read_error: StandfastError | None = None
        self.fence_error: StandfastError | None = None
        self.connects = self.reads = 0
        self.unreached = 0
        """So many attempts to connect fail from now on."""
        self._down = down
        self.connected = False

    @property
    def down(self) -> bool:
        return self._down

    @down.setter
    def down(self, value: bool) -> None:
        self._down = value
        if value:
            self.connected = False

    def new_handle(self) -> Link:
        return self

    def connect(
        self,
        deadline: float,
        *,
        accept: Callable[[ServerIdentity], object] | None = None,
        lanes: Sequence[str] = (),
    ) -> ServerIdentity:
        self.connects += 1
        if self._down or self.unreached > 0:
            self.unreached -= 1
            raise fresh(GONE)
        server_identity = self._hello(lanes)
        if accept is not None:
            accept(server_identity)
        self.connected = True
        return server_identity

    def server_identity(self, deadline: float, *, lanes: Sequence[str] = ()) -> ServerIdentity:
        self._reach()
        return self._hello(lanes)

    def _hello(self, lanes: Sequence[str] = ()) -> ServerIdentity:
        server_identity = self.server.server_identity or self.server.database.server_identity(
            time.monotonic() + 5, lanes=lanes
        )
        return server_identity if self.server.has_schema else ServerIdentity(None)

    def _reach(self) -> None:
        if self._down or not self.connected:
            self.connected = False
            raise fresh(GONE)

    def apply(self, ops: Sequence[Op], **options: Any) -> Applied:
        try:
            return self._apply(ops, **options)
        except Unavailable as error:
            if error.code in (LOST, GONE):
                self.connected = False
            raise

    def _apply(self, ops: Sequence[Op], **options: Any) -> Applied:
        self._reach()
        if self.gate is not None and threading.current_thread().name != "standfast-replayer":
            gate, self.gate = self.gate, None
            gate()
        fault = self.script.pop(0) if self.script else None
        if fault is not None and fault.when == "before":
            fault.strike()
        self.server.refuse(ops)
        applied = self.server.database.apply(ops, **options)
        self.server.has_schema = True
        self.server.applied.append(list(ops))
        if fault is not None and fault.when == "after":
            fault.strike()
        if self._down:
            raise fresh(LOST)
        return applied

    def fence(self, lanes: Sequence[str], **options: Any) -> dict[str, int]:
        self._reach()
        if self.fence_error is not None:
            raise fresh(self.fence_error)
        return self.server.database.fence(lanes, **options)

    def observe(self, collection: str, keys: Sequence[str], **options: Any) -> Observed:
        self._read()
        return self.server.database.observe(collection, keys, **options)

    def page(self, collection: str, **options: Any) -> Observed:
        self._read()
        return self.server.database.page(collection, **options)

    def _read(self) -> None:
        self.reads += 1
        self._reach()
        if self.read_error is not None:
            raise fresh(self.read_error)

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            self._reach()
            return getattr(self.server.database, name)(*args, **options)

        return call

    def close(self) -> None:
        """The connection of one thread; the others of the engine close theirs, too."""


Opened = tuple[Store, ReplicatedEngine]
Open = Callable[..., Opened]
"""What the fixture `open_it` gives: `open_link` in the test's directory, closed afterwards."""


def open_link(link: Link, data_dir: Path, *, deadline_s: float = 5.0, **options: Any) -> Opened:
    """A store over a link, with threads and local files as `standfast.open` would give it."""
    hold = LocalState(data_dir, OutageOptions(**options), display=link.display)
    engine = ReplicatedEngine(link, hold, deadline_s=deadline_s)  # type: ignore[arg-type]
    engine.start()
    return Store(engine), engine


def at_once(opened: Opened, link: Link, calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """Make calls that the writer takes as one batch, in order: what each returned or raised."""
    store, engine = opened
    held, go = threading.Event(), threading.Event()
    results: list[Any] = [None] * len(calls)

    def gate() -> None:
        held.set()
        go.wait(20)

    def work(index: int) -> None:
        try:
            results[index] = calls[index]()
        except StandfastError as error:
            results[index] = error

    link.gate = gate
    threads = [threading.Thread(target=lambda: store["starter"].put("1", 1))]
    threads[0].start()
    assert held.wait(20)
    for index in range(len(calls)):
        waiting = engine.write_queue._ops
        threads.append(threading.Thread(target=work, args=(index,)))
        threads[-1].start()
        eventually(lambda n=waiting: engine.write_queue._ops > n)
    go.set()
    for thread in threads:
        thread.join()
    return results


def eventually(condition: Callable[[], Any], *, timeout_s: float = 20.0) -> Any:
    """What the condition returns as soon as that is true; AssertionError when it never is."""
    until = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < until, f"never came true: {condition}"
        threading.Event().wait(0.003)
    return found


def wait_mode(engine: ReplicatedEngine, mode: Mode) -> None:
    eventually(lambda: engine.mode is mode)


def wait_direct(engine: ReplicatedEngine) -> None:
    """DIRECT, and nothing pending."""
    eventually(lambda: engine.mode is Mode.DIRECT and not engine.local_state.journal.totals().ops)
