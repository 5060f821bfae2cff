"""Data directories on a scripted server in memory, for the scenarios of planted bugs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

from standfast import StandfastError
from standfast.api.sync import Collection, Store
from standfast.engine.embedded import EmbeddedEngine
from standfast.ops.types import Applied, Op
from support.faulty import LOST, Link, Opened, Server, fresh, open_link, wait_direct


class Wire(Link):
    """A link that ends with the writer's next batch on its way; if it `breaks`, it stays down."""

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self.breaks = self.loses = False
        self.held: list[tuple[list[Op], dict[str, Any]]] = []

    def apply(self, ops: Sequence[Op], **options: Any) -> Applied:
        if self.breaks or self.loses:
            self.down = self.breaks
            self.breaks = self.loses = False
            self.held.append((list(ops), options))
            raise fresh(LOST)
        return super().apply(ops, **options)

    def deliver(self) -> None:
        """What was on its way arrives after all."""
        for ops, options in self.held:
            with contextlib.suppress(StandfastError):
                self.server.database.apply(ops, **options)


class Memory:
    """A server in memory and data directories that use it; all stores are closed at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = Server()
        self._opened: list[tuple[Link, Store]] = []

    def link(self, *, down: bool = False) -> Link:
        return Link(self.server, down=down)

    def open(self, link: Link, *, wait: bool = True, name: str = "data", **options: Any) -> Opened:
        store, engine = open_link(link, self.folder / name, **options)
        self._opened.append((link, store))
        if wait:
            wait_direct(engine)
        return store, engine

    def die(self, store: Store, link: Link) -> None:
        """The process ends, without a word to the server."""
        link.down = True
        store.close(timeout_s=0)

    @property
    def others(self) -> Collection:
        """The collection as another program sees it."""
        return Store(EmbeddedEngine(self.server.database))["c"]

    def counted(self, expected: int) -> set[str]:
        """What is wrong with the counter `n`."""
        found = self.others.get("n", 0)
        return {"lost"} if found < expected else {"doubled"} if found > expected else set()

    def has_line(self, key: str) -> bool:
        """Whether a conflict records an op on this key."""
        return any(entry.key == key for entry in self.server.database.conflicts())

    def close(self) -> None:
        for link, store in self._opened:
            link.down = True
            store.close(timeout_s=0)


@contextmanager
def at_step(module: ModuleType, name: str, action: Callable[[], object]) -> Iterator[None]:
    """Do something whenever the code comes to this failpoint."""

    def failpoint(passed: str) -> None:
        if passed == name:
            action()

    with patch.object(module, "failpoint", failpoint):
        yield
