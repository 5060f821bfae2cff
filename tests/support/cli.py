"""The command `standfast` in this process, with its own streams, environment and directory.

A start of Python costs a quarter of a second: a subprocess is for what only one can prove.
"""

from __future__ import annotations

import gc
import io
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from standfast.cli.main import run_command


@dataclass(frozen=True)
class Ran:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout; ValueError when there is anything else."""
        return json.loads(self.out)

    @property
    def said(self) -> str:
        """Everything that it said, for searching."""
        return self.out + self.err


def run_cli(
    *arguments: str | os.PathLike[str],
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: bytes | str = b"",
) -> Ran:
    """Run one command; `env` is added to the environment, without the developer's variables."""
    data = stdin.encode() if isinstance(stdin, str) else stdin
    streams = [io.TextIOWrapper(io.BytesIO(content), "utf-8") for content in (data, b"", b"")]
    with _environment(env or {}), _directory(cwd), _streams(streams):
        code = run_command([os.fspath(argument) for argument in arguments])
    gc.enable()  # `migrate` is a program of its own, and switches it off
    for stream in streams:
        stream.flush()
    out, err = (bytes(stream.buffer.getvalue()) for stream in streams[1:])  # type: ignore[attr-defined]
    return Ran(code, out.decode(), err.decode())


@contextmanager
def _environment(env: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(env)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _directory(cwd: Path | None) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(cwd or before)
    try:
        yield
    finally:
        os.chdir(before)


@contextmanager
def _streams(streams: list[io.TextIOWrapper]) -> Iterator[None]:
    before = sys.stdin, sys.stdout, sys.stderr
    sys.stdin, sys.stdout, sys.stderr = streams
    try:
        yield
    finally:
        sys.stdin, sys.stdout, sys.stderr = before
