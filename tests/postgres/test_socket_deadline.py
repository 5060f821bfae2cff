"""The deadline of a connection: it shuts the socket down when it expires, and no other one."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from standfast.backends.postgres.deadline import SocketDeadline

#: Far more than anything here takes; only a broken socket deadline waits for it.
PATIENCE_S = 60.0


class Wire:
    """A connection with a socket deadline, and its other end."""

    def __init__(self) -> None:
        self.near, self.far = socket.socketpair()
        self.far.settimeout(PATIENCE_S)
        self.near.settimeout(PATIENCE_S)
        self.socket_deadline = SocketDeadline(self.near.fileno())

    def works(self) -> bool:
        """Whether a byte gets through in both directions."""
        for one, other in ((self.near, self.far), (self.far, self.near)):
            one.sendall(b"x")
            if other.recv(1) != b"x":
                return False
        return not self.socket_deadline.expired

    def wait_cut(self) -> None:
        """Return when the wait of both ends is over, as the driver's would be."""
        assert self.near.recv(1) == b""
        assert self.far.recv(1) == b""
        assert self.socket_deadline.expired

    def close(self) -> None:
        self.socket_deadline.close()
        self.near.close()
        self.far.close()


@pytest.fixture
def wires() -> Iterator[list[Wire]]:
    with ExitStack() as stack:
        made = [Wire() for _ in range(40)]
        for wire in made:
            stack.callback(wire.close)
        yield made


def fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_i8_a_deadline_that_passes_ends_the_wait(wires: list[Wire]) -> None:
    """I8: a wait on a connection ends at its deadline, or at once when that has passed."""
    now = time.monotonic()
    wires[0].socket_deadline.arm(now - 1)
    wires[1].socket_deadline.arm(now + 0.05)
    for wire in wires[:2]:
        wire.wait_cut()
    assert all(wire.works() for wire in wires[2:])


def test_i8_a_nearer_deadline_wakes_the_watchdog(wires: list[Wire]) -> None:
    """I8: whatever is armed first, the nearest deadline is kept: the thread does not sleep for the
    farthest."""
    for index, wire in enumerate(wires[1:]):
        wire.socket_deadline.arm(time.monotonic() + 3600 - index)
    wires[0].socket_deadline.arm(time.monotonic() + 0.05)
    wires[0].wait_cut()
    assert all(wire.works() for wire in wires[1:])


def test_a_call_that_ended_in_time_is_left_alone(wires: list[Wire]) -> None:
    """A deadline that was disarmed, or armed again for later, does not fire at the old time."""
    disarmed, later, last = wires[:3]
    soon = time.monotonic() + 0.05
    disarmed.socket_deadline.arm(soon)
    later.socket_deadline.arm(soon)
    disarmed.socket_deadline.disarm()
    later.socket_deadline.arm(soon + 3600)
    last.socket_deadline.arm(soon + 0.05)
    last.wait_cut()
    assert disarmed.works()
    assert later.works()


def test_i8_many_deadlines_in_any_order(wires: list[Wire]) -> None:
    """I8: of many connections each is cut at its own deadline, the others never."""
    dice = random.Random(5)
    cut = dice.sample(wires, 20)
    for wire in dice.sample(wires, len(wires)):
        wire.socket_deadline.arm(time.monotonic() + (dice.random() / 5 if wire in cut else 3600))
    for wire in cut:
        wire.wait_cut()
    assert all(wire.works() for wire in wires if wire not in cut)


def test_a_reused_descriptor_is_not_cut() -> None:
    """If a connection was closed elsewhere, its descriptor may be in use again: the deadline shuts
    down its own duplicate, not the socket that has that number now."""
    wire = Wire()
    number = wire.near.fileno()
    wire.near.close()
    fresh = Wire()
    try:
        assert number in (fresh.near.fileno(), fresh.far.fileno()), "the number was not given anew"
        wire.socket_deadline.shutdown()
        assert fresh.works()
        assert wire.far.recv(1) == b""
    finally:
        wire.close()
        fresh.close()


def test_a_closed_fuse_holds_nothing() -> None:
    """`close` gives the duplicate back; it and everything after it are harmless."""
    before = fds()
    for _ in range(50):
        wire = Wire()
        wire.socket_deadline.arm(time.monotonic() + 3600)
        wire.close()
        wire.socket_deadline.close()
        wire.socket_deadline.shutdown()
        wire.socket_deadline.disarm()
    assert fds() <= before + 2  # a collected object may have held some


@pytest.mark.process
def test_a_forked_child_has_a_watchdog_of_its_own() -> None:
    """I8: threads do not survive a fork: the child's deadlines are kept by a thread of its own."""
    code = (
        "import os, socket, time\n"
        "from standfast.backends.postgres.deadline import SocketDeadline\n"
        "def cut():\n"
        "    near, far = socket.socketpair()\n"
        "    far.settimeout(60)\n"
        "    fuse = SocketDeadline(near.fileno())\n"
        "    fuse.arm(time.monotonic() + 0.05)\n"
        "    assert far.recv(1) == b'' and fuse.expired\n"
        "    fuse.close(), near.close(), far.close()\n"
        "cut()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    cut()\n"
        "    os._exit(7)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7\n"
        "cut()\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={"PYTHONPATH": ":".join(sys.path)},
        timeout=2 * PATIENCE_S,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
