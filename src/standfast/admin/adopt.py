"""`standfast doctor --adopt`: a person assigns the journal to another database."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from standfast.admin.data_dir import look
from standfast.admin.journal import drain_lock, opened_local_state
from standfast.backends.base import Backend
from standfast.config.settings import Settings
from standfast.engine.journal import History
from standfast.engine.local_state import LocalState
from standfast.errors import Unavailable
from standfast.ops.types import Op, ServerIdentity

#: Why a write whose condition is on a version of the former database becomes a conflict.
OTHER_HISTORY = "other_history"
#: How long the adoption waits for a replay that is under way.
LOCK_WAIT_S = 5.0


class Adoption(msgspec.Struct, frozen=True):
    """An adoption: the database before (None: none yet), the new one, and the pending writes."""

    before: History | None
    identity: str | None
    display: str
    ops: int
    rejected: int = 0
    """Conditional writes that become conflicts: their versions mean nothing in the new database."""


def adopt(
    settings: Settings, backend: Backend, *, agree: Callable[[Adoption], None]
) -> Adoption | None:
    """Assign the journal to the database that answers; None when it already belongs to it.

    `agree` raises to refuse.  `Unavailable("locked")` while a process has the directory open: its
    store still expects the former database.  The database gets our schema if it has
    none.  What is pending is replayed by the next process that opens the store.
    """
    local = look(settings.data_dir)
    deadline_s = settings.deadline_s
    server_identity = backend.server_identity(time.monotonic() + deadline_s)
    if not local.journal or (local.history is not None and local.history.is_of(server_identity)):
        return None
    _refuse_alive(settings)
    agree(Adoption(local.history, server_identity.identity, settings.target.display, local.ops))
    with (
        opened_local_state(settings) as local_state,
        drain_lock(settings.data_dir, timeout_s=LOCK_WAIT_S),
    ):
        _refuse_alive(settings)
        if server_identity.identity is None:
            backend.install([])
            server_identity = backend.server_identity(time.monotonic() + deadline_s)
        return _hand_over(local_state, server_identity, settings.target.display)


def _hand_over(local_state: LocalState, server_identity: ServerIdentity, display: str) -> Adoption:
    before = local_state.history
    # First these: a condition on a version of the old database could hold in the new one by
    # accident.  After a kill in between, they become conflicts in whichever database comes next.
    conditional = [one for one in local_state.journal.everything() if _is_bound(one.op)]
    local_state.journal.replace(
        conditional, lambda op: msgspec.structs.replace(op, reject=OTHER_HISTORY)
    )
    local_state.adopt(server_identity)
    ops = local_state.journal.totals().ops
    return Adoption(before, server_identity.identity, display, ops, len(conditional))


def _is_bound(op: Op) -> bool:
    """Whether an op's condition names a version, which means something in one history only."""
    return bool(op.if_version) and not op.reject


def _refuse_alive(settings: Settings) -> None:
    alive = look(settings.data_dir).alive
    if alive:
        raise Unavailable(
            f"a process has {settings.data_dir} open ({alive} lane(s)); nothing was changed",
            code="locked",
            hint="stop the app, run this again, and start it",
        )
