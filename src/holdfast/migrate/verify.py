"""Verification: every value that a run brought is read back and compared, not counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from holdfast.backends.base import Backend
from holdfast.codec import decode, encode
from holdfast.merge import same_value
from holdfast.migrate.counting import Progress, counted, silent
from holdfast.migrate.planning import documents_of
from holdfast.migrate.rundir import CollectionChanges, RunDir, SourceRecord

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


def expected_texts(
    documents: list[tuple[str, str]], changes: CollectionChanges
) -> tuple[dict[str, str], set[str]]:
    """What must stand in the database: texts to be met exactly, and the keys of those that were
    equal before the run, which are compared by value (their row was not written)."""
    exact = dict(documents)
    for key in changes.kept:
        exact.pop(key, None)
    written = set(changes.inserted)
    for updated in changes.updated:
        if updated.after is not None:
            exact[updated.before.key] = updated.after
            written.add(updated.before.key)
        else:
            exact.pop(updated.before.key, None)
    exact.update(changes.texts)
    return exact, set(exact) - written


def verify_collection(
    backend: Backend,
    collection: str,
    expected: Mapping[str, str],
    by_value: set[str],
    out: Verdict,
    progress: Progress,
) -> None:
    """Compare every expected document with what the database gives back now."""
    missing = dict.fromkeys(expected)
    for row in counted(backend.dump(collection), "verify", len(expected), progress):
        wanted = expected.get(row.key)
        if wanted is None:
            continue
        del missing[row.key]
        if row.text != wanted and not _same(row.text, wanted, by_value=row.key in by_value):
            out.wrong.append((collection, row.key, "its value is not the one in the file"))
    out.compared += len(expected)
    out.wrong.extend((collection, key, "it is not in the database") for key in missing)
    out.wrong.extend(
        (collection, key, "its column `data` does not match its exact text")
        for key in backend.inconsistent(collection)
        if key in expected
    )


def _same(found: str, wanted: str, *, by_value: bool) -> bool:
    """Equal value; for what the run wrote also the same order of members."""
    found_value, wanted_value = decode(found), decode(wanted)
    if not same_value(found_value, wanted_value):
        return False
    return by_value or encode(found_value) == encode(wanted_value)


def verify_run(
    backend: Backend,
    run_dir: RunDir,
    sources: list[SourceRecord],
    changes: Mapping[str, CollectionChanges],
    documents: Mapping[str, list[tuple[str, str]]] | None = None,
    *,
    progress: Progress = silent,
) -> Verdict:
    """Verify a whole run; `documents` spares reading the kept originals again."""
    verdict = Verdict()
    for source in sources:
        name = source.collection
        read = documents[name] if documents is not None else documents_of(run_dir, source)
        expected, by_value = expected_texts(read, changes[name])
        verify_collection(backend, name, expected, by_value, verdict, progress)
    return verdict
