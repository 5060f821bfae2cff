"""The pages, as HTML: one sentence first, everything else below it.  Pure.

Every text that comes from outside goes through `e`.  Contents of documents are on the page of one
conflict alone, which needs the token.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from html import escape
from typing import Any, cast

from starlette.requests import Request

from standfast.admin.data_dir import Local
from standfast.admin.serve.watcher import Snapshot
from standfast.admin.status import Status
from standfast.admin.verdict import Finding, moment, size
from standfast.document.codec import decode
from standfast.engine.activity import Latencies, Report
from standfast.engine.outages import Outage, duration
from standfast.errors import StandfastError
from standfast.ops.types import ConflictRecord, from_microseconds

#: What the timeline shows, in seconds, and how many outages the table lists.
TIMELINE_S = 24 * 3600.0
MAX_LISTED = 20
#: Places of a document that are compared one by one.
MAX_PLACES = 200
#: Held collections that the sentence about the state names.
MAX_NAMED = 5
#: A time is shown without its day for this long, in seconds.
_SAME_DAY_S = 12 * 3600.0
_CODE = re.compile("`([^`]+)`")
_STATES = {
    "direct": "Writes go to the database.",
    "draining": "The database is back; waiting writes are being sent to it.",  # see `_sending`
    "journaling": "The database does not answer; writes are kept in the journal.",
    "other_database": "Another database answers; nothing is sent to it.",
    "went_back": "The database went back in time; nothing is sent to it.",
    "journal_old": "Writes of more than a day ago wait for a confirmation.",
    "unknown": "The local files cannot be looked at.",
}
_NOTHING_TO_DO = Finding("wait", "nothing to do: every write is on the database")
_EMBEDDED = "<p>Not known: the processes of an embedded database write no reports.</p>"
_FOOT = '<footer class="quiet">Times are UTC. The page renews itself.</footer>'


def e(text: object) -> str:
    """The text as HTML: nothing in it is markup."""
    return escape(str(text).encode("utf-8", "backslashreplace").decode(), quote=True)


def _said(text: str) -> str:
    """A sentence as HTML; what stands in backticks is code."""
    return _CODE.sub(r"<code>\1</code>", e(text))


def _count(number: int) -> str:
    return f"{number:,}"


def _time(at: float, now: float) -> str:
    """A time (UTC), with its day where that is another one, and how long ago it was."""
    when = datetime.fromtimestamp(at, UTC)
    far = now - at > _SAME_DAY_S
    shown = when.strftime("%Y-%m-%d %H:%M" if far else "%H:%M:%S")
    return (
        f'<time datetime="{when.isoformat(timespec="seconds")}"'
        f' title="{e(moment(at, now))}">{shown}</time>'
        f' <span class="quiet ago">{e(duration(now - at))} ago</span>'
    )


def _time_of(text: str, now: float) -> str:
    """The same of a time in ISO 8601."""
    return _time(datetime.fromisoformat(text).timestamp(), now)


def root(request: Request) -> str:
    """The prefix under which the app is mounted."""
    return str(request.scope.get("root_path", "")).rstrip("/")


def _document(title: str, body: str, at: str, *, live: bool = False) -> str:
    script = f'<script src="{e(at)}/page.js" defer></script>' if live else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f'<title>{e(title)}</title><link rel="icon" href="data:,">'
        f'<link rel="stylesheet" href="{e(at)}/style.css">{script}</head>'
        f'<body><a class="skip" href="#main">To the content</a>{body}</body></html>'
    )


def _header(at: str, *, knows: bool | None = None) -> str:
    login = (
        ""
        if knows is None
        else (
            '<span class="quiet">token accepted</span>'
            if knows
            else f'<a href="{e(at)}/login">enter the token</a>'
        )
    )
    return f'<header><a class="name" href="{e(at)}/">standfast</a>{login}</header>'


def login(at: str, status: int) -> str:
    """The form for the token."""
    wrong = '<p role="alert" class="act">This is not the token.</p>' if status == 403 else ""
    body = (
        f'{_header(at)}<main id="main" class="narrow"><h1>The token, please</h1>{wrong}'
        "<p>Contents of documents and decisions need it, and so does every look from another"
        " machine. <code>standfast serve</code> has printed it, or you have set it.</p>"
        f'<form method="post" action="{e(at)}/login"><label for="token">Token</label>'
        '<input id="token" name="token" type="password" autocomplete="current-password" required>'
        '<button type="submit">Continue</button></form></main>'
    )
    return _document("standfast: token", body, at)


def problem(error: StandfastError, *, root: str) -> str:
    """An error, with what to do."""
    body = (
        f'{_header(root)}<main id="main" class="narrow"><h1>That did not work</h1>'
        f'<p role="alert">{e(error.message)}</p><p>{e(error.hint)}</p>'
        f'<p><a href="{e(root)}/">Back</a></p></main>'
    )
    return _document("standfast: error", body, root)


# ---- the status


def status(snapshot: Snapshot, *, root: str, may_decide: bool) -> str:
    """The page of a store."""
    now = time.time()
    if snapshot.status is None or snapshot.evidence is None:
        message = snapshot.error.message if snapshot.error else "Not looked at yet."
        body = (
            f'{_header(root, knows=may_decide)}<main id="main"><h1 class="act">'
            f"<span>act now</span> {e(message)}</h1></main>"
        )
        return _document("standfast: act now", body, root, live=True)
    state = snapshot.status
    reports = [one.report for one in snapshot.evidence.reports]
    alive = [one.report for one in snapshot.evidence.alive]
    parts = [
        _verdict(state, snapshot, now),
        _facts(state, now),
        _timeline(reports, now),
        _traffic(alive, state.kind),
        _conflicts(snapshot.conflicts, state, root=root, may_decide=may_decide),
        _collections(snapshot.documents),
        _journal(state),
        _runs(state),
        _backups(state),
        _processes(alive, now, state.kind),
    ]
    word = "safe" if state.safe else "act now"
    body = f'{_header(root, knows=may_decide)}<main id="main">{"".join(parts)}</main>{_FOOT}'
    return _document(f"standfast: {word}", body, root, live=True)


def _verdict(state: Status, snapshot: Snapshot, now: float) -> str:
    kind = "act" if not state.safe else "wait" if state.findings else "safe"
    word = "safe" if state.safe else "act now"
    first = state.findings[0] if state.findings else _NOTHING_TO_DO
    todo = f'<p class="todo">{_todo(first)}</p>' if first.command else ""
    more = "".join(_finding(one) for one in state.findings[1:])
    age = now - snapshot.at
    stale = f' <strong class="act">looked at {e(duration(age))} ago</strong>' if age > 15 else ""
    listed = f'<ul class="findings">{more}</ul>' if more else ""
    return (
        f'<section aria-labelledby="now"><h1 id="now" class="{kind}" role="status"><span>{e(word)}'
        f"</span> {_said(first.text)}</h1>{todo}{listed}"
        f'<p class="quiet">{_said(_state(state, snapshot))} {e(state.primary)}{stale}</p>'
        "</section>"
    )


def _state(state: Status, snapshot: Snapshot) -> str:
    local = snapshot.evidence.local if snapshot.evidence is not None else None
    if state.state != "draining" or not isinstance(local, Local):
        return _STATES.get(state.state, state.state)
    return _sending(local, stopped=not state.safe)


def _sending(local: Local, *, stopped: bool) -> str:
    """What becomes of the waiting writes while the database answers."""
    if not local.alive:
        return "The database is back; waiting writes are sent when a process opens the store."
    if local.collections:
        names = ", ".join(f"`{name}`" for name in sorted(local.collections)[:MAX_NAMED])
        more = " and others" if len(local.collections) > MAX_NAMED else ""
        return f"The database is back; writes to {names}{more} are held, all others are sent to it."
    if stopped:
        return "The database is back; waiting writes are sent when what is named here is mended."
    return _STATES["draining"]


def _todo(one: Finding) -> str:
    """What mends it; of what mends itself, a hint."""
    text = e(one.command)
    if one.command.startswith("standfast "):
        text = f"<code>{text}</code>"
    return f"To do: {text}" if one.severity == "act" else text


def _finding(one: Finding) -> str:
    command = f" <code>{e(one.command)}</code>" if one.command else ""
    word = "act now" if one.severity == "act" else "safe"
    return f'<li class="{e(one.severity)}"><span>{word}</span> {_said(one.text)}{command}</li>'


def _facts(state: Status, now: float) -> str:
    """The section with the figures of a store: what waits, what failed, disk, last backup."""
    pending = conflicts = "none"
    if state.lag_ops:
        oldest = f"the oldest for {duration(state.lag_s)}"
        pending = f'{_count(state.lag_ops)} <span class="quiet ago">{e(oldest)}</span>'
    if state.conflicts is None:
        conflicts = "not known"
    elif state.open_conflicts:
        conflicts = _count(state.open_conflicts)
    error, backup = state.last_error, state.backup_verified_at
    since = f' <span class="ago">since {_time_of(state.since, now)}</span>' if state.since else ""
    facts = {
        "State": e(state.state.replace("_", " ")) + since,
        "Waiting writes": pending,
        "Refused writes": _count(state.refused_writes) if state.refused_writes else "none",
        "Open conflicts": conflicts,
        "Free disk": e(size(state.disk.free)) if state.disk else "not known",
        "Last verified backup": _time_of(backup, now) if backup else "none",
    }
    if state.next_try:
        facts["Next try"] = e(state.next_try[11:19])
    items = "".join(f"<div><dt>{e(name)}</dt><dd>{html}</dd></div>" for name, html in facts.items())
    last = ""
    if error is not None:
        last = f'<p class="last quiet">Last error at {_time(error.at, now)}: {e(error.message)}</p>'
    return f'<section aria-label="Facts"><dl class="facts">{items}</dl>{last}</section>'


def _section(id_: str, title: str, content: str) -> str:
    return f'<section aria-labelledby="{id_}"><h2 id="{id_}">{title}</h2>{content}</section>'


def _table(head: Iterable[str], rows: list[list[str]], caption: str) -> str:
    """Cells are HTML already."""
    columns = "".join(f'<th scope="col">{name}</th>' for name in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{e(caption)}"><table>'
        f'<caption class="hidden">{e(caption)}</caption><thead><tr>{columns}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


# ---- outages


def _timeline(reports: list[Report], now: float) -> str:
    outages = sorted((one for each in reports for one in each.outages), key=lambda one: -one.began)
    shown = [one for one in outages if (one.ended or now) > now - TIMELINE_S]
    bars = "".join(_bar(one, now) for one in shown[:MAX_LISTED])
    hours = "".join(
        f'<line x1="{x}" y1="0" x2="{x}" y2="28" class="tick"/>' for x in range(0, 961, 160)
    )
    said = f"{len(shown)} outage(s) in the last 24 hours"
    svg = (
        f'<svg class="timeline" viewBox="0 0 960 28" preserveAspectRatio="none" role="img"'
        f' aria-label="{e(said)}">{hours}{bars}</svg>'
        '<p class="axis quiet" aria-hidden="true"><span>24 h ago</span><span>12 h ago</span>'
        "<span>now</span></p>"
    )
    if not outages:
        return _section("outages", "Outages", f"{svg}<p>None is on record.</p>")
    rows = [_outage(one, now) for one in outages[:MAX_LISTED]]
    head = ("Began", "Cause", "Away", "Sending", "Most waiting", "Sent")
    table = _table(head, rows, "Outages, the latest first")
    return _section("outages", "Outages", svg + table)


def _bar(one: Outage, now: float) -> str:
    def x(at: float) -> float:
        return min(956.0, max(0.0, 960 * (1 - (now - at) / TIMELINE_S)))

    answered, ended = one.answered or one.ended or now, one.ended or now
    away, drain = x(one.began), x(answered)
    return (
        f'<rect class="away" x="{away:.1f}" y="4" width="{max(3.0, drain - away):.1f}"'
        f' height="20"/><rect class="drain" x="{drain:.1f}" y="4"'
        f' width="{max(1.0, x(ended) - drain):.1f}" height="20"/>'
    )


def _outage(one: Outage, now: float) -> list[str]:
    away = duration((one.answered or one.ended or now) - one.began)
    sending = duration((one.ended or now) - one.answered) if one.answered else "-"
    ongoing = " (now)" if one.ended is None else ""
    return [
        _time(one.began, now),
        f"<code>{e(one.cause)}</code>",
        e(away + (ongoing if one.answered is None else "")),
        e(sending + (ongoing if one.answered is not None else "")),
        _count(one.most_pending),
        _count(one.sent),
    ]


# ---- traffic


def _traffic(alive: list[Report], kind: str) -> str:
    if kind == "sqlite":
        return _section("traffic", "Writes and reads", _EMBEDDED)
    if not alive:
        return _section("traffic", "Writes and reads", "<p>No process has the store open.</p>")
    writes, reads = _sum(one.writes for one in alive), _sum(one.reads for one in alive)
    refused = _sum(one.refused for one in alive)
    bars = _bars("Writes, by where they are durable", writes)
    bars += _bars("Reads, by what answered", reads)
    if refused:
        bars += _bars("Refused writes, by code", refused)
    rows = [
        _percentiles("Write", [one.write_latency for one in alive]),
        _percentiles("Read of the primary", [one.read_latency for one in alive]),
    ]
    head = ("Call", "Count", "50 % within", "95 % within", "99 % within")
    table = _table(head, rows, "How long calls took")
    return _section("traffic", "Writes and reads", f'<div class="bars">{bars}</div>{table}')


def _sum(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for one in counts:
        for name, count in one.items():
            found[name] = found.get(name, 0) + count
    return found


def _bars(title: str, counts: Mapping[str, int]) -> str:
    most = max(counts.values(), default=1) or 1
    rows = "".join(
        f"<tr><th scope='row'>{e(name)}</th><td class='n'>{_count(count)}</td>"
        f"<td class='meter'><svg viewBox='0 0 100 8' preserveAspectRatio='none' aria-hidden='true'>"
        f"<rect class='bar' width='{100 * count / most:.1f}' height='8'/></svg></td></tr>"
        for name, count in sorted(counts.items(), key=lambda one: -one[1])
    )
    body = rows or "<tr><td>none yet</td></tr>"
    return f"<table class='counts'><caption>{e(title)}</caption><tbody>{body}</tbody></table>"


def _percentiles(name: str, every: list[Latencies]) -> list[str]:
    total = Latencies(
        counts=[sum(group) for group in zip(*(one.counts for one in every), strict=True)],
        sum_s=sum(one.sum_s for one in every),
    )
    count = sum(total.counts)
    return [e(name), _count(count), *(e(_bound(total.percentile_s(p))) for p in (0.5, 0.95, 0.99))]


def _bound(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds == float("inf"):
        return "over 10 s"
    return f"{seconds * 1000:g} ms" if seconds < 1 else f"{seconds:g} s"


# ---- conflicts


def _conflicts(
    conflicts: list[ConflictRecord], state: Status, *, root: str, may_decide: bool
) -> str:
    if not conflicts:
        known = "None waits." if state.conflicts is not None else "Not known: the database is away."
        return _section("conflicts", "Conflicts", f"<p>{known}</p>")
    rows = [
        [
            f'<a href="{e(root)}/conflicts/{one.id}">{one.id}'
            f'<span class="hidden">: decide</span></a>',
            e(from_microseconds(one.at_us).strftime("%Y-%m-%d %H:%M")),
            e(one.collection),
            e(one.key),
            e(one.kind),
            e(one.reason),
        ]
        for one in conflicts
    ]
    head = ("Conflict", "At (UTC)", "Collection", "Key", "Write", "Reason")
    note = "" if may_decide else "<p>To see both sides and to decide, give the token.</p>"
    return _section("conflicts", "Conflicts", note + _table(head, rows, "Open conflicts"))


def conflict(found: object, *, root: str) -> str:
    """One conflict: base, mine and theirs side by side, and the decisions."""
    entry, version = cast("tuple[ConflictRecord, int]", found)
    where = f"{entry.collection} / {entry.key}"
    what = (
        f"The {e(entry.kind)} of {e(from_microseconds(entry.at_us).strftime('%Y-%m-%d %H:%M UTC'))}"
        f" met another change of <code>{e(where)}</code>. Reason: <code>{e(entry.reason)}</code>."
        f" The document has version {version} now."
    )
    state = (
        "" if entry.state == "open" else f"<p>It is {e(entry.state)}: {e(entry.resolution)}.</p>"
    )
    forms = _decisions(entry, version, root) if entry.state == "open" else ""
    body = (
        f'{_header(root, knows=True)}<main id="main"><h1 class="plain">Conflict {entry.id}</h1>'
        f"<p>{what}</p>{state}{_sides(entry)}{forms}"
        f'<p><a href="{e(root)}/#conflicts">Back</a></p></main>'
    )
    return _document(f"standfast: conflict {entry.id}", body, root)


def _sides(entry: ConflictRecord) -> str:
    base, mine, theirs = (_places(text) for text in (entry.base, entry.mine, entry.theirs))
    places = list(dict.fromkeys([*base, *mine, *theirs]))
    rows: list[str] = []
    for place in places[:MAX_PLACES]:
        texts = [side.get(place) for side in (base, mine, theirs)]
        differs = len(set(texts)) > 1
        cells = "".join(_cell(text, texts[0], index) for index, text in enumerate(texts))
        mark = '<span class="mark">differs</span>' if differs else ""
        name = place or "the document"
        rows.append(
            f'<tr class="{"differs" if differs else ""}"><th scope="row"><code>{e(name)}</code>'
            f" {mark}</th>{cells}</tr>"
        )
    more = len(places) - MAX_PLACES
    note = (
        f"<p>{more} more place(s) are not shown: standfast conflicts show.</p>" if more > 0 else ""
    )
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Both sides">'
        '<table class="sides"><thead><tr><th scope="col">Field</th><th scope="col">base</th>'
        '<th scope="col">mine</th><th scope="col">theirs</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>{note}"
    )


def _cell(text: str | None, base: str | None, index: int) -> str:
    changed = ' class="changed"' if index and text != base else ""
    shown = '<span class="quiet">(none)</span>' if text is None else f"<code>{e(text)}</code>"
    return f"<td{changed}>{shown}</td>"


def _places(text: str | None) -> dict[str, str]:
    """The leaves of a document by their pointers; empty where there is none."""
    if text is None:
        return {}
    found: dict[str, str] = {}
    waiting: list[tuple[str, Any]] = [("", decode(text))]
    while waiting:
        place, value = waiting.pop()
        if isinstance(value, dict) and value and len(found) < 10 * MAX_PLACES:
            members = cast("dict[str, Any]", value)
            waiting += [
                (f"{place}/{name.replace('~', '~0').replace('/', '~1')}", inner)
                for name, inner in reversed(members.items())
            ]
        else:
            found[place] = json.dumps(value, ensure_ascii=False)
    return found


def _decisions(entry: ConflictRecord, version: int, root: str) -> str:
    buttons = [
        ("mine", "Take mine", "Write what the waiting write wanted."),
        ("theirs", "Take theirs", "Write what was there when it was sent."),
        ("base", "Take base", "Write what both began with."),
        ("dismiss", "Leave as it is", "Change nothing, and close the conflict."),
    ]
    if entry.base is None:
        buttons = [one for one in buttons if one[0] != "base"]
    items = "".join(
        f'<li><button type="submit" name="take" value="{value}">{label}</button>'
        f" <span>{text}</span></li>"
        for value, label, text in buttons
    )
    return (
        f'<form method="post" action="{e(root)}/conflicts/{entry.id}"><h2>Decide</h2>'
        f'<input type="hidden" name="version" value="{version}">'
        f'<ul class="decide">{items}</ul></form>'
    )


# ---- the rest


def _collections(documents: Mapping[str, int | None]) -> str:
    if not documents:
        return _section("collections", "Collections", "<p>None is known yet.</p>")
    rows = [
        [e(name), "not counted in time" if count is None else _count(count)]
        for name, count in documents.items()
    ]
    table = _table(("Collection", "Documents"), rows, "Collections")
    return _section("collections", "Collections", table)


def _journal(state: Status) -> str:
    if state.kind == "sqlite" or state.disk is None:
        text = "<p>An embedded database has none: it is always at hand.</p>"
        return _section("journal", "Journal", text)
    disk = state.disk
    share = min(
        1.0, max(state.lag_ops / disk.max_journal_ops, state.lag_bytes / disk.max_journal_bytes)
    )
    most = f"{_count(disk.max_journal_ops)} writes, {e(size(disk.max_journal_bytes))}"
    text = (
        f"<p>{_count(state.lag_ops)} waiting write(s) of {e(size(state.lag_bytes))}. It holds at"
        f" most {most}. Its files take {e(size(disk.journal))} of the disk.</p>"
        '<meter aria-label="How full the journal is" min="0" max="1" high="0.5"'
        f' value="{share:.3f}">'
        f"{share:.0%}</meter>"
    )
    return _section("journal", "Journal", text)


def _runs(state: Status) -> str:
    if not state.runs:
        return _section("runs", "Migrations", "<p>None is unfinished.</p>")
    rows = [
        [f"<code>{e(one.run)}</code>", e(one.state), e(one.since), f"<code>{e(one.command)}</code>"]
        for one in state.runs
    ]
    head = ("Run", "State", "Since", "To finish it")
    return _section("runs", "Migrations", _table(head, rows, "Unfinished migrations"))


def _backups(state: Status) -> str:
    text = "None is verified yet: <code>standfast backup create</code>, or serve --backup-every."
    if state.backup:
        text = f"The newest that was verified: {e(state.backup)}."
    if state.next_backup is not None:
        failed = f"; {state.failed_backups} tries have failed" if state.failed_backups else ""
        due = state.next_backup[:16].replace("T", " ")
        text += f"</p><p>The next one is due at {e(due)}{failed}."
    return _section("backups", "Backups", f"<p>{text}</p>")


def _processes(alive: list[Report], now: float, kind: str) -> str:
    if kind == "sqlite":
        return _section("processes", "Processes", _EMBEDDED)
    if not alive:
        return _section("processes", "Processes", "<p>None has the store open.</p>")
    rows = [
        [
            e(f"{one.pid} on {one.host}"),
            _time(one.opened_at, now),
            e(one.state),
            _count(one.pending),
        ]
        for one in alive
    ]
    table = _table(("Process", "Opened", "State", "Waiting"), rows, "Processes with the store open")
    return _section("processes", "Processes", table)
