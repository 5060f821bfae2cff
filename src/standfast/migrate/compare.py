"""What a migration would do to each collection: pure comparison of a file with the database."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from standfast.backends.base import Form, StoredText
from standfast.document.codec import decode, encode
from standfast.document.merge import Side, changed_paths, same_value, three_way
from standfast.migrate.splitting import WHOLE_KEY, split_members

OnConflict = Literal["file", "database", "newest", "fail"]

#: Differing places that are kept for one document, to be shown.
MAX_SHOWN_PATHS = 5


@dataclass(frozen=True, slots=True)
class Different:
    """One document that the file and the database hold differently.

    `decision`: "file", "database" or "merged" when that is settled, "open" when the policy is to
    fail.  `paths` say where they differ, never what stands there.
    """

    key: str
    decision: Literal["file", "database", "merged", "open"]
    reason: str
    paths: tuple[str, ...]


@dataclass(slots=True)
class CollectionPlan:
    """Everything that a run will do to one collection, and why.

    `inserts` and `updates` are `(key, text)`; `expected` are the versions that the plan saw in the
    rows it touches; `removed` are rows that are split into documents of their own, and
    `not_from_file` the texts of those inserts that such a row decided; `remake`: the collection's
    table was lost, and is made anew.
    """

    collection: str
    source: str
    form: Form
    inserts: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    updates: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    expected: dict[str, int] = field(default_factory=dict[str, int])
    equal: list[str] = field(default_factory=list[str])
    different: list[Different] = field(default_factory=list[Different])
    removed: list[str] = field(default_factory=list[str])
    not_from_file: dict[str, str] = field(default_factory=dict[str, str])
    only_database: int = 0
    brought_back: int = 0
    remake: bool = False
    notes: list[str] = field(default_factory=list[str])

    @property
    def open_conflicts(self) -> list[Different]:
        """The documents that need a decision before anything is written."""
        return [found for found in self.different if found.decision == "open"]

    @property
    def kept(self) -> list[str]:
        """The keys whose document in the database stays as it is, though the file's differs."""
        return [found.key for found in self.different if found.decision == "database"]

    @property
    def writes(self) -> int:
        """The number of rows that the run will change."""
        return len(self.inserts) + len(self.updates) + len(self.removed)


@dataclass(frozen=True, slots=True)
class Policy:
    """How to decide where file and database differ and no earlier run left a common base.

    `times_us` is when the file of each document was changed last.
    """

    on_conflict: OnConflict = "fail"
    times_us: Mapping[str, int] = field(default_factory=dict[str, int])
    split_default: bool = False
    replace_form: bool = False


def compare(
    plan: CollectionPlan,
    documents: Iterable[tuple[str, str]],
    rows: Iterable[StoredText],
    base: Mapping[str, str],
    policy: Policy,
    *,
    buried: Callable[[], set[str]] = set,
    old_form: Callable[[], Mapping[str, str]] = dict,
    made_by_split: Callable[[], bool] = bool,
) -> CollectionPlan:
    """Fill in a plan: each document of the file against the row of the same key.

    `base` holds the texts that the last run from this file brought, by key; where it has one, the
    two sides are merged three ways and only a true conflict asks the policy.  What was deleted in
    the database since then stays deleted, unless the file changed it or the policy is "file";
    `buried` gives the keys whose deletion is on record, and a row that is absent without one was
    lost, not deleted: it is brought again.  Where that would leave nothing of the file, the
    deletions need a decision.  `old_form` gives what the same file brought in another form: that
    is replaced on request, and a question otherwise.  Other rows that only the database has are
    never touched.  `made_by_split` says whether the row `default` is what an earlier split left of
    a member of that name: that is a document like others, and not split again.
    """
    stored = {row.key: row for row in rows}
    virtual = _split_row(plan, stored, policy, made_by_split)
    decided = _Decisions(plan, policy, buried)
    if not stored and not virtual and not base:
        plan.inserts = list(documents)
        return plan
    documents = list(documents)
    base = _replace_form(plan, stored, dict(documents), old_form(), policy) or base
    seen: set[str] = set()
    for key, text in documents:
        seen.add(key)
        row = stored.get(key) or virtual.get(key)
        if row is None:
            decided.missing(key, text, base.get(key))
        elif row.text == text or same_value(decode(row.text), decode(text)):
            plan.equal.append(key)
            decided.write(key, row.text, row) if key in virtual else None
        else:
            decided.different(key, text, row, base.get(key))
    for key, row in virtual.items():
        if key not in seen:
            decided.write(key, row.text, row)
    if WHOLE_KEY in plan.removed and (own := dict(plan.inserts).get(WHOLE_KEY)) is not None:
        # The file's document of this name takes the place of the row that is split.
        plan.inserts = [each for each in plan.inserts if each[0] != WHOLE_KEY]
        plan.removed.remove(WHOLE_KEY)
        plan.updates.append((WHOLE_KEY, own))
    plan.updates = list(dict(plan.updates).items())
    plan.only_database = sum(1 for key in stored if key not in seen)
    if decided.deleted == len(seen) and decided.deleted:
        plan.different = [replace(each, decision="open") for each in plan.different]
        plan.notes.append(
            "every document of this file was deleted in the database since the last run, so"
            " nothing of it would be stored: --on-conflict file brings them back"
        )
    elif decided.deleted:
        plan.notes.append(
            f"{decided.deleted} document(s) were deleted in the database since the last run, and"
            " stay so: --on-conflict file brings them back"
        )
    if plan.brought_back:
        plan.notes.append(
            f"{plan.brought_back} document(s) that the last run of this file brought are missing in"
            " the database without a deletion on record: they are brought again"
        )
    return plan


def _replace_form(
    plan: CollectionPlan,
    stored: dict[str, StoredText],
    documents: Mapping[str, str],
    old: Mapping[str, str],
    policy: Policy,
) -> Mapping[str, str]:
    """Deal with what the same file brought in another form, and is in the database still.

    Returns the texts that count as the base of documents which take the place of such a row.
    """
    base: dict[str, str] = {}
    asked = 0
    for key, text in old.items():
        row = stored.get(key)
        if row is None:
            continue
        unchanged = same_value(decode(row.text), decode(text))
        replaced = unchanged and (policy.replace_form or text == "[]")
        if key in documents:
            base |= {key: text} if replaced else {}
        elif replaced or (policy.replace_form and policy.on_conflict == "file"):
            del stored[key]
            plan.removed.append(key)
            plan.expected[key] = row.version
        else:
            asked += not policy.replace_form
            decided = policy.replace_form and policy.on_conflict in ("database", "newest")
            reason = "brought by this file in another form" + (
                ", changed since" if not unchanged else ""
            )
            decision = "database" if decided else "open"
            plan.different.append(Different(key, decision, reason, ("removed $",)))
    if asked:
        plan.notes.append(
            f"this file had another form at its last run: the {asked} document(s) of that form"
            " would stay beside the new ones: --replace-form removes them, --collection NAME keeps"
            " the new ones apart"
        )
    elif plan.removed and old:
        plan.notes.append(f"{len(plan.removed)} document(s) of the file's old form are removed")
    return base


def _split_row(
    plan: CollectionPlan,
    stored: dict[str, StoredText],
    policy: Policy,
    made_by_split: Callable[[], bool],
) -> dict[str, StoredText]:
    """The members of a row `default` that holds everything, as rows that do not exist yet."""
    row = stored.get(WHOLE_KEY)
    if row is None or plan.form.shape == "document":
        return {}
    members = split_members(encode(decode(row.text)))
    if members is None or made_by_split():
        return {}
    if not policy.split_default:
        plan.notes.append(
            f"the table's row `{WHOLE_KEY}` looks like the older layout with everything in it:"
            f" --split-default makes {len(members)} documents of it"
        )
        return {}
    del stored[WHOLE_KEY]
    plan.expected[WHOLE_KEY] = row.version
    plan.notes.append(f"the table's row `{WHOLE_KEY}` is split into {len(members)} documents")
    split: dict[str, StoredText] = {}
    for key, text in members:
        if key == WHOLE_KEY:
            # Its own member of this name takes the row's place.
            stored[key] = StoredText(key, text, row.version, row.updated_us)
            plan.updates.append((key, text))
        elif key not in stored:
            split[key] = StoredText(key, text, 0, row.updated_us)
        elif not same_value(decode(stored[key].text), decode(text)):
            member = StoredText(key, text, 0, row.updated_us)
            if _own_row(plan, stored[key], member, policy) == "file":
                stored[key] = member._replace(version=stored[key].version)
    if WHOLE_KEY not in stored:
        plan.removed.append(WHOLE_KEY)
    return split


def _own_row(plan: CollectionPlan, own: StoredText, member: StoredText, policy: Policy) -> str:
    """A member of the row that is split has a row of its own, and they differ: the policy decides.

    "file" stands for the row that is split, which holds what was a file once.
    """
    decision: Literal["file", "database", "open"]
    if policy.on_conflict == "newest":
        decision = "file" if member.updated_us > own.updated_us else "database"
    else:
        decision = "open" if policy.on_conflict == "fail" else policy.on_conflict
    found = changed_paths(decode(own.text), decode(member.text), most=MAX_SHOWN_PATHS)
    paths = tuple(f"{each.kind} {each.path}" for each in found)
    reason = f"the row `{WHOLE_KEY}` holds another value, policy {policy.on_conflict}"
    plan.different.append(Different(own.key, decision, reason, paths))
    if decision == "file":
        plan.updates.append((own.key, member.text))
        plan.expected[own.key] = own.version
    return decision


class _Decisions:
    """The part of the comparison that decides: takes one differing document at a time."""

    def __init__(
        self, plan: CollectionPlan, policy: Policy, buried: Callable[[], set[str]]
    ) -> None:
        self.plan = plan
        self.policy = policy
        self.deleted = 0
        self._buried = buried

    @cached_property
    def buried(self) -> set[str]:
        """The keys whose deletion is on record, read when it is first asked for."""
        return self._buried()

    def write(self, key: str, text: str, row: StoredText) -> None:
        """A row that gets this text: an insert when it exists only as a member of another row."""
        if row.version:
            self.plan.updates.append((key, text))
            self.plan.expected[key] = row.version
        else:
            self.plan.inserts.append((key, text))
            self.plan.not_from_file[key] = text

    def missing(self, key: str, text: str, base: str | None) -> None:
        """A document without a row: new, or deleted since the last run brought it."""
        unchanged = base is not None and same_value(decode(base), decode(text))
        if not unchanged or self.policy.on_conflict == "file":
            self.plan.inserts.append((key, text))
            return
        if key not in self.buried:
            self.plan.brought_back += 1
            self.plan.inserts.append((key, text))
            return
        self.deleted += 1
        reason = "deleted in the database since the last run"
        self.plan.different.append(Different(key, "database", reason, ("removed $",)))

    def different(self, key: str, text: str, row: StoredText, base: str | None) -> None:
        """Decide by the base if there is one, by the policy otherwise, and note it."""
        file, database = decode(text), decode(row.text)
        side = self._policy_side(key, row)
        decision: Literal["file", "database", "merged", "open"] = side or "open"
        reason = f"policy {self.policy.on_conflict}"
        result = text if side == "file" else row.text
        if base is not None:
            prefer: Side = "theirs" if side == "database" else "mine"
            merged = three_way(decode(base), file, database, prefer=prefer)
            if not merged.true_conflicts:
                decision, reason = _settled(merged.value, file, database)
                if decision == "merged":
                    result = encode(merged.value)
                else:
                    result = text if decision == "file" else row.text
            elif side is not None:
                decision, reason = "merged", f"both changed it, policy {self.policy.on_conflict}"
                result = encode(merged.value)
        found = changed_paths(database, file, most=MAX_SHOWN_PATHS + 1)
        paths = [f"{difference.kind} {difference.path}" for difference in found[:MAX_SHOWN_PATHS]]
        if len(found) > MAX_SHOWN_PATHS:
            paths.append("...")
        self.plan.different.append(Different(key, decision, reason, tuple(paths)))
        if decision in ("file", "merged"):
            self.write(key, result, row)
        elif decision == "database" and not row.version:
            self.write(key, row.text, row)

    def _policy_side(self, key: str, row: StoredText) -> Literal["file", "database"] | None:
        if self.policy.on_conflict == "newest":
            return "file" if self.policy.times_us.get(key, 0) > row.updated_us else "database"
        return None if self.policy.on_conflict == "fail" else self.policy.on_conflict


def _settled(
    value: object, file: object, database: object
) -> tuple[Literal["file", "database", "merged"], str]:
    """What a merge without a true conflict amounts to."""
    if same_value(value, database):  # type: ignore[arg-type]
        return "database", "only the database changed since the last run"
    if same_value(value, file):  # type: ignore[arg-type]
        return "file", "only the file changed since the last run"
    return "merged", "both changed different parts since the last run"
