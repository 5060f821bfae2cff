"""What a caller waits for: completed once, by whichever thread, for threads and for tasks."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from standfast import DataError, DeadlineExceeded, Unavailable
from standfast.engine.promise import Promise, complete


def settle(*answers: tuple[Promise[Any], Any]) -> None:
    complete(answers)


def test_a_thread_waits_for_its_answer() -> None:
    """A value is returned and an error raised in the thread that waits, whoever completes it."""
    promises: list[Promise[int]] = [Promise() for _ in range(20)]
    found: list[Any] = [None] * 20

    def wait(index: int) -> None:
        try:
            found[index] = promises[index].wait(20)
        except DataError as error:
            found[index] = error

    threads = [threading.Thread(target=wait, args=(index,)) for index in range(20)]
    for thread in threads:
        thread.start()
    error = DataError("no")
    settle(*((one, error if n % 5 == 0 else n) for n, one in enumerate(promises)))
    for thread in threads:
        thread.join()
    assert found == [error if n % 5 == 0 else n for n in range(20)]


def test_the_first_answer_stands() -> None:
    """A call that was acknowledged is never told of a failure afterwards, nor the other way."""
    promise: Promise[int] = Promise()
    settle((promise, 1), (promise, Unavailable("too late")), (promise, 2))
    assert promise.wait(0) == 1
    refused: Promise[int] = Promise()
    settle((refused, DataError("no")), (refused, 1))
    with pytest.raises(DataError):
        refused.wait(0)


def test_a_stuck_engine_is_told() -> None:
    """I8: a call that nobody answers ends, and says that nobody knows the outcome."""
    with pytest.raises(DeadlineExceeded) as caught:
        Promise[int]().wait(0.001)
    assert caught.value.code == "stuck"
    assert caught.value.hint


def test_a_loop_is_woken_once_for_a_batch() -> None:
    """All answers of a batch reach their tasks with one call into the loop."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        promises: list[Promise[int]] = [Promise(loop) for _ in range(5)]
        calls: list[object] = []
        original = loop.call_soon_threadsafe

        def counted(*arguments: Any, **options: Any) -> Any:
            calls.append(arguments[0])
            return original(*arguments, **options)

        loop.call_soon_threadsafe = counted  # type: ignore[method-assign]
        answers = [(one, n) for n, one in enumerate(promises)]
        thread = threading.Thread(target=settle, args=(*answers, (promises[0], DataError("late"))))
        thread.start()
        assert [await one for one in promises] == [0, 1, 2, 3, 4]
        thread.join()
        assert len(calls) == 1

    asyncio.run(main())


def test_a_cancelled_task_is_passed_over() -> None:
    """An answer for a task that has given up disturbs neither the loop nor the other tasks."""

    async def wait(promise: Promise[int]) -> int:
        return await promise

    async def main() -> None:
        loop = asyncio.get_running_loop()
        given_up, kept = Promise[int](loop), Promise[int](loop)
        task = asyncio.create_task(wait(given_up))
        await asyncio.sleep(0)
        task.cancel()
        settle((given_up, 1), (kept, 2))
        assert await kept == 2
        assert task.cancelled()

    asyncio.run(main())


def test_a_closed_loop_is_passed_over() -> None:
    """Answers for a loop that is closed are dropped; those of others arrive."""
    loop = asyncio.new_event_loop()
    gone: Promise[int] = Promise(loop)
    loop.close()
    here: Promise[int] = Promise()
    settle((gone, 1), (here, 2))
    assert here.wait(0) == 2
