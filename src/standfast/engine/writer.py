"""The writer: it alone owns the mode, and every write goes through it.

One batch is what waits now; one transaction is in flight.  DIRECT: the batch goes to the primary,
then into the mirror, then its callers are answered.  Otherwise it goes into the journal.

Its role is taken by one thread at a time: by the writer's own, or for one call by the thread that
makes it, when nobody else is writing.  Handing it over and back would double the time of a call.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import msgspec

from standfast.backends.base import Backend
from standfast.engine.activity import Activity
from standfast.engine.interfaces import EngineContext
from standfast.engine.lanes import Lane
from standfast.engine.local_state import LocalState
from standfast.engine.outage_writes import Answer, Journaling, unknown_outcome
from standfast.engine.promise import complete
from standfast.engine.replayer import PROBE_LOCK_TIMEOUT_S
from standfast.engine.state_machine import (
    AWAY,
    CUT,
    IN_DOUBT,
    Drained,
    Event,
    Lost,
    Mode,
    RoundFailed,
    failure_of,
    means_away,
    step,
)
from standfast.engine.write_queue import Submission, Wakeup, on_primary
from standfast.errors import DeadlineExceeded, StandfastError, Unavailable
from standfast.limits import MAX_FRESH_CONNECTIONS, MAX_LANE_BATCHES
from standfast.ops.batch import Place, retrace
from standfast.ops.types import Applied, Op
from standfast.system.failpoints import failpoint
from standfast.system.platform import may_be_reentered
from standfast.system.supervision import SupervisedThread

Sent = tuple[Submission, list[Op]]
"""A submission, and its ops with the names under which they were sent."""


class Attempt(NamedTuple):
    """How a batch is sent, and what came before.

    `in_doubt`: it was sent before, and that may have taken effect, or may still do so.
    `fresh_connections`: how many were made for it.
    """

    lock_timeout_s: float | None = None
    in_doubt: bool = False
    fresh_connections: int = 0


def confirm(
    local_state: LocalState,
    sent: Sequence[Sent],
    applied: Applied,
    *,
    lane: str,
    activity: Activity,
) -> None:
    """Confirm a batch: a caller that has its receipt reads its write here too."""
    outcomes = applied.outcomes
    ops = [op for _, own in sent for op in own]
    retained = [(op, done.version) for op, done in zip(ops, outcomes, strict=True)]
    local_state.confirm(applied, lane=lane, retained=retained)
    activity.wrote("primary", [(submission.deadline, own) for submission, own in sent])
    results = on_primary(ops, outcomes)
    ends = accumulate([len(own) for _, own in sent])
    complete(
        (submission.promise, results[end - len(own) : end])
        for (submission, own), end in zip(sent, ends, strict=True)
    )
    failpoint("confirm-answered")


logger = logging.getLogger("standfast")

#: What a transaction gets at the least, although its callers have waited long already.
SHORTEST_S = 0.05


class Writer:
    """The writer thread of one engine."""

    def __init__(self, context: EngineContext, primary: Backend, local_state: LocalState) -> None:
        self._context = context
        self._primary = primary
        self._local_state = local_state
        self._journaling = Journaling(local_state)
        self._inbox = context.write_queue
        self.lane = self._open_lane()
        history = local_state.history
        self._era = (history.era, history.failovers) if history else (0, 0)
        self._side: Lane | None = None
        self._journal_version = -1
        self.journal_empty = False
        """Whether nothing at all was pending in the directory when it was last looked at."""
        self._random = random.Random()
        self._closing = False
        self._role = threading.Lock()
        self._wanted = False
        self._leader = 0
        """The thread that has the role, where it is a caller's."""
        self._in_flight: Sequence[Sent] = ()
        """What was sent and has no answer yet; an interruption leaves it here, in doubt."""
        self.thread = SupervisedThread(
            "standfast-writer", self._turn, context.supervisor, failed=context.thread_failed
        )

    def _open_lane(self) -> Lane:
        lane = Lane(self._local_state.data_dir)
        try:
            self._local_state.journal.open_lane(lane.id)
        except BaseException:
            lane.end()
            raise
        return lane

    # ---- the loop

    def _turn(self) -> bool:
        """Serve what waits now, each message and the batch on its own.

        An unexpected error in one of them is raised at the end: the others had their turn.
        """
        if self._closing:
            return False
        first = self._inbox.wait()
        failure: BaseException | None = None
        self._wanted = True  # from here on callers queue: nobody has to wait for ever
        with self._role:
            self._wanted = False
            collected = self._inbox.collect(first)
            try:
                self._send_in_doubt()
            except BaseException as error:
                failure = error
            for note in collected.notes:
                try:
                    self._handle(note)
                except BaseException as error:
                    failure = failure or error
            if collected.submissions:
                failure = self._serve(collected.submissions) or failure
        if failure is not None:
            raise failure
        return True

    def lead(self, submission: Submission) -> bool:
        """Serve one call in the thread that makes it; False: it has to be queued.

        An exception that a signal raises here in the middle may have come after the write was sent.
        It is sent again under its name then, by whoever has the role next: it takes effect once.
        """
        if self._role.locked():
            if self._leader == threading.get_ident():
                raise _nested(submission.ops[0])
            return False
        if self._wanted or not self._inbox.is_empty() or may_be_reentered():
            return False
        try:
            with self._role:
                if self._closing or self._in_flight:
                    return False
                self._leader = threading.get_ident()
                try:
                    failure = self._serve([submission])
                finally:
                    self._leader = 0
            if failure is not None:
                raise failure
            return True
        except BaseException as error:
            if isinstance(error, Exception):  # the caller has its answer
                self._context.supervisor.failed(self.thread.name, error)
            self._context.thread_failed(error)
            self._inbox.post(Wakeup("doubt"))
            if isinstance(error, Exception):
                return True
            raise

    def _send_in_doubt(self) -> None:
        """What an interruption has left: its caller knows of no outcome, and there must be one."""
        sent, self._in_flight = self._in_flight, ()
        if not sent:
            return
        self._journal_version = -1
        if self._context.situation.mode is Mode.DIRECT and sent[0][1][0].lane == self.lane.id:
            self._resend(sent, Attempt(in_doubt=True))

    def _serve(self, submissions: list[Submission]) -> BaseException | None:
        """Write a batch.  Whatever happens, each of its callers has an answer afterwards."""
        try:
            if self._context.situation.mode is Mode.DIRECT:
                self._direct(submissions)
            else:
                self._journal(submissions, self.lane)
        except BaseException as error:
            # Of the local files, mostly: the calls of this batch fail, the next may not.
            foreseen = isinstance(error, StandfastError)
            complete(
                (one.promise, error if foreseen else _failed(one.ops[0], error))
                for one in submissions
            )
            return None if foreseen else error
        return None

    def _handle(self, note: Any) -> None:
        if not isinstance(note, Wakeup):
            self.transition(note)
        elif note.what == "nearly":
            self._hand_over()
        elif note.what == "close":
            self._closing = True

    def transition(self, event: Event) -> None:
        """Let an event change the situation, and do what follows from it."""
        context = self._context
        jitter = 0.5 + self._random.random() / 2
        before = context.situation
        context.situation, actions = step(before, event, time.monotonic(), jitter=jitter)
        try:
            if context.situation.mode is Mode.DIRECT and before.mode is not Mode.DIRECT:
                self.lane.expected_watermark = max(
                    self._expected_watermark(),
                    self._local_state.mirror.expected_watermark(self.lane.id),
                )
                self._look_at_journal()
        finally:
            context.situation_changed(before, actions)

    # ---- DIRECT

    def _direct(self, submissions: list[Submission]) -> None:
        """Send to the primary what may go there; what touches a pending place joins the journal."""
        self._look_at_journal()
        if not self.journal_empty:
            aside = self._behind_pending(submissions)
            if aside:
                submissions = [one for one in submissions if one not in aside]
                self._journal(aside, self.side_lane())
                self._context.replay_soon()
        if submissions:
            self._send(submissions, Attempt())
            if self.lane.batches >= MAX_LANE_BATCHES and self._context.mode is Mode.DIRECT:
                self._rotate()

    def _look_at_journal(self) -> None:
        """See whether anything is pending, by whichever process of the directory (R3)."""
        journal = self._local_state.journal
        version = journal.version()
        if version != self._journal_version:
            self._journal_version = version
            self.journal_empty = journal.totals().ops == 0
            if not self.journal_empty:
                self._context.replay_soon()

    def _behind_pending(self, submissions: Sequence[Submission]) -> list[Submission]:
        """Those that touch a place on which something is pending, or touch one of their places."""
        waiting: set[Place] = set()
        behind: list[Submission] = []
        held = self._context.replayer.waiting.held
        # The server fails on every write to these, in a way that elsewhere means an outage.
        failing = {name for name, one in held.items() if one.note.code in IN_DOUBT}
        for submission in submissions:
            places = {(op.collection, op.key) for op in submission.ops}
            is_at = self._local_state.journal.is_at
            if (
                not waiting.isdisjoint(places)
                or any(is_at(*place) for place in places)
                or (failing and any(place[0] in failing for place in places))
            ):
                waiting |= places
                behind.append(submission)
        return behind

    def side_lane(self) -> Lane:
        """The lane of ops that cannot go direct, while the others do."""
        if self._side is None:
            self._side = self._open_lane()
            self._context.replayer.indirect.add(self._side.id)
        return self._side

    def _send(self, submissions: list[Submission], attempt: Attempt) -> None:
        """One transaction; the sure refusal of one is its caller's alone (I6)."""
        self._resend([(one, self._numbered(one)) for one in submissions], attempt)

    def _numbered(self, submission: Submission) -> list[Op]:
        lane = self.lane
        first = lane.seq + 1
        lane.seq += len(submission.ops)
        return [
            msgspec.structs.replace(
                # The groups of a call, numbered from 1, get numbers of their own on the lane.
                op,
                lane=lane.id,
                seq=seq,
                group=first + op.group - 1 if op.group else 0,
            )
            for seq, op in enumerate(submission.ops, first)
        ]

    def _resend(self, sent: Sequence[Sent], attempt: Attempt) -> None:
        """Send ops under the names that they have."""
        ops = [op for _, ops in sent for op in ops]
        deadline = _deadline(sent)
        self._in_flight = sent
        expected, asked = self._expected_watermark(), self.lane.history
        try:
            failpoint("direct-before-apply")
            applied = self._primary.apply(
                ops,
                expected_watermark=expected,
                deadline=deadline,
                directory=self._local_state.journal.directory,
                lock_timeout_s=attempt.lock_timeout_s,
            )
            failpoint("direct-applied")
        except StandfastError as error:
            self._context.activity.failed(error)
            self._in_flight = ()
            in_doubt = attempt.in_doubt or error.code in IN_DOUBT
            if error.code in CUT and self._has_fresh_connection(sent, attempt):
                # The same names: whatever became of the first send, they take effect once (R19).
                fresh = attempt.fresh_connections + 1
                self._resend(sent, Attempt(attempt.lock_timeout_s, in_doubt, fresh))
            elif attempt.in_doubt:
                self._refused_in_doubt(sent, error, attempt)
            else:
                self._refused(sent, error, attempt)
            return
        if self._local_state.history is None:  # this batch has made the schema
            try:
                self._context.recognise(self._primary)
            except StandfastError as error:
                self._in_flight = ()
                self.transition(Lost(error.code))
                self._keep_sent(sent)
                return
        if attempt.in_doubt:
            applied = self._retraced(ops, applied)
        self.lane.expected_watermark = applied.watermark
        self.lane.history = asked or self._history()
        self.lane.batches += 1
        activity = self._context.activity
        confirm(self._local_state, sent, applied, lane=self.lane.id, activity=activity)
        self._in_flight = ()

    def _history(self) -> str:
        history = self._local_state.history
        return history.mark if history else ""

    def _expected_watermark(self) -> int:
        """What the database must have settled of the lane (R2): nothing, if another one did (H5).

        A lost connection can be replaced by one to a database that was made anew meanwhile.
        """
        lane = self.lane
        if lane.history != self._history():
            lane.expected_watermark, lane.history = 0, self._history()
        return lane.expected_watermark

    def _retraced(self, ops: Sequence[Op], applied: Applied) -> Applied:
        """The answer to a resend, with the texts that only the lost reply had."""

        def known(place: Place) -> tuple[str, int] | None:
            try:
                view = self._local_state.read_mirror(*place)
            except StandfastError:
                return None
            return None if view.text is None else (view.text, view.confirmed)

        outcomes = retrace(known, ops, applied.outcomes)
        return msgspec.structs.replace(applied, outcomes=outcomes)

    def _has_fresh_connection(self, sent: Sequence[Sent], attempt: Attempt) -> bool:
        """Replace the connection that has ended, within the callers' deadline."""
        if attempt.fresh_connections >= MAX_FRESH_CONNECTIONS:
            return False
        failpoint("doubt-before-reconnect")
        return self._context.reconnect(self._primary, min(one.deadline for one, _ in sent))

    def _refused_in_doubt(
        self, sent: Sequence[Sent], error: StandfastError, attempt: Attempt
    ) -> None:
        """What was sent once already is refused, which is not sure: the first send may still run.

        Behind a fence of the lane it is certain what took effect (R21): the rest was never done,
        and is sent anew.
        """
        if error.code in IN_DOUBT | AWAY | {"went_back"}:
            self._lose(sent, error)
            return
        old = self.lane
        try:
            final = self._primary.fence(
                [old.id],
                directory=self._local_state.journal.directory,
                deadline=_deadline(sent),
            )[old.id]
            failpoint("doubt-fenced")
        except StandfastError as failure:
            if means_away(failure):
                self._lose(sent, failure)
            else:
                self._leave_to_replay(sent, old)
            return
        if final >= sent[-1][1][-1].seq:  # one transaction, so all of it or nothing
            self._leave_to_replay(sent, old)
            return
        old.end()
        self.lane = self._open_lane()
        anew = Attempt(fresh_connections=attempt.fresh_connections)
        self._send([submission for submission, _ in sent], anew)

    def _lose(self, sent: Sequence[Sent], error: StandfastError) -> None:
        """The primary is away, and what became of the ops is unknown."""
        if error.code == "went_back":
            self._context.hold_off(error)
        self.transition(Lost(error.code))
        self._keep_sent(sent)

    def _leave_to_replay(self, sent: Sequence[Sent], lane: Lane) -> None:
        """The replay finds out what became of the ops; nothing goes direct on their lane (R3)."""
        self._keep_sent(sent)
        lane.lock.release()
        self.lane = self._open_lane()
        self._context.replay_soon()

    def _refused(self, sent: Sequence[Sent], error: StandfastError, attempt: Attempt) -> None:
        if error.code in IN_DOUBT:
            self._lose(sent, error)
        elif error.code in AWAY or error.code == "went_back":
            if error.code == "went_back":
                # Journaled before anybody asks whether something is pending.
                self._context.hold_off(error)
                self._journal_sent_nowhere(sent)
                self.transition(Lost(error.code))
            else:
                self.transition(Lost(error.code))
                self._journal_sent_nowhere(sent)
        elif error.code == "fenced":
            # Somebody took this lane for dead, and closed it: nothing of the batch took effect.
            self.lane.end()
            self.lane = self._open_lane()
            self._send([submission for submission, _ in sent], attempt)
        elif error.code == "busy" or (error.code == "locked" and self._is_late(sent)):
            self._put_aside(sent, error)
        elif len(sent) > 1:
            probing = error.code == "locked"
            self._halve(sent, Attempt(PROBE_LOCK_TIMEOUT_S) if probing else attempt)
        elif error.code == "locked":
            self._put_aside(sent, error)
        else:
            self._context.activity.refused(sent[0][1][0], error)
            complete([(sent[0][0].promise, error)])

    def _is_late(self, sent: Sequence[Sent]) -> bool:
        """Whether there is no time left to find out whose row is locked."""
        return min(one.deadline for one, _ in sent) - time.monotonic() < SHORTEST_S

    def _put_aside(self, sent: Sequence[Sent], error: StandfastError) -> None:
        """A row is locked, or every connection in use: these wait in a side lane."""
        aside = [submission for submission, _ in sent if not submission.conditional]
        if aside:
            self._journal(aside, self.side_lane())
            self._context.replay_soon()
        complete((submission.promise, error) for submission, _ in sent)

    def _halve(self, sent: Sequence[Sent], attempt: Attempt) -> None:
        """Send both halves, in order, with the sequences that they have."""
        middle = len(sent) // 2
        for half in (sent[:middle], sent[middle:]):
            if self._context.mode is Mode.DIRECT and not self.journal_empty:
                # What came before may have been put aside: its place keeps its order.
                behind = self._behind_pending([submission for submission, _ in half])
                if behind:
                    self._journal(behind, self.side_lane())
                    half = [one for one in half if one[0] not in behind]
            if not half:
                continue
            if self._context.mode is Mode.DIRECT and half[0][1][0].lane == self.lane.id:
                self._resend(half, attempt)
            elif self._context.mode is Mode.DIRECT:
                self._send([submission for submission, _ in half], attempt)
            else:
                self._journal_sent_nowhere(half)

    def _keep_sent(self, sent: Sequence[Sent]) -> None:
        """The outcome is unknown: the same ops go into the journal, under the same names (I2)."""
        self.journal_empty = False
        if self._local_state.options.fallback != "read-write":
            complete((submission.promise, unknown_outcome(ops[0])) for submission, ops in sent)
            return
        failpoint("doubt-before-journal")
        try:
            self._answer(self._journaling.write_sent(sent))
        except StandfastError:
            logger.exception("writes with an unknown outcome could not be journaled")
            complete((submission.promise, unknown_outcome(ops[0])) for submission, ops in sent)

    def _journal_sent_nowhere(self, sent: Sequence[Sent]) -> None:
        self._journal([submission for submission, _ in sent], self.lane)

    def _rotate(self) -> None:
        """Begin a new lane now and then; the old one has nothing in flight and nothing pending."""
        old, self.lane = self.lane, self._open_lane()
        self._context.end_lane(self._primary, old)

    # ---- JOURNALING

    def _journal(self, submissions: list[Submission], lane: Lane) -> None:
        self.journal_empty = False  # before anybody is answered: readers must look into the journal
        fallback = self._local_state.options.fallback
        if fallback == "read-write":
            try:
                self._answer(self._journaling.write(submissions, lane))
            except StandfastError as error:
                self._not_journaled(submissions, lane, error)
            return
        for submission in submissions:
            away = self._context.away(submission.ops[0])
            self._context.activity.refused(submission.ops[0], away)
            complete([(submission.promise, away)])

    def _answer(self, answers: list[Answer]) -> None:
        self._journal_version = -1
        self._count_journaled(answers)
        complete((submission.promise, error or results) for submission, results, error in answers)
        failpoint("journal-answered")

    def _count_journaled(self, answers: Sequence[Answer]) -> None:
        for durable_on in ("journal", "spool"):
            calls = [
                (one.submission.deadline, [result.op for result in one.results])
                for one in answers
                if one.results and one.results[0].receipt.durable_on == durable_on
            ]
            if calls:
                self._context.activity.wrote(durable_on, calls)

    def _not_journaled(
        self, submissions: list[Submission], lane: Lane, error: StandfastError
    ) -> None:
        """The journal took nothing of the batch: when it is full, what is small may still fit."""
        if error.code == "journal_full" and len(submissions) > 1:
            for submission in submissions:
                self._journal([submission], lane)
            return
        for submission in submissions:
            self._context.activity.refused(submission.ops[0], error)
        complete((submission.promise, error) for submission in submissions)

    # ---- DRAINING -> DIRECT

    def _hand_over(self) -> None:
        """Less than a batch is pending: hold the queue, replay the rest of it, and go DIRECT."""
        if self._context.mode is not Mode.DRAINING:
            return
        failpoint("handover-begun")
        replayer = self._context.replayer
        own = [self.lane.id, *([self._side.id] if self._side else [])]
        try:
            finished = replayer.finish(own, deadline=time.monotonic() + replayer.handover_s)
        except StandfastError as error:
            self._context.activity.failed(error)
            # One transaction that took too long, or whose connection did not last, is no outage
            # (R20): the replay, which nobody waits for, finds out.
            missed = error.code in CUT or error.code == "deadline"
            self.transition(RoundFailed(error.code) if missed else failure_of(error))
            return
        if finished:
            failpoint("handover-drained")
            history = self._local_state.history
            era = (history.era, history.failovers) if history else (0, 0)
            went_on = bool(self.lane.seq) and era != self._era
            self._era = era
            if went_on or self._local_state.journal.holds(self.lane.id):
                # Of another era: the database does not know what it has written.  Held: it waits
                # for a lock, and what goes direct on its lane would pass it for ever (R3).
                self.lane.lock.release()
                self.lane = self._open_lane()
            self.transition(Drained())
            self._context.replay_soon()  # which closes the lanes that it needed
            failpoint("handover-done")
        else:
            self.transition(RoundFailed("more writes came meanwhile"))

    def close_lanes(self) -> None:
        """At the end: close what the primary can close now; the rest is fenced later."""
        for lane in [self.lane, *([self._side] if self._side else [])]:
            self._context.end_lane(self._primary, lane)

    def release_locks(self) -> None:
        """At the end: nothing is in flight, so whoever opens the directory next may fence these.

        One under which nothing was ever written needs no fence, and is forgotten.
        """
        for lane in [self.lane, *([self._side] if self._side else [])]:
            if lane.lock.held and not lane.seq:
                with contextlib.suppress(StandfastError):
                    self._local_state.journal.close_lane(lane.id)
                    lane.end()
            lane.lock.release()

    @property
    def stopped(self) -> bool:
        """Whether the thread has ended."""
        return not self.thread.is_alive()


def _failed(op: Op, error: BaseException) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"{op.kind} of key {op.key!r} in `{op.collection}`: an unexpected {type(error).__name__} in"
        " the thread that writes; whether it took effect is unknown",
        code="internal",
        hint="read the document before you repeat the write; the log has the cause",
    )


def _nested(op: Op) -> Unavailable:
    return Unavailable(
        f"{op.kind} of key {op.key!r} in `{op.collection}`: called in the middle of another write"
        " of this thread; nothing was written",
        code="busy",
        hint="do not write in a finalizer",
    )


def _deadline(sent: Sequence[Sent]) -> float:
    """Until when a transaction of these may take; a little more when they have waited long."""
    return max(min([one.deadline for one, _ in sent]), time.monotonic() + SHORTEST_S)
