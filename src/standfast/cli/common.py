"""What all commands share: their common options, and the backend that these lead to."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from standfast.backends.base import Backend
from standfast.cli.output import LOG_FORMAT, print_record, use_json, wants_json, warn
from standfast.config.settings import Settings, load_settings, read_dotenv
from standfast.errors import ConfigError, StandfastError

if TYPE_CHECKING:
    from standfast.api.sync import Store

_F = TypeVar("_F", bound=Callable[..., Any])


class Decision(click.Option):
    """An option that says what becomes of data: on the command line alone, never by a variable."""


def _json_callback(_: click.Context, __: click.Parameter, value: bool) -> None:
    use_json(value)


def _read_env_file(_: click.Context, __: click.Parameter, path: Path | None) -> None:
    """Put our settings of such a file into this process's environment; what is there wins."""
    for name, value in read_dotenv(path).items() if path is not None else ():
        ours = name.startswith(("DATABASE_URL", "STANDFAST_", "PG"))
        if ours and not os.environ.get(name):
            os.environ[name] = value


def options(*each: Callable[[_F], _F]) -> Callable[[_F], _F]:
    """Several options as one decorator, in the order in which `--help` lists them."""

    def decorate(function: _F) -> _F:
        for option in reversed(each):
            function = option(function)
        return function

    return decorate


def transfer_options(*, on_conflict: str, exact: str, yes: str) -> Callable[[_F], _F]:
    """The options of commands that bring documents into a database, with what they mean there."""
    policies = click.Choice(["file", "database", "newest", "fail"])
    return options(
        click.option(
            "--on-conflict",
            type=policies,
            default="fail",
            show_default=True,
            cls=Decision,
            help=on_conflict,
        ),
        click.option("--exact", is_flag=True, cls=Decision, help=exact),
        click.option(
            "-n", "--dry-run", is_flag=True, help="Show what would happen; change nothing."
        ),
        click.option("-y", "--yes", is_flag=True, help=yes),
    )


def common_options(*names: str, reads: bool = True) -> Callable[[Callable[..., int]], Any]:
    """The options `--to`, `--data-dir` and `--json`; `names` are other spellings of `--to`.

    The command is called with the `settings` that they lead to, unless it `reads` none.
    """

    def decorate(function: Callable[..., int]) -> Any:
        @wraps(function)
        def command(url: str | None, data_dir: str | None, **given: Any) -> int:
            if reads:
                given["settings"] = read_settings(url, data_dir)
            return function(**given)

        return with_options(command)

    with_options = options(
        click.option(
            "--to",
            *names,
            "url",
            metavar="URL",
            help="The database: postgresql://... or sqlite:///path.  [env var:"
            " STANDFAST_DATABASE_URL, DATABASE_URL; default: SQLite in the data directory]",
        ),
        click.option(
            "--data-dir",
            metavar="DIR",
            help="Local files and backups.  [env var: STANDFAST_DATA_DIR; default: storage]",
        ),
        click.option(
            "--env-file",
            metavar="FILE",
            type=click.Path(path_type=Path, dir_okay=False, exists=True),
            callback=_read_env_file,
            expose_value=False,
            is_eager=True,
            help="Take settings from a file of NAME=VALUE lines, where they are not set.",
        ),
        click.option(
            "--json",
            is_flag=True,
            callback=_json_callback,
            expose_value=False,
            is_eager=True,
            help="Print one JSON document to stdout.",
        ),
    )
    return decorate


def _keep(period: str, default: int, text: str, *, least: int = 0) -> Callable[[_F], _F]:
    return click.option(
        f"--keep-{period}",
        default=default,
        type=click.IntRange(min=least),
        show_default=True,
        cls=Decision,
        help=text,
    )


#: The options that say which backups stay, in `prune` and `serve` alike.
retention_options = options(
    _keep("last", 7, "The newest so many backups.", least=1),
    _keep("daily", 7, "The newest of each of so many days."),
    _keep("weekly", 5, "The newest of each of so many weeks."),
    _keep("monthly", 12, "The newest of each of so many months."),
)


def read_settings(url: str | None, data_dir: str | None) -> Settings:
    """The settings of a command; foreign parameters of the URL are warned about."""
    settings = load_settings(url, data_dir=data_dir)
    for warning in settings.target.warnings:
        warn(f"{settings.source}: {warning}")
    return settings


def collection_names(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """The collections whose names begin so, for the shell; none where the database does not answer
    within its deadline: a shell says nothing of errors."""
    from standfast.api.opening import backend_for

    try:
        settings = load_settings(ctx.params.get("url"), data_dir=ctx.params.get("data_dir"))
        with closing(backend_for(settings.target)) as backend:
            names = backend.collections(deadline=time.monotonic() + settings.deadline_s)
    except StandfastError:
        return []
    return [name for name in names if name.startswith(incomplete)]


only_option = click.option(
    "--collection",
    "only",
    metavar="NAME",
    multiple=True,
    cls=Decision,
    shell_complete=collection_names,
    help="Only this one.",
)


@contextmanager
def open_backend(settings: Settings) -> Generator[Backend]:
    """The backend of these settings, looked at, and closed at the end."""
    from standfast.api.opening import opened_backend

    with library_warnings(), opened_backend(settings) as backend:
        yield backend


@contextmanager
def open_connection(settings: Settings) -> Generator[Backend]:
    """One connection to the database of these settings, made and asked within the deadline."""
    from standfast.admin.primary import connected

    with library_warnings(), connected(settings) as backend:
        yield backend


@contextmanager
def open_guarded(settings: Settings) -> Generator[Backend]:
    """The same, unless it is not the database that the app of this directory uses."""
    from standfast.api.opening import refuse_other

    with library_warnings():
        refuse_other(settings)
    with open_backend(settings) as backend:
        yield backend


@contextmanager
def open_for_data(settings: Settings) -> Generator[Store]:
    """A store for the commands that read and write documents.

    It has no journal: a command whose database does not answer fails, and leaves nothing to be
    sent later.
    """
    from standfast.api.sync import Store
    from standfast.engine.embedded import EmbeddedEngine

    with open_guarded(settings) as backend, Store(EmbeddedEngine(backend)) as store:
        yield store


def answer(question: str) -> bool | None:
    """Yes or no; None when the question cannot be asked."""
    try:
        return click.confirm(question, err=True)
    except click.Abort as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise
        return None


def require_yes(question: str, *, yes: bool) -> None:
    """Return only after a yes, which a program gives by --yes; raise otherwise."""
    if yes:
        return
    agreed = None if wants_json() else answer(question)
    if agreed is None:
        raise ConfigError(
            "this needs a confirmation, and there was no answer",
            code="not_confirmed",
            hint="give --yes",
        )
    if not agreed:
        raise StandfastError(
            "not confirmed; nothing was changed",
            code="not_confirmed",
            hint="answer y, or give --yes",
        )


class _Warner(logging.Handler):
    """Shows what the library logs as warnings of the command, or as JSON, one object a line."""

    def emit(self, record: logging.LogRecord) -> None:
        if LOG_FORMAT["json"]:
            print_record(record)
        else:
            warn(record.getMessage())


@contextmanager
def library_warnings() -> Generator[None]:
    """Show the library's warnings; what its drivers log is already in our errors."""
    handlers = {"standfast": _Warner(logging.WARNING), "psycopg": logging.NullHandler()}
    for name, handler in handlers.items():
        logging.getLogger(name).addHandler(handler)
    try:
        yield
    finally:
        for name, handler in handlers.items():
            logging.getLogger(name).removeHandler(handler)
