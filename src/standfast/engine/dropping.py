"""One drop of a collection, as an engine does it: on the primary, then in the local files."""

from __future__ import annotations

from standfast.backends.base import Backend, Dropped
from standfast.engine import clock
from standfast.engine.local_state import LocalState
from standfast.engine.state_machine import CUT
from standfast.errors import DeadlineExceeded, StandfastError, Unavailable


class Drop:
    """May be tried again after a lost reply: only the collection goes that was there at first.

    What is pending on it here has to be on the primary before.  `local_state`: None where there are
    no local files.
    """

    def __init__(
        self, collection: str, *, if_empty: bool, local_state: LocalState | None = None
    ) -> None:
        self.collection = collection
        self._if_empty = if_empty
        self._local_state = local_state
        self._incarnation: str | None = None
        self._sent = False

    def __call__(self, backend: Backend, deadline: float | None) -> bool:
        """Whether the collection was there, and is gone."""
        local = self._local_state
        if local is not None and (waiting := len(local.journal.keys(self.collection))):
            raise _pending(self.collection, waiting)
        if self._incarnation is None:
            self._incarnation = backend.incarnation(self.collection, deadline=deadline)
        if self._incarnation is None:
            return False
        retried, self._sent = self._sent, True
        directory = None if local is None else local.journal.directory
        dropped = backend.drop(
            *(self.collection, self._incarnation),
            if_empty=self._if_empty,
            directory=directory,
            deadline=deadline,
        )
        if local is not None:
            self._tell(local, dropped)
        # Another one in its place: ours went by the first attempt, or somebody else has dropped it.
        return dropped is not None or retried

    def _tell(self, local: LocalState, dropped: Dropped | None) -> None:
        if dropped is None:
            local.forget_collection(self.collection)
        else:
            local.dropped(self.collection, dropped, seen_us=clock.now_us())

    def explained(self, error: StandfastError) -> StandfastError:
        """The error of the last attempt, for the caller."""
        unknown = isinstance(error, DeadlineExceeded) or error.code in (*CUT, "connection_lost")
        if not (self._sent and unknown):
            return error
        if self._local_state is not None:
            self._local_state.forget_collection(self.collection)
        return DeadlineExceeded(
            f"drop of `{self.collection}`: the reply was lost; whether it took effect is unknown",
            code="unknown_outcome",
            hint="look whether store.collections() still names it",
        )


def _pending(collection: str, waiting: int) -> Unavailable:
    return Unavailable(
        f"drop of `{collection}`: writes to {waiting} of its documents wait in the journal; nothing"
        " was changed",
        code="pending_writes",
        hint="store.flush() first; `standfast journal list` shows what holds them up",
    )
