"""The reader thread: what waits now is asked of the primary in one statement a collection.

What comes back is written through to the mirror before it is returned (R5), so that a reader that
has seen a version never sees an older one here, whatever happens to the primary next.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time

import msgspec

from standfast.backends.base import Backend
from standfast.engine import clock
from standfast.engine.interfaces import EngineContext, ReadResult, read_again
from standfast.engine.local_state import LocalState
from standfast.engine.overlay import View
from standfast.engine.promise import Promise, complete
from standfast.engine.state_machine import Mode, means_away
from standfast.errors import StandfastError, Unavailable
from standfast.limits import MAX_READ_KEYS
from standfast.ops.types import Observed, State
from standfast.system.platform import may_be_reentered
from standfast.system.slow_replies import noticing
from standfast.system.supervision import SupervisedThread

#: How long a question waits for the role before it is looked which questions have had their time.
_LATE_S = 0.05


class Question(msgspec.Struct, frozen=True):
    """One read that waits; `local`: it is to be answered from the local files."""

    promise: Promise[ReadResult]
    collection: str
    key: str
    deadline: float
    local: bool = False


class Reader:
    """The reader thread of one engine."""

    def __init__(self, context: EngineContext, primary: Backend, local_state: LocalState) -> None:
        self._context = context
        self.primary = primary
        self._local_state = local_state
        self._queue: queue.SimpleQueue[Question | None] = queue.SimpleQueue()
        self.suspect = False
        """Whether a read has missed its deadline since the store was last DIRECT."""
        self.thread = SupervisedThread(
            "standfast-reader", self._turn, context.supervisor, failed=context.thread_failed
        )
        self._role = threading.Lock()
        self._wanted = False
        self._ended = False
        self._slow = False
        """Whether a reply is still arriving although its time is over: others must not wait."""

    def ask(self, question: Question) -> None:
        """Queue a read."""
        self._queue.put(question)

    def lead(self, question: Question) -> bool:
        """Ask the primary in the thread that reads; False: it has to be queued.

        A thread that reads alone does not wait for two others to be woken.
        """
        if self._role.locked() or self._wanted or not self._queue.empty() or may_be_reentered():
            return False
        with self._role:
            if self._ended:
                return False
            try:
                self._answer(question.collection, [question])
            except Exception as error:
                complete([(question.promise, _failed(question, error))])
                self._context.supervisor.failed(self.thread.name, error)
        return True

    def close(self) -> None:
        """Let the thread end when what waits is answered."""
        self._queue.put(None)

    def _turn(self) -> bool:
        """Answer what waits now; after an unexpected error every one of these has its answer."""
        first = None if self._ended else self._queue.get()
        if first is None:
            return False
        waiting = [first]
        self._wanted = True  # from here on others queue
        try:
            while not self._role.acquire(timeout=_LATE_S):
                self._collect(waiting)
                waiting = self._without_late(waiting)
            try:
                self._wanted = False
                self._serve(waiting)
            finally:
                self._role.release()
        except BaseException as error:
            complete((question.promise, _failed(question, error)) for question in waiting)
            raise
        return True

    def _collect(self, waiting: list[Question]) -> None:
        with contextlib.suppress(queue.Empty):
            while len(waiting) < MAX_READ_KEYS and not self._ended:
                question = self._queue.get_nowait()
                if question is None:
                    self._ended = True
                else:
                    waiting.append(question)

    def _without_late(self, waiting: list[Question]) -> list[Question]:
        """Answer what has waited for its time, since a large reply is still arriving (I8)."""
        now = time.monotonic()
        late = [question for question in waiting if question.deadline <= now]
        if late:
            self._answer_locally(late)
        return [question for question in waiting if question.deadline > now]

    def answer_late(self) -> bool:
        """The same for what is queued, by another thread; whether to do that again soon."""
        if not self._slow:
            return False
        waiting: list[Question] = []
        with contextlib.suppress(queue.Empty):
            while (question := self._queue.get_nowait()) is not None:
                waiting.append(question)
            self._queue.put(None)
        for question in self._without_late(waiting):
            self._queue.put(question)
        return True

    def _is_slow(self, questions: list[Question]) -> None:
        self._slow = True
        for question in questions:
            question.promise.prolong()
        self._context.answer_late_soon()

    def _serve(self, waiting: list[Question]) -> None:
        self._collect(waiting)
        self._answer_locally([question for question in waiting if question.local])
        collections: dict[str, list[Question]] = {}
        for question in waiting:
            if question.local:
                continue
            collections.setdefault(question.collection, []).append(question)
        for collection, questions in collections.items():
            self._answer(collection, questions)

    def _answer(self, collection: str, questions: list[Question]) -> None:
        if self.suspect or self._context.mode is not Mode.DIRECT:
            self._answer_locally(questions)
            return
        now = time.monotonic()
        late = [question for question in questions if question.deadline <= now]
        if late:  # a large reply held them up, which says nothing of the primary
            self._answer_locally(late)
            questions = [question for question in questions if question.deadline > now]
        if not questions:
            return
        keys = list(dict.fromkeys(question.key for question in questions))
        deadline = min(question.deadline for question in questions)

        def observe(wanted: list[str]) -> Observed:
            directory = self._local_state.journal.directory
            return self.primary.observe(collection, wanted, directory=directory, deadline=deadline)

        try:
            with noticing(lambda: self._is_slow(questions)):
                observed = read_again(
                    lambda: observe(keys),
                    lambda: self._context.reconnect(self.primary, deadline),
                )
            now_us = clock.now_us()
            self._local_state.take(observed, seen_us=now_us, again=observe)
        except StandfastError as error:
            away = means_away(error)
            self._context.activity.failed(error)
            if away:
                self.suspect = True
                self._context.primary_missed(error.code)
            if away or error.code in ("locked", "busy"):
                self._answer_locally(questions)
            else:
                complete((question.promise, error) for question in questions)
            return
        finally:
            self._slow = False
        views = {state.key: _view(state, now_us) for state in observed.states}
        self._context.activity.read("primary", [question.deadline for question in questions])
        complete((each.promise, ReadResult(views[each.key], True)) for each in questions)

    def _answer_locally(self, questions: list[Question]) -> None:
        complete([(question.promise, self._here(question)) for question in questions])

    def _here(self, question: Question) -> ReadResult | StandfastError:
        try:
            return self._context.read_locally(question.collection, question.key)
        except StandfastError as error:
            return error


def _failed(question: Question, error: BaseException) -> Unavailable:
    return Unavailable(
        f"reading key {question.key!r} in `{question.collection}`: an unexpected"
        f" {type(error).__name__} in the thread that reads",
        code="internal",
        hint="try again; the log has its cause",
    )


def _view(state: State, now_us: int) -> View:
    return View(
        "absent" if state.text is None else "present",
        state.text,
        state.version,
        (),
        state.created_us,
        state.updated_us,
        now_us,
        state.expires_us,
    )
