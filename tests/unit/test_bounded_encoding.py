"""Refusals cost little memory."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.process
@pytest.mark.parametrize("depth", [23, 24])
def test_a_document_that_is_small_and_says_much(depth: int) -> None:
    """A12: two references a level make megabytes of text: refused before many times as much memory
    is taken for it."""
    code = (
        "import resource, sys\n"
        "from standfast.document.codec import encode\n"
        "from standfast.errors import DataError\n"
        "value = {}\n"
        f"for _ in range({depth}): value = {{'a': value, 'b': value}}\n"
        "try: encode(value)\n"
        "except DataError as error: print(error.code)\n"
        # Where it can be had, the peak of this program: the other one starts at its parent's.
        "try: print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])\n"
        "except OSError: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    said, peak = done.stdout.split()
    unit = 1 if sys.platform == "darwin" else 1024
    assert said == "too_large"
    assert int(peak) * unit < 600 * 2**20
