"""Secrets and contents, planted everywhere, and looked for in whatever commands show."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import sql

from standfast.errors import StandfastError
from support.cli import run_cli
from support.commands import LEAVES
from support.outage import Outage

#: A password, the content of documents, and what a server's message quotes.
PASSWORD, CONTENT, SAID = "canary-pw-5d10", "canary-doc-81be", "canary-msg-c0c1"
#: A key that is an address, in which a password stands.
KEY_SECRET = "canary-key-2f7a"
KEY = f"postgresql://someone:{KEY_SECRET}@db.example.com/x"
ALL = (PASSWORD, CONTENT, SAID)

#: How each command is called: several times where it has several ways to go wrong.  {key} is the
#: odd key, {run} the last run, {json} a document with the content.
CALLS: dict[str, list[str]] = {
    "migrate": [
        "migrate good.json --yes",
        "migrate bad.json --yes",
        "migrate twice.json --yes --skip-bad",
        "migrate views.json --yes",
        "migrate views.json --whole --name {content} --yes",
        "migrate records.json --key {content} --yes",
        "migrate missing.json",
    ],
    "plan": ["plan good.json", "plan bad.json twice.json", "plan views.json", "plan . --recursive"],
    "verify": ["verify {run}", "verify {content}"],
    "rollback": ["rollback {run}", "rollback {run} --discard-newer", "rollback {content}"],
    "runs": ["runs"],
    "get": ["get views 1", "get views {key}", "get views missing", "get {key} 1"],
    "put": [
        "put views 2 {json}",
        "put views 2 {bad}",
        "put views bad {json}",
        "put views 1 {json} --if-absent",
        "put views 1 {json} --if-version 99",
        "put {key} 1 {json}",
        "put views {key} {json}",
        "put views 3 {json} --ttl {content}",
    ],
    "patch": ["patch views 1 {json}", "patch views 1 {bad}", "patch views bad {json}"],
    "delete": ["delete views 2", "delete views {key} --if-version 7", "delete views 9"],
    "list": [
        "list views",
        "list {content}",
        "list views --after {content}",
        "list views --limit x",
    ],
    "export": ["export views", "export views -o {content}/x", "export nothing"],
    "status": ["status"],
    "doctor": ["doctor", "doctor --adopt"],
    "journal list": ["journal list"],
    "journal drain": ["journal drain --timeout 1", "journal drain --prefer {content}"],
    "journal discard": ["journal discard 999 --yes", "journal discard {content}"],
    "conflicts list": ["conflicts list --all"],
    "conflicts show": ["conflicts show 1", "conflicts show 99", "conflicts show {content}"],
    "conflicts resolve": [
        "conflicts resolve 1 --value {bad}",
        "conflicts resolve 1 --take mine --if-version 9",
        "conflicts resolve 99 --dismiss",
    ],
    "backup create": ["backup create", "backup create --collection {content}"],
    "backup list": ["backup list"],
    "backup verify": ["backup verify {backup}", "backup verify good.json"],
    "backup restore": [
        "backup restore {backup} --dry-run",
        "backup restore {backup} --key {key} --yes",
        "backup restore bad.json --yes",
    ],
    "backup drill": ["backup drill {backup}", "backup drill {content}"],
    "backup prune": ["backup prune --keep-last 9 --dry-run", "backup prune --keep-last {content}"],
    "cleanup": ["cleanup --dry-run", "cleanup --documents {content} --older-than 1 --dry-run"],
    "promote": ["promote --dry-run", "promote --on-conflict {content}"],
    "serve": ["serve --port {content}", "serve --host {content}"],
    "completion": ["completion bash", "completion {content}"],
    "demo": ["demo --{content}"],
    "schema sql": ["schema sql --role app --collection views", "schema sql --offline"],
    "schema status": ["schema status"],
    "schema apply": ["schema apply --collection views", "schema apply --collection {content}"],
}
_SHORT = {
    *("bad_collection", "conflict", "damaged_backup", "disk", "duplicate_key", "no_entry"),
    *("no_such_backup", "no_such_collection", "no_such_file", "no_such_run", "not_json"),
    *("truncated", "usage"),
}
#: The codes of the errors that the calls provoke while the database answers, exactly.  Every other
#: code of CODES needs a state that a command cannot be brought into in passing (a server's damage,
#: a race, a full disk, a bot's call): tests/unit/test_error_texts.py has all of them, by the places
#: where they are made.
MET = {"healthy": _SHORT, "healthy, in every way": _SHORT | {"no_key", "trigger"}}
#: What a slow machine adds, between two attempts at a connection.
PASSING = {"connection", "connection_lost", "deadline", "busy"}
#: What prints documents, on stdout alone.
PRINTS = {"get", "export", "conflicts show"}


def test_every_command_is_called() -> None:
    """Whoever adds a command has to say here how it is called."""
    assert {" ".join(words) for words, _ in LEAVES} == set(CALLS)


@pytest.fixture
def outage(pg_database: str, pg_admin_url: str, tmp_path: Path) -> Iterator[Outage]:
    """A database whose password is a canary, with documents, a conflict, a pending write and files
    that hold the others."""
    role = f"standfast_role_{secrets.token_hex(6)}"
    parts = urlsplit(pg_database)
    host = parts.netloc.rpartition("@")[2]
    database = sql.Identifier(parts.path[1:])
    with psycopg.connect(pg_admin_url, autocommit=True) as admin:
        make = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}")
        admin.execute(make.format(sql.Identifier(role), PASSWORD))
        give = sql.SQL("ALTER DATABASE {} OWNER TO {}")
        admin.execute(give.format(database, sql.Identifier(role)))
    netloc = f"{role}:{quote(PASSWORD)}@{host}"
    outage = Outage(urlunsplit(parts._replace(netloc=netloc)), tmp_path, admin_url=pg_admin_url)
    try:
        _plant(outage, pg_database, role)
        yield outage
    finally:
        with psycopg.connect(pg_database, autocommit=True) as conn:
            conn.execute(f"DROP OWNED BY {role} CASCADE")
        with psycopg.connect(pg_admin_url, autocommit=True) as admin:
            back = sql.SQL("ALTER DATABASE {} OWNER TO CURRENT_USER")
            admin.execute(back.format(database))
            admin.execute(f"DROP ROLE {role}")


def _plant(outage: Outage, superuser_url: str, role: str) -> None:
    document = {"text": CONTENT, "password": PASSWORD}
    with outage.store() as store:
        store["views"].put("1", document)
        store["views"].put(KEY, document)
        store["views"].put("bad", 1)
    with psycopg.connect(superuser_url, autocommit=True) as conn:
        conn.execute(f"GRANT CREATE ON SCHEMA public TO {role}")
        conn.execute(
            "INSERT INTO standfast.conflicts (collection, key, kind, reason, base, mine, theirs)"
            " VALUES ('views', '1', 'put', 'stale', %(text)s, %(text)s, %(text)s)",
            {"text": json.dumps(document)},
        )
        conn.execute(
            "CREATE FUNCTION public.say() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            f" IF NEW.key = 'bad' THEN RAISE EXCEPTION '{SAID} %', NEW.data USING"
            f" DETAIL = NEW.data, HINT = '{SAID}', ERRCODE = 'XX001'; END IF; RETURN NEW; END $$"
        )
        conn.execute(
            "CREATE TRIGGER say BEFORE UPDATE ON public.views FOR EACH ROW"
            " EXECUTE FUNCTION public.say()"
        )
    with outage.away(), outage.store() as store:
        store["views"].put("pending", document)
    good = json.dumps({"1": document, "2": document})
    files = {
        "good.json": good,
        "views.json": json.dumps({"1": {**document, "other": CONTENT}, "bad": document}),
        "bad.json": good[:-7],
        "twice.json": f'{{"a": "{CONTENT}", "a": "{PASSWORD}"}}',
        "records.json": json.dumps([document, document]),
    }
    for name, text in files.items():
        (outage.root / name).write_text(text)


def words_of(outage: Outage, call: str) -> list[str]:
    runs = outage.data_dir() / "migration_backups"
    run = max((path.name for path in runs.iterdir()), default="none") if runs.is_dir() else "none"
    backups = outage.data_dir() / "backups"
    made = sorted(path for path in backups.glob("*") if path.is_file()) if backups.is_dir() else []
    values = {
        "{backup}": str(made[0]) if made else "none",
        "{key}": KEY,
        "{run}": run,
        "{content}": CONTENT,
        "{json}": json.dumps({"text": CONTENT, "password": PASSWORD}),
        "{bad}": f'{{"text": "{CONTENT}", "password": {PASSWORD}',
    }
    words: list[str] = []
    for word in call.split():
        for name, value in values.items():
            word = word.replace(name, value)
        words.append(word)
    return words


class Codes:
    """The codes of the errors that were made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: set[str] = set()
        self.errors: list[StandfastError] = []
        made = StandfastError.__init__

        def init(error: StandfastError, *args: object, **options: object) -> None:
            made(error, *args, **options)  # type: ignore[arg-type]
            self.seen.add(error.code)
            self.errors.append(error)

        monkeypatch.setattr(StandfastError, "__init__", init)


def closed(url: str) -> str:
    """A port where nobody listens."""
    netloc = f"u:{PASSWORD}@127.0.0.1:1"
    return urlunsplit(urlsplit(url)._replace(netloc=netloc, path="/nowhere"))


STATES: dict[str, Callable[[str], str]] = {
    "healthy": str,
    "healthy, in every way": str,
    "away": closed,
    "wrong password": lambda url: url.replace(PASSWORD, f"{PASSWORD}x"),
    "wrong parameter": lambda url: f"{url}?sslmode={PASSWORD}",
}


@pytest.mark.parametrize(
    "state",
    [
        state if state == "healthy" else pytest.param(state, marks=pytest.mark.slow)
        for state in STATES
    ],
)
def test_secrets_and_contents_are_nowhere(
    outage: Outage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, state: str
) -> None:
    """Neither a password, nor a document, nor what a server says of one is in what a command shows,
    in an error, in a log, or in a readable file beside the databases; but where `get`, `export` and
    `conflicts show` print a document."""
    caplog.set_level(logging.DEBUG)
    codes, found = Codes(monkeypatch), dict[str, set[str]]()
    env = {
        "DATABASE_URL": STATES[state](outage.url),
        "STANDFAST_DATA_DIR": str(outage.data_dir()),
        "STANDFAST_DEADLINE_S": "0.5",
    }
    # In the short run two of each, and without --json: what a terminal gets has more in it.
    short = state == "healthy"
    for command, calls in CALLS.items():
        for line in calls[:2] if short else calls:
            for flags in ([],) if short else ([], ["--json"]):
                words = [*words_of(outage, line), *flags]
                ran = run_cli(*words, cwd=outage.root, env=env)
                assert ran.code != 70, (line, ran.err)
                said = ran.err if command in PRINTS and ran.code == 0 else ran.said
                # What is typed as an argument may come back; the password in it may not.
                echoed = {CONTENT} if "{content}" in line else set[str]()
                seen = {canary for canary in ALL if canary in said} - echoed
                seen |= {KEY_SECRET} & {canary for canary in [KEY_SECRET] if canary in ran.err}
                if seen:
                    found[f"{line} {flags}"] = seen
    assert found == {}
    for canary in (PASSWORD, SAID):
        assert canary not in caplog.text
        assert not [error for error in codes.errors if canary in repr(vars(error)) + str(error)]
    for path in outage.data_dir().rglob("run.log"):
        assert not [canary for canary in ALL if canary in path.read_text()]
    if state in MET:
        assert codes.seen - PASSING == MET[state]
