"""A database in this process's memory that can be away, as a server can: for tests of outages."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from standfast.backends.memory import MemoryBackend
from standfast.errors import Unavailable


class MemoryServer:
    """As `MemoryBackend`; while `is_away` every call ends as without a connection."""

    def __init__(self) -> None:
        self._inner = MemoryBackend()
        self.is_away = False
        self.kind = self._inner.kind
        self.display = self._inner.display

    def new_handle(self) -> MemoryServer:
        """This one: it serves every thread."""
        return self

    @property
    def connected(self) -> bool:
        """Whether a call would be answered."""
        return not self.is_away

    def close(self) -> None:
        """Nothing to release."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call = getattr(self._inner, name)

        @wraps(call)
        def answered(*args: Any, **options: Any) -> Any:
            if self.is_away:
                raise Unavailable(
                    f"{self.display} is away, as a test wants it",
                    code="connection",
                    hint="standfast.testing.restore(store) brings it back",
                )
            return call(*args, **options)

        return answered
