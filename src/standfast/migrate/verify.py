"""Verification: every value that a run brought is read back and compared, not counted."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property

from standfast.backends.base import Backend
from standfast.document.codec import decode
from standfast.document.merge import same_value
from standfast.migrate.plan import documents_of
from standfast.migrate.rundir import CollectionChanges, RunDir, RunState
from standfast.migrate.steps import Progress, counted, silent

#: Rows that a report names; beyond them it counts.
MAX_NAMED = 20


@dataclass(slots=True)
class Verdict:
    """The outcome of a verification: how many values were compared, and which are not right."""

    compared: int = 0
    wrong: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])

    @property
    def green(self) -> bool:
        """Whether every value is what it should be."""
        return not self.wrong

    def lines(self) -> list[str]:
        """The wrong rows by name, for people."""
        named = [f"`{name}` key {key!r}: {what}" for name, key, what in self.wrong[:MAX_NAMED]]
        more = len(self.wrong) - MAX_NAMED
        return [*named, f"and {more} more"] if more > 0 else named


class Expected:
    """What must stand in a collection after a run.

    Rows that the run wrote must have exactly the text it wrote; those that were equal before it
    must still have the same value.
    """

    def __init__(self, documents: list[tuple[str, str]], changes: CollectionChanges) -> None:
        self.texts = dict(documents)
        for key in changes.kept:
            self.texts.pop(key, None)
        for updated in changes.updated:
            if updated.after is not None:
                self.texts[updated.before.key] = updated.after
            else:
                self.texts.pop(updated.before.key, None)
        self.texts.update(changes.texts)
        self._changes = changes

    @cached_property
    def _written(self) -> set[str]:
        return {*self._changes.inserted, *(each.before.key for each in self._changes.updated)}

    def met_by(self, key: str, text: str) -> bool:
        """Whether a row, whose text is not the expected one, is right all the same."""
        return key not in self._written and same_value(decode(text), decode(self.texts[key]))


def verify_collection(
    backend: Backend, collection: str, expected: Expected, out: Verdict, progress: Progress
) -> None:
    """Compare every expected document with what the database gives back now."""
    texts = expected.texts
    met = 0
    if backend.lost_table(collection):
        out.wrong.extend((collection, key, "its table is missing") for key in texts)
        return
    with ThreadPoolExecutor(1) as beside:
        audit = beside.submit(lambda: list(backend.inconsistent(collection)))
        rows = counted(backend.dump(collection), "verify", len(texts), progress)
        for key, text, _, _ in rows:
            if texts.get(key) == text:
                met += 1
            elif key in texts:
                met += 1
                if not expected.met_by(key, text):
                    out.wrong.append((collection, key, "its value is not the one in the file"))
    out.compared += len(texts)
    if met != len(texts):
        present = {row.key for row in backend.dump(collection)}
        missing = [key for key in texts if key not in present]
        out.wrong.extend((collection, key, "it is not in the database") for key in missing)
    out.wrong.extend(
        (collection, key, "its column `data` does not match its exact text")
        for key in audit.result()
        if key in texts
    )


def verify_run(
    backend: Backend,
    run_dir: RunDir,
    state: RunState,
    changes: Mapping[str, CollectionChanges],
    documents: Mapping[str, list[tuple[str, str]]] | None = None,
    *,
    progress: Progress = silent,
) -> Verdict:
    """Verify a whole run; `documents` spares reading the kept originals again."""
    verdict = Verdict()
    for name, records in state.collections.items():
        read = documents[name] if documents is not None else documents_of(run_dir, records)
        verify_collection(backend, name, Expected(read, changes[name]), verdict, progress)
    return verdict
