"""`standfast doctor --adopt`: a person assigns the journal to another database."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import msgspec

from standfast.admin.data_dir import look, opened_journal
from standfast.admin.journal import drain_lock, opened_local_state
from standfast.backends.base import Backend
from standfast.config.settings import Settings
from standfast.engine.histories import History, is_after, is_meant_for
from standfast.engine.journal import Pending
from standfast.engine.local_state import LocalState
from standfast.errors import Unavailable
from standfast.limits import MAX_TRANSACTION_OPS
from standfast.ops.types import ServerIdentity

#: Why a write whose condition is on a version of the former database becomes a conflict.
OTHER_HISTORY = "other_history"
#: How long the adoption waits for a replay that is under way.
LOCK_WAIT_S = 5.0


class Adoption(msgspec.Struct, frozen=True):
    """An adoption: the database before (None: none yet), the new one, and the pending writes.

    `went_back`: why it is known that the same database went back in time; empty for another one.
    `after` of the writes were acknowledged after that was seen.  `saved`: files with what the
    database confirmed shortly before, and no longer has.
    """

    before: History | None
    identity: str | None
    display: str
    ops: int
    went_back: str = ""
    after: int = 0
    saved: tuple[str, ...] = ()
    rejected: int = 0
    """Conditional writes that become conflicts: their versions mean nothing in the new database."""


def adopt(
    settings: Settings, backend: Backend, *, agree: Callable[[Adoption], None]
) -> Adoption | None:
    """Assign the journal to the database that answers; None when it already belongs to it.

    A database that went back in time is another one in this sense: the mirror is emptied, what is
    pending is replayed by the rules of conflicts, conditions on versions that it had are rejected.
    `agree` raises to refuse.  `Unavailable("locked")` while a process has the directory open: its
    store still expects the former database.  The database gets our schema if it has
    none.  What is pending is replayed by the next process that opens the store.
    """
    local = look(settings.data_dir)
    deadline_s = settings.deadline_s
    found = backend.server_identity(time.monotonic() + deadline_s, lanes=sorted(local.expected))
    why = local.lost(found)
    if not local.journal or not (why or _is_foreign(settings, found)):
        return None
    _refuse_alive(settings)
    after = _count_after(settings)
    display = settings.target.display
    agree(Adoption(local.history, found.identity, display, local.ops, why, after))
    with (
        opened_local_state(settings) as local_state,
        drain_lock(settings.data_dir, timeout_s=LOCK_WAIT_S),
    ):
        _refuse_alive(settings)
        if why and not (local_state.notice and local_state.notice.is_open):
            local_state.note_back(why, found.lanes or {})
        if found.identity is None:
            backend.install([])
            found = backend.server_identity(time.monotonic() + deadline_s)
        done = _hand_over(local_state, found, display)
        saved = local_state.notice.saved if why and local_state.notice else ()
        return msgspec.structs.replace(done, went_back=why, after=after, saved=saved)


def _is_foreign(settings: Settings, found: ServerIdentity) -> bool:
    """Whether another database answers than anything here was meant for."""
    with opened_journal(settings.data_dir) as journal:
        known = journal.history() if journal else None
        if journal is None or known is None or not known.is_of(found):
            return True
        display = settings.target.display
        return any(not is_meant_for(one.op.history, known, display) for one in journal.everything())


def _count_after(settings: Settings) -> int:
    with opened_journal(settings.data_dir) as journal:
        return sum(is_after(one.op.history) for one in journal.everything()) if journal else 0


def _hand_over(local_state: LocalState, found: ServerIdentity, display: str) -> Adoption:
    before, journal = local_state.history, local_state.journal
    rejected = 0
    # First these: a condition on a version of the old database could hold in the new one by
    # accident.  After a kill in between, they become conflicts in whichever database comes next.
    for page in pages(journal.everything()):
        # A version means something in one history only.
        conditional = [one for one in page if one.op.if_version and not one.op.reject]
        journal.replace(conditional, lambda op: msgspec.structs.replace(op, reject=OTHER_HISTORY))
        rejected += len(conditional)
    local_state.adopt(found)
    mark = local_state.mark
    for page in pages(journal.everything()):
        others = [one for one in page if one.op.history != mark]
        journal.replace(others, lambda op: msgspec.structs.replace(op, history=mark))
    ops = journal.totals().ops
    return Adoption(before, found.identity, display, ops, rejected=rejected)


def pages(pending: Iterable[Pending]) -> Iterator[list[Pending]]:
    """These writes in pages of bounded size."""
    each = iter(pending)
    while page := list(islice(each, MAX_TRANSACTION_OPS)):
        yield page


def _refuse_alive(settings: Settings) -> None:
    alive = look(settings.data_dir).alive
    if alive:
        raise Unavailable(
            f"a process has {settings.data_dir} open ({alive} lane(s)); nothing was changed",
            code="locked",
            hint="stop the app, run this again, and start it",
        )
