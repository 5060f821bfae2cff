"""`standfast doctor --adopt`: a person decides that another database is the journal's new home."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from standfast.admin.data_dir import look
from standfast.admin.journal import drain_lock, held
from standfast.backends.base import Backend
from standfast.config.settings import Settings
from standfast.engine.journal import History
from standfast.engine.local_state import LocalState
from standfast.errors import Unavailable
from standfast.ops.types import Op, ServerIdentity

#: The ledger's reason for conditions on versions of a database that was left behind.
OTHER_HISTORY = "other_history"
#: How long a replay that is under way may go on before the adoption gives up.
LOCK_WAIT_S = 5.0


class Adoption(msgspec.Struct, frozen=True):
    """What changes hands: the database before (None: none yet), the new one, the writes pending."""

    before: History | None
    identity: str | None
    display: str
    ops: int
    rejected: int = 0
    """Conditional writes that go into the ledger: their versions mean nothing in the new one."""


def adopt(
    settings: Settings, backend: Backend, *, agree: Callable[[Adoption], None]
) -> Adoption | None:
    """Let the journal belong to the database that answers; None when it does already.

    `agree` raises when nobody agrees.  `Unavailable("locked")` while a process has the directory
    open: its store believes in the database of before.  The database gets our schema if it has
    none.  What is pending is replayed by the next process that opens the store.
    """
    local = look(settings.data_dir)
    deadline_s = settings.deadline_s
    server_identity = backend.server_identity(time.monotonic() + deadline_s)
    if not local.journal or (local.history is not None and local.history.is_of(server_identity)):
        return None
    _refuse_alive(settings)
    agree(Adoption(local.history, server_identity.identity, settings.target.display, local.ops))
    with held(settings) as local_state, drain_lock(settings.data_dir, timeout_s=LOCK_WAIT_S):
        _refuse_alive(settings)
        if server_identity.identity is None:
            backend.install([])
            server_identity = backend.server_identity(time.monotonic() + deadline_s)
        return _hand_over(local_state, server_identity, settings.target.display)


def _hand_over(local_state: LocalState, server_identity: ServerIdentity, display: str) -> Adoption:
    before = local_state.history
    # First these: a condition on a version of the old database could hold in the new one by
    # accident.  Killed in between, they are in the ledger of whichever database comes next.
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
