"""The files of a data directory as a command sees them, even while an app uses them.

Nothing is created by looking.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec

from standfast.engine import mirror
from standfast.engine.histories import Held, History, Notice, loss
from standfast.engine.journal import FILE, HeldNote, Journal
from standfast.engine.lanes import is_dead
from standfast.engine.mirror import Mirror
from standfast.engine.reserve import Reserve
from standfast.errors import ConfigError, StandfastError
from standfast.limits import MAX_JOURNAL_AGE_S
from standfast.ops.types import ServerIdentity


class LaneSeen(msgspec.Struct, frozen=True):
    """A lane that is not known to be closed; `dead` when its process has ended."""

    id: str
    state: Literal["alive", "dead"]


class Local(msgspec.Struct, frozen=True, kw_only=True):
    """What lies in a data directory.

    `history` is the database that the journal belongs to (None: none was reached yet); `oldest_us`
    when the oldest pending write was acknowledged; `spooled` how many are in the spool; `losses`
    what a damaged journal has lost; `mirrored` the number of places that the mirror
    knows, None without one; `expected` the watermarks that the database must still have, `notice`
    that it was seen to have gone back; `directory` the id under which the database knows it;
    `collections` those that the replay has left held; `shortage` that the disk is full.
    """

    data_dir: Path
    journal: bool = False
    history: History | None = None
    ops: int = 0
    bytes: int = 0
    oldest_us: int | None = None
    spooled: int = 0
    losses: tuple[str, ...] = ()
    lanes: tuple[LaneSeen, ...] = ()
    mirrored: int | None = None
    expected: dict[str, int] = {}
    notice: Notice | None = None
    directory: str = ""
    shortage: str = ""
    collections: dict[str, HeldNote] = {}

    @property
    def lag_s(self) -> float:
        """The age of the oldest pending write; 0 without one."""
        return max(0.0, time.time() - self.oldest_us / 1e6) if self.oldest_us else 0.0

    @property
    def alive(self) -> int:
        """The number of lanes whose process is running."""
        return sum(lane.state == "alive" for lane in self.lanes)

    @property
    def dead(self) -> int:
        """The number of lanes whose process is gone."""
        return len(self.lanes) - self.alive

    @property
    def is_old(self) -> bool:
        """Whether a replay waits for a confirmation, since its oldest write is over the limit."""
        return self.lag_s >= MAX_JOURNAL_AGE_S

    def lost(self, found: ServerIdentity) -> str:
        """Why the database that answers is known to have gone back; empty when it is not (I10)."""
        if self.history is None or not self.history.is_of(found):
            return ""
        if self.notice is not None and self.notice.is_open:
            return self.notice.why
        return loss(self.history, found, self.expected)

    def is_in_use_elsewhere(self, display: str) -> bool:
        """Whether a running process uses it under another address; that may be another database."""
        return self.alive > 0 and self.history is not None and self.history.display != display

    def held(self, found: ServerIdentity, *, display: str) -> Held | None:
        """Why a store that connects to this database would not replay its journal (I9, I10).

        The same rules as `LocalState.recognise`: with nothing pending, it is taken over.
        """
        known = self.history
        if known is None:
            return None
        if not known.is_of(found):
            in_use = self.is_in_use_elsewhere(display)
            return "other_database" if self.ops or in_use else None
        return "went_back" if self.ops and self.lost(found) else None


@contextmanager
def usable(data_dir: Path) -> Generator[None]:
    """Run a block in which what the system says about these files becomes an error of ours."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"the data directory {data_dir} cannot be used: {error.strerror}",
            code="data_dir",
            hint="run this as the user of the app; check its owner, its mode and the disk",
        ) from None


@contextmanager
def opened_journal(data_dir: Path, *, only_look: bool = False) -> Generator[Journal | None]:
    """The journal of a data directory; None where there is none.

    `only_look`: it stays as it is; CorruptData when it is damaged.
    """
    with usable(data_dir):
        there = (data_dir / FILE).exists()
    if not there:
        yield None
        return
    with Reserve(data_dir).lent():
        with usable(data_dir):
            journal = Journal(data_dir, only_look=only_look)
        try:
            yield journal
        finally:
            journal.close()


def look(data_dir: Path) -> Local:
    """Look at a data directory."""
    with Reserve(data_dir).lent():
        return _look(data_dir)


def _look(data_dir: Path) -> Local:
    with usable(data_dir):
        mirrored, expected = _mirrored(data_dir / mirror.FILE)
    with opened_journal(data_dir, only_look=True) as journal, usable(data_dir):
        if journal is None:
            return Local(data_dir=data_dir, mirrored=mirrored, expected=expected)
        totals = journal.totals()
        lanes = tuple(
            LaneSeen(lane, "dead" if is_dead(data_dir, lane) else "alive")
            for lane in journal.lanes()
        )
        return Local(
            data_dir=data_dir,
            journal=True,
            history=journal.history(),
            ops=totals.ops,
            bytes=totals.bytes,
            oldest_us=journal.oldest_us(),
            spooled=len(journal.spooled()),
            losses=(*map(str, journal.losses()), *journal.spool.losses()),
            lanes=lanes,
            mirrored=mirrored,
            expected=expected,
            notice=journal.notice(),
            collections=journal.held() if totals.ops else {},
            directory=journal.directory,
            shortage=Reserve(data_dir).shortage(),
        )


def _mirrored(path: Path) -> tuple[int | None, dict[str, int]]:
    try:
        if not path.stat().st_size:
            return None, {}
        known = Mirror(path, only_look=True)
    except (FileNotFoundError, ConfigError):
        return None, {}
    try:
        return known.count(), known.watermarks()
    except StandfastError:
        return None, {}  # disposable; the journal is looked at all the same
    finally:
        known.close()
