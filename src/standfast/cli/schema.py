"""`schema sql | status | apply`."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import click

from standfast.backends.base import SCHEMA_VERSION, migrations
from standfast.cli.common import common_options, open_backend
from standfast.cli.output import Exit, give, note, shown
from standfast.config.settings import Settings
from standfast.document.names import collection_name
from standfast.errors import ConfigError

if TYPE_CHECKING:
    from standfast.backends.postgres.script import ScriptOptions

_collections = click.option(
    "--collection",
    "collections",
    multiple=True,
    metavar="NAME",
    help="Include the table of this collection; repeatable.",
)


@click.group("schema")
def schema_command() -> None:
    """The bookkeeping tables: print their SQL, show their state, create them."""


@schema_command.command("sql")
@_collections
@click.option("--role", metavar="ROLE", help="Add the grants that this role needs to work.")
@click.option("--owner", metavar="ROLE", help="Who owns the bookkeeping, a role without login.")
@click.option("--formerly", metavar="ROLE", help="As whom the app worked until now.")
@click.option("--index", is_flag=True, help="Also the index that makes `find` fast.")
@click.option("--offline", is_flag=True, help="Do not connect: print everything from the start.")
@common_options("--url")
def sql_command(
    collections: tuple[str, ...],
    role: str | None,
    owner: str | None,
    formerly: str | None,
    index: bool,
    offline: bool,
    settings: Settings,
) -> int:
    """Print the SQL that is still missing in the database, to hand to a DBA.

    Tables that exist are adopted as they are, without being rewritten.
    """
    names = [collection_name(name) for name in collections]
    if settings.target.kind == "sqlite":
        text = "".join(statements for _, statements in migrations("sqlite"))
    else:
        from standfast.backends.postgres.script import OWNER, ScriptOptions

        options = ScriptOptions(
            role, owner or OWNER, formerly, trusted=settings.target.trust, indexes=index
        )
        text = _postgres_script(settings, names, options, offline=offline)
    give({"sql": text}, [text])
    return Exit.DONE


def _postgres_script(
    settings: Settings, names: list[str], options: ScriptOptions, *, offline: bool
) -> str:
    from standfast.backends.postgres.backend import PostgresBackend
    from standfast.backends.postgres.script import script

    if offline:
        return script(None, settings.target.schema or "public", names, options)
    with closing(PostgresBackend(settings.target)) as backend:
        return backend.schema_script(names, options=options)


@schema_command.command("status")
@common_options("--url")
def status_command(settings: Settings) -> int:
    """Show the version of the tables, the collections, and what is not as it was installed.

    Exit code 1 when something is not current, or differs.
    """
    with open_backend(settings) as backend:
        present = backend.schema_version()
        names = backend.collections()
        identity = backend.identity()
        found = backend.differences() if present == SCHEMA_VERSION else []
    give(
        {
            "version": present,
            "known": SCHEMA_VERSION,
            "identity": identity,
            "collections": names,
            "differences": found,
        }
    )
    note(f"schema version {present} of {SCHEMA_VERSION}, {len(names)} collection(s)")
    for line in found:
        note(f"differs: {shown(line)}")
    return Exit.DONE if present == SCHEMA_VERSION and not found else Exit.NO


@schema_command.command("apply")
@_collections
@common_options("--url")
def apply_command(collections: tuple[str, ...], settings: Settings) -> int:
    """Create the tables that are missing; running it again changes nothing."""
    names = [collection_name(name) for name in collections]
    with open_backend(settings) as backend:
        before = backend.schema_version()
        backend.install(names)
        after = backend.schema_version()
    if after != SCHEMA_VERSION:
        raise ConfigError("the schema was not applied", code="schema", hint="see `schema status`")
    give({"before": before, "version": after})
    note(f"schema version {after}" + ("" if before != after else ", nothing to do"))
    return Exit.DONE
