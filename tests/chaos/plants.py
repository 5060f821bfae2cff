"""Planted bugs: each takes one rule away from the real code, by one patch.

    with PLANTS["new-sequence"].planted():
        ...     # what is lost or doubled now is what the rule is for

`docs/rules.md` lists them, `chaos.test_plants` proves that each is found and by what.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import ModuleType
from typing import Any, NamedTuple
from unittest.mock import patch

import msgspec

from standfast.backends import base, memory
from standfast.backends.memory import MemoryBackend
from standfast.backends.postgres import fast_put as pgputs
from standfast.engine import heads, lanes, local_state, replayer, time_travel
from standfast.engine import outage_writes as journaling
from standfast.engine.dropping import Drop
from standfast.engine.journal import History, Journal
from standfast.engine.local_state import LocalState
from standfast.engine.outage_writes import Journaling
from standfast.engine.promise import Promise, complete
from standfast.engine.reader import Question
from standfast.engine.replayer import Replayer
from standfast.engine.replicated import ReplicatedEngine
from standfast.engine.state_machine import Mode
from standfast.engine.writer import Attempt, Writer
from standfast.ops import batch as batch
from standfast.ops.apply import new_text, replaced
from standfast.ops.reconcile import Reconciled
from standfast.ops.types import Op
from standfast.system.locks import FileLock

Patch = AbstractContextManager[Any]


class Plant(NamedTuple):
    """One bug: the rule that it breaks, what it is, and what it must be found by."""

    name: str
    rule: str
    says: str
    finds: str
    planted: Callable[[], Patch]


PLANTS: dict[str, Plant] = {}


def plant(rule: str, *, finds: str) -> Callable[[Callable[[], Patch]], Callable[[], Patch]]:
    """Enter a function that makes the patch; its docstring says what the bug is."""

    def enter(make: Callable[[], Patch]) -> Callable[[], Patch]:
        name = make.__name__.replace("_", "-")
        PLANTS[name] = Plant(name, rule, (make.__doc__ or "").strip(), finds, make)
        return make

    return enter


def _without(module: ModuleType, text: str) -> Patch:
    """A piece of SQL is left out of the statements of a module."""
    original = module.statement

    def statement(table: Any, form: str) -> bytes:
        assert text in form, "the statement has changed: mend the plant"
        return original(table, form.replace(text, ""))

    return patch.object(module, "statement", statement)


# ---- lanes and fences


@plant("R1", finds="lost")
def lane_continued() -> Patch:
    """A restarted process continues the lane of the dead one."""
    original = Writer._open_lane

    def continued(self: Writer) -> lanes.Lane:
        known = self._local_state.journal.lanes()
        if not known:
            return original(self)
        lane = lanes.Lane(self._local_state.data_dir)
        lane.end()
        lane.id = known[0]
        lane.lock = FileLock(self._local_state.data_dir / lanes.FOLDER / f"{lane.id}.lock")
        lane.lock.acquire()
        return lane

    return patch.object(Writer, "_open_lane", continued)


@plant("fence", finds="stale overwrite")
def lane_not_closed() -> Patch:
    """The fence returns the final watermark but leaves the lane open."""

    def fence(self: MemoryBackend, lanes: Sequence[str], **_: Any) -> dict[str, int]:
        return {lane: self._lanes.get(lane, (0, "open", "[]"))[0] for lane in lanes}

    return patch.object(MemoryBackend, "fence", fence)


@plant("fence", finds="doubled")
def final_watermark_not_read() -> Patch:
    """Ops that the closed lane had already applied are issued again with the rest."""
    original = MemoryBackend.fence

    def fence(self: MemoryBackend, lanes: Sequence[str], **options: Any) -> dict[str, int]:
        return dict.fromkeys(original(self, lanes, **options), 0)

    return patch.object(MemoryBackend, "fence", fence)


@plant("R1", finds="doubled")
def moved_twice() -> Patch:
    """An op moved from a closed lane is applied again although another lane has moved it, too."""
    return patch.object(memory, "skip_reissued", lambda ops, moved: (list(ops), []))


@plant("fence", finds="stale overwrite")
def put_on_a_closed_lane() -> Patch:
    """The statement for plain puts does not check whether the lane is open."""
    return _without(pgputs, "AND state = 'open'")


# ---- a lost connection (R19), and what is refused after it (R21)


@plant("R19", finds="outage")
def cut_taken_for_an_outage() -> Patch:
    """A connection that has ended is not replaced before the primary counts as lost."""
    return patch.object(ReplicatedEngine, "reconnect", lambda *_: False)


@plant("R19", finds="doubled")
def resent_under_a_new_name() -> Patch:
    """What was sent on a lost connection is sent again under new sequence numbers."""
    original = Writer._resend

    def resend(self: Writer, sent: Any, attempt: Attempt) -> None:
        if attempt.in_doubt:
            sent = [(submission, self._numbered(submission)) for submission, _ in sent]
        original(self, sent, attempt)

    return patch.object(Writer, "_resend", resend)


@plant("R21", finds="doubled")
def moved_without_a_fence() -> Patch:
    """An op refused when it was sent again moves to another lane, and its first lane stays open."""

    def refused(self: Writer, sent: Any, error: Any, attempt: Attempt) -> None:
        self._refused(sent, error, attempt)

    return patch.object(Writer, "_refused_in_doubt", refused)


# ---- the gate


@plant("R2", finds="went back unnoticed")
def lower_watermark_accepted() -> Patch:
    """The transaction does not compare the watermark with the one that the lane expects."""
    return patch.object(
        memory,
        "skip_applied",
        lambda ops, expected_watermark, *row: base.skip_applied(ops, 0, *row),
    )


@plant("R2", finds="went back unnoticed")
def put_below_the_watermark() -> Patch:
    """The statement for plain puts does not compare the watermark either."""
    return _without(pgputs, "AND watermark >= $3")


@plant("R2", finds="written elsewhere")
def any_history() -> Patch:
    """Any database that answers at the address is taken for the one of the journal."""
    return patch.object(History, "is_of", lambda self, server_identity: True)


@plant("R2", finds="lost")
def batch_skipped_as_a_whole() -> Patch:
    """A batch that begins at or below the watermark is skipped as a whole."""

    def skip_applied(ops: Sequence[Op], expected_watermark: int, watermark: int, *row: Any) -> Any:
        is_known = ops[0].seq <= watermark
        return base.skip_applied(
            ops, expected_watermark, ops[-1].seq if is_known else watermark, *row
        )

    return patch.object(memory, "skip_applied", skip_applied)


@plant("R2", finds="doubled")
def batch_applied_as_a_whole() -> Patch:
    """A batch that ends above the watermark is applied as a whole."""

    def skip_applied(ops: Sequence[Op], expected_watermark: int, watermark: int, *row: Any) -> Any:
        is_new = ops[-1].seq > watermark
        return base.skip_applied(ops, 0, ops[0].seq - 1 if is_new else watermark, *row)

    return patch.object(memory, "skip_applied", skip_applied)


@plant("I2", finds="doubled")
def new_sequence() -> Patch:
    """An op in doubt is sent again under a new sequence number."""

    def keep_sent(self: Writer, sent: Sequence[Any]) -> None:
        self._journal([submission for submission, _ in sent], self.lane)

    return patch.object(Writer, "_keep_sent", keep_sent)


# ---- acknowledging


@plant("I1", finds="lost")
def acknowledged_before_commit() -> Patch:
    """Callers are answered before the journal's transaction is committed."""

    def write(self: Journaling, submissions: Sequence[Any], lane: lanes.Lane) -> list[Any]:
        with self._local_state.journal.writing() as transaction:
            known = journaling._Known(self._local_state, transaction)
            answers = [self._judge(submission, lane, known) for submission in submissions]
            ops = [result.op for answer in answers for result in answer.results]
            transaction.add(ops, max_ops=1000, max_bytes=10**9)
            complete((answer.submission.promise, answer.results) for answer in answers)
        return answers

    return patch.object(Journaling, "write", write)


@plant("R6", finds="read your writes")
def receipt_without_mirror() -> Patch:
    """A receipt of the primary is returned although the mirror lacks the row."""
    return patch.object(LocalState, "confirm", lambda self, applied, **_: None)


@plant("R6", finds="read your writes")
def journal_cleared_first() -> Patch:
    """A replayed op is removed from the journal before the mirror has its result."""
    original = Replayer._confirm

    def confirm(self: Replayer, pending: Sequence[Any], applied: Any) -> None:
        self._journal.remove(pending)
        original(self, pending, applied)

    return patch.object(Replayer, "_confirm", confirm)


@plant("R11", finds="false version")
def definite_version() -> Patch:
    """A receipt of the journal contains the version that the document would get next."""
    original = journaling._journaled

    def journaled(op: Op, known: Any) -> Any:
        view = known.at(op)
        result = original(op, known)
        version = view.confirmed + len(view.pending) + 1
        receipt = msgspec.structs.replace(result.receipt, version=version)
        return msgspec.structs.replace(result, receipt=receipt)

    return patch.object(journaling, "_journaled", journaled)


# ---- one stream


@plant("R3", finds="out of order")
def direct_past_a_pending_key() -> Patch:
    """A write goes to the primary although an older one on its key waits in the journal."""
    return patch.object(Writer, "_behind_pending", lambda self, submissions: [])


@plant("R3", finds="lost")
def direct_on_a_pending_lane() -> Patch:
    """The store goes DIRECT on a lane that still has an op in the journal."""

    @contextmanager
    def both() -> Iterator[None]:
        with (
            patch.object(Journal, "holds", lambda self, lane: False),
            patch.object(Replayer, "_separate", lambda self, *_: False),
        ):
            yield

    return both()


@plant("R3", finds="lost")
def half_passes_what_stays() -> Patch:
    """When a batch is halved, its second half is sent although an op of the first stays behind."""

    def halve(self: Replayer, batch: list[Any], *, lock_timeout_s: float | None) -> bool:
        middle = len(batch) // 2
        first = self._apply_units(batch[:middle], lock_timeout_s=lock_timeout_s)
        return self._apply_units(batch[middle:], lock_timeout_s=lock_timeout_s) and first

    return patch.object(Replayer, "_halve", halve)


@plant("R4", finds="read your writes")
def reads_past_the_journal() -> Patch:
    """A read goes to the primary although a write on its key waits in the journal."""
    original = ReplicatedEngine.read_one

    def see(self: ReplicatedEngine, collection: str, key: str, **options: Any) -> Any:
        if self.mode is not Mode.DIRECT:
            return original(self, collection, key, **options)
        promise: Promise[Any] = Promise(options.get("loop"))
        self._reader.ask(Question(promise, collection, key, float("inf")))
        return promise

    return patch.object(ReplicatedEngine, "read_one", see)


# ---- the mirror


@plant("R5", finds="went back")
def read_not_kept() -> Patch:
    """A row read from the primary is not written to the mirror."""
    return patch.object(LocalState, "take", lambda self, observed, **_: None)


@plant("R7, R8", finds="seen twice")
def tags_ignored() -> Patch:
    """Pending ops are applied over a row without checking which of them it already contains."""
    original = heads.fold

    def fold(row: Any, pending: Any, **options: Any) -> Any:
        bare = None if row is None else msgspec.structs.replace(row, watermarks={})
        return original(bare, pending, **options)

    return patch.object(heads, "fold", fold)


# ---- the replay


@plant("R12", finds="lost")
def rejected_unrecorded() -> Patch:
    """The watermark passes an op that cannot be applied, and no conflict is recorded."""
    original = batch._refuse_group

    def refuse(rows: Any, ops: Any, culprit: Any, refusal: Any, entered: Any, folded: Any) -> None:
        silent = folded._replace(entries=[])
        original(rows, ops, culprit, refusal, entered, silent)

    return patch.object(batch, "_refuse_group", refuse)


@plant("R12", finds="lost")
def outcomes_not_kept() -> Patch:
    """A lane's last outcomes are not stored with its watermark."""
    return patch.object(memory, "encode_outcomes", lambda outcomes: "[]")


@plant("R18", finds="lost")
def refusal_forgotten_by_a_fence() -> Patch:
    """Whoever closes a lane counts all that its watermark has passed as applied."""
    return patch.object(Replayer, "_refused", lambda self, lane: set[int]())


@plant("R18", finds="lost")
def outcomes_replaced_by_a_skip() -> Patch:
    """A replay of which everything is skipped replaces the lane's stored outcomes."""
    original = MemoryBackend.apply

    def apply(self: MemoryBackend, ops: Sequence[Op], **options: Any) -> Any:
        lane = ops[0].lane
        before = self._lanes.get(lane, (0, "open", "[]"))[0]
        applied = original(self, ops, **options)
        if ops[-1].seq <= before:
            watermark, state, _ = self._lanes[lane]
            self._lanes[lane] = (watermark, state, base.encode_outcomes(applied.outcomes))
        return applied

    return patch.object(MemoryBackend, "apply", apply)


@plant("conflicts", finds="lost update")
def base_not_kept() -> Patch:
    """The journal does not keep the base of a put, so on replay it replaces the document."""
    original = journaling._journaled

    def journaled(op: Op, known: Any) -> Any:
        result = original(op, known)
        kept = msgspec.structs.replace(result.op, seen="unknown", base=None)
        return msgspec.structs.replace(result, op=kept)

    return patch.object(journaling, "_journaled", journaled)


@plant("conflicts", finds="stale overwrite")
def condition_not_judged_again() -> Patch:
    """A condition that held during the outage is not checked again on replay."""
    original = batch.reconcile

    def settle(current: Any, op: Op, **options: Any) -> Any:
        blind = msgspec.structs.replace(op, if_version=None, pending=())
        return original(current, blind, **options)

    return patch.object(batch, "reconcile", settle)


def _whole(kind: str) -> Patch:
    """An op of this kind replaces the document on replay by what it made of its base."""
    original = batch.reconcile

    def reconcile(current: Any, op: Op, **options: Any) -> Any:
        if op.kind != kind:
            return original(current, op, **options)
        text = new_text(op.base, op)
        assert text is not None, "there was something to change"
        return Reconciled(replaced(current, op, text), None)

    return patch.object(batch, "reconcile", reconcile)


@plant("conflicts", finds="lost update")
def set_as_a_whole() -> Patch:
    """A set replaces the whole document on replay."""
    return _whole("set")


@plant("conflicts", finds="lost update")
def remove_as_a_whole() -> Patch:
    """A remove replaces the whole document on replay."""
    return _whole("remove")


@plant("conflicts", finds="lost update")
def touch_as_a_whole() -> Patch:
    """A touch puts the document back on replay as its writer knew it."""
    return _whole("touch")


@plant("I4", finds="left behind")
def prefix_taken_from_the_mirror() -> Patch:
    """A prefix is deleted during an outage by the keys that the mirror knows."""
    original = ReplicatedEngine.pages

    def pages(self: Any, *args: Any, by_primary: bool = False, **options: Any) -> Any:
        return original(self, *args, **options)

    return patch.object(ReplicatedEngine, "pages", pages)


@plant("R13", finds="lost")
def failover_not_noticed() -> Patch:
    """What the server still has of a lane is not compared with what it had confirmed."""
    return patch.object(local_state, "loss", lambda *_: "")


@plant("R14", finds="lost")
def retained_writes_left() -> Patch:
    """What a failover has lost is not put back in front of the journal."""
    return patch.object(Journal, "put_in_front", lambda *_: 0)


@plant("R15", finds="stale overwrite")
def regained_blindly() -> Patch:
    """A put that a failover has lost is made again although others have written since."""

    def decide(ops: Sequence[Op], _: Any) -> list[Op]:
        return [msgspec.structs.replace(op, regained=None) for op in ops]

    return patch.object(replayer, "decide", decide)


@plant("R16", finds="not applied again")
def regained_whole() -> Patch:
    """An append that a failover has lost is rejected where others have written since."""
    original = time_travel.decide

    def decide(ops: Sequence[Op], states: Any) -> list[Op]:
        puts = [msgspec.structs.replace(op, kind="put", body="null") for op in ops]
        rejected = [one.reject for one in original(puts, states)]
        decided = original(ops, states)
        return [
            msgspec.structs.replace(op, reject=reject)
            for op, reject in zip(decided, rejected, strict=True)
        ]

    return patch.object(replayer, "decide", decide)


@plant("R17", finds="version went down")
def no_tombstone() -> Patch:
    """A document that is created again does not continue from the version of the deleted one."""
    original = MemoryBackend._current

    def current(self: MemoryBackend, collection: str, key: str) -> Any:
        found = original(self, collection, key)
        return msgspec.structs.replace(found, version=found.live_version)

    return patch.object(MemoryBackend, "_current", current)


@plant("R17", finds="version went down")
def floor_not_raised() -> Patch:
    """A dropped collection leaves no floor for the one that is made again under its name."""
    original = MemoryBackend.drop

    def drop(self: MemoryBackend, *args: Any, **options: Any) -> Any:
        dropped = original(self, *args, **options)
        self._floor = 0
        return dropped

    return patch.object(MemoryBackend, "drop", drop)


@plant("I2", finds="lost")
def drop_of_whatever_is_there() -> Patch:
    """A drop whose reply was lost is sent again for the collection that has the name then."""
    original = MemoryBackend.drop

    def drop(self: MemoryBackend, collection: str, incarnation: str, **options: Any) -> Any:
        return original(self, collection, self.incarnation(collection) or "", **options)

    return patch.object(MemoryBackend, "drop", drop)


@plant("R6", finds="read your writes")
def drop_without_mirror() -> Patch:
    """A drop returns although the mirror still has the documents."""
    return patch.object(LocalState, "dropped", lambda *_, **__: None)


@plant("R3", finds="out of order")
def drop_past_the_journal() -> Patch:
    """A drop does not ask whether writes to the collection are still in the journal."""

    def call(self: Any, backend: Any, deadline: Any) -> bool:
        found = backend.incarnation(self.collection)
        return bool(found and backend.drop(self.collection, found))

    return patch.object(Drop, "__call__", call)


@plant("Expiry", finds="stale overwrite")
def no_expiry() -> Patch:
    """A plain put takes effect however late it arrives."""
    original = pgputs.put_batch

    def put_batch(conn: Any, table: Any, ops: Sequence[Op], terms: Any, *, present: bool) -> Any:
        return original(conn, table, ops, terms._replace(expires_us=None), present=present)

    return patch.object(pgputs, "put_batch", put_batch)
