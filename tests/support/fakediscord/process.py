"""A bot in a process of its own, which may be killed and started again."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from support.leash import Leash

if TYPE_CHECKING:
    from support.fakediscord.controller import FakeDiscord

#: Tells the launcher where the fake is.
URL_VARIABLE = "FAKE_DISCORD_URL"
_TESTS = Path(__file__).parents[2]
_TERMINATE_LIMIT_S = 5.0


class BotProcess:
    """Runs a bot's file against a fake; as a context manager it starts, and always ends, it.

    What it writes goes to the end of `log_path`, without one to a file without a name.
    It does not outlive this process, in whatever way this ends.
    """

    def __init__(
        self,
        script: str | Path,
        *,
        fake: FakeDiscord,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        log_path: str | Path | None = None,
        args: Sequence[str] = (),
    ) -> None:
        self.script = Path(script).resolve()
        self._fake = fake
        self._env = dict(env or {})
        self._cwd = cwd
        self._args = list(args)
        # Unbuffered, since several processes, and `output`, share it.
        if log_path:
            self._log = open(log_path, "ab+", buffering=0)  # noqa: SIM115
        else:
            self._log = tempfile.TemporaryFile("ab+", buffering=0)  # noqa: SIM115
        self._written = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._leash: Leash | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._running().poll()

    def start(self) -> None:
        """Start it, also after it ended."""
        assert self._process is None or self._process.poll() is not None, "it runs already"
        paths = [str(_TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
        env |= {URL_VARIABLE: self._fake.url, **self._env}
        command = [sys.executable, "-m", "support.fakediscord.launch", str(self.script)]
        self._process = subprocess.Popen(
            [*command, *self._args],
            env=env,
            cwd=self._cwd,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        if self._leash is None:
            self._leash = Leash()
        self._leash.kill_at_end(self._process.pid)

    def kill(self) -> int:
        """SIGKILL, and wait for its end."""
        self._running().kill()
        return self.wait()

    def terminate(self) -> int:
        """SIGTERM, and wait for its end; SIGKILL when it takes too long."""
        self._running().terminate()
        try:
            return self.wait(_TERMINATE_LIMIT_S)
        except subprocess.TimeoutExpired:
            return self.kill()

    def wait(self, timeout_s: float = 10.0) -> int:
        """Wait for its end, and answer the exit code; subprocess.TimeoutExpired."""
        return self._running().wait(timeout_s)

    def close(self) -> None:
        """End it, whatever its state. Idempotent."""
        if self._process is not None and self._process.poll() is None:
            self.kill()
        if self._leash is not None:
            self._leash.close()
            self._leash = None
        self._written = self.output()
        self._log.close()

    def output(self) -> str:
        """All that it wrote, over all its starts."""
        if self._log.closed:
            return self._written
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "it was never started"
        return self._process
