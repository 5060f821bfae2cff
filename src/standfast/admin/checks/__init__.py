"""The checks of `standfast doctor`: one function each, run so that its failure is one finding more
and hides no other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import msgspec

from standfast.errors import StandfastError

Verdict = Literal["ok", "warn", "fail"]


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at.

    `verdict`: `fail` (data is at risk, or writes fail), `warn` (it should be mended) or `ok`;
    `found` is the cause, `hint` what to do, `command` the command or SQL that does it, where one
    does.
    """

    name: str
    verdict: Verdict
    found: str
    hint: str = ""
    command: str = ""


def checked(name: str, work: Callable[[], Check | Iterable[Check]]) -> list[Check]:
    """What this check found; its own failure is a finding too."""
    try:
        found = work()
        return [found] if isinstance(found, Check) else list(found)
    except StandfastError as error:
        return [failed(name, error)]
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        hint = "run this as the user of the app; check its owner, its mode and the disk"
        return [Check(name, "fail", f"{error.strerror or error}{where}", hint)]


def failed(name: str, error: StandfastError) -> Check:
    """The check that could not be made, or whose answer is this error."""
    return Check(name, "fail", error.message, error.hint or "look at the cause")
