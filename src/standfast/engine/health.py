"""How a store is doing: one struct, from local knowledge, that costs a few small reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import msgspec

from standfast.engine import clock
from standfast.engine.activity import LastError, Report
from standfast.engine.local_state import LocalState
from standfast.engine.refusals import Refusal
from standfast.engine.state_machine import Mode, Situation
from standfast.errors import CorruptData, StandfastError
from standfast.system.supervision import Trouble


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a store at one moment.

    `state`: direct, draining or journaling, with its `cause`.  `lag_ops` acknowledged writes wait
    for the primary, `lag_bytes` of JSON, the oldest for `lag_s` seconds; `spooled` of them are in
    the spool, since the journal could not be written.  `lane` is the stream of
    ops of this store, `history` the identity of the database that the local files belong to.
    `conflicts` counts conflict records by their state; None while the primary is unreachable.
    `problems`: what is wrong beside the state, a sentence each, such as a thread that failed or a
    collection whose writes are refused.  `since`, `next_try`: when the store came into its state,
    and when the primary is asked again, in seconds of `time.time()`.  `last_error`: the last answer
    of the primary that was an error.  `refused_writes`: calls that raised because their write was
    refused, since the store was opened; what they wanted to write is not stored.  `replayed_ops`:
    pending writes that have arrived while others still wait, so that progress can be seen.
    """

    state: str
    cause: str
    primary: str
    lag_ops: int = 0
    lag_bytes: int = 0
    lag_s: float = 0.0
    spooled: int = 0
    oldest_pending: str | None = None
    journal_max_ops: int | None = None
    mirrored: int | None = None
    lane: str = ""
    history: str | None = None
    system: str | None = None
    data_dir: str | None = None
    fallback: str | None = None
    attempts: int = 0
    conflicts: dict[str, int] | None = None
    problems: tuple[str, ...] = ()
    since: float | None = None
    next_try: float | None = None
    last_error: LastError | None = None
    refused_writes: int = 0
    replayed_ops: int = 0

    @property
    def healthy(self) -> bool:
        """Whether writes go straight to the primary, nothing waits, and no part is in trouble."""
        return self.state == "direct" and self.lag_ops == 0 and not self.problems


def with_activity(health: Health, report: Report) -> Health:
    """The health, with what the store has done."""
    return msgspec.structs.replace(
        health,
        problems=(*health.problems, *map(refusal_sentence, report.refusals)),
        since=report.since,
        next_try=report.next_try,
        last_error=report.last_error,
        refused_writes=sum(report.refused.values()),
    )


def refusal_sentence(one: Refusal) -> str:
    """That writes of a collection are refused: since when, how many, why, and what to do."""
    since = datetime.fromtimestamp(one.first, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    hint = f" ({one.hint})" if one.hint else ""
    return (
        f"writes to `{one.collection}` are refused since {since}, {one.count} so far, and are not"
        f" stored: {one.message}{hint}"
    )


def health_without_files(
    local_state: LocalState, situation: Situation, error: StandfastError, *, primary: str
) -> Health:
    """The health of a store whose local files cannot be read now."""
    return Health(
        state=str(situation.mode),
        cause=situation.cause,
        primary=primary,
        data_dir=str(local_state.data_dir.absolute()),
        fallback=local_state.options.fallback,
        attempts=situation.attempts,
        problems=(f"the local files cannot be read: {error.message}; {_what_is_safe(error)}",),
    )


def _what_is_safe(error: StandfastError) -> str:
    if isinstance(error, CorruptData):
        return (
            "what is pending may still be saved: stop the app with SIGTERM, not with SIGKILL, and"
            " start it again; what can be read is taken over, what cannot is counted"
        )
    return f"what was acknowledged is safe in them ({error.hint})"


def health_of(
    local_state: LocalState,
    situation: Situation,
    *,
    primary: str,
    lane: str,
    waiting: Sequence[str],
    troubles: Sequence[Trouble],
    replayed_ops: int = 0,
) -> Health:
    """The health of a store with local files."""
    totals = local_state.journal.totals()
    oldest_us = local_state.journal.oldest_us()
    oldest = datetime.fromtimestamp(oldest_us / 1e6, UTC).isoformat() if oldest_us else None
    history = local_state.history
    return Health(
        state=str(situation.mode),
        cause=waiting[0] if waiting and situation.mode is Mode.DIRECT else situation.cause,
        primary=primary,
        lag_ops=totals.ops,
        lag_bytes=totals.bytes,
        lag_s=max(0.0, (clock.now_us() - oldest_us) / 1e6) if oldest_us else 0.0,
        spooled=len(local_state.journal.spooled()),
        oldest_pending=oldest,
        journal_max_ops=local_state.options.max_journal_ops,
        mirrored=local_state.mirror.count(),
        lane=lane,
        history=history.identity if history else None,
        system=history.system if history else None,
        data_dir=str(local_state.data_dir.absolute()),
        fallback=local_state.options.fallback,
        attempts=situation.attempts,
        replayed_ops=replayed_ops,
        problems=(*waiting, *map(_in_trouble, troubles), *local_problems(local_state)),
    )


def local_problems(local_state: LocalState) -> Iterator[str]:
    """What is wrong with the local files, what is safe, and what to do, a sentence each."""
    journal = local_state.journal
    if shortage := local_state.reserve.shortage():
        yield shortage
    if journal.alone:
        yield (
            "the journal was opened without room for the index that processes share: until there"
            " is room, other processes of this data directory, and commands, find it locked; free"
            " space on the disk"
        )
    if not local_state.mirror.usable:
        yield (
            "the mirror cannot be written, and is not read until it can; nothing acknowledged is"
            " lost; look at the disk"
        )
    if journal.spooled():
        yield (
            "the journal cannot be written: acknowledged writes are safe in spool.jsonl; look at"
            " the disk, and at who holds journal.db locked"
        )
    if journal.settled_in_memory:
        yield (
            "the journal cannot be written: it cannot forget what is on the primary already, which"
            " does no harm; look at the disk"
        )
    yield from map(str, journal.losses())
    yield from journal.spool.losses()


def _in_trouble(trouble: Trouble) -> str:
    since = datetime.fromtimestamp(trouble.since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return (
        f"the thread {trouble.thread} fails since {since} ({trouble.error}); it goes on, what was"
        " acknowledged is safe; the log has the cause"
    )
