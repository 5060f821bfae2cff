"""The command `standfast`: its verbs are loaded when they are used, so that `--help` is quick."""

from __future__ import annotations

import errno
import io
import os
import sys
import traceback
from importlib import import_module
from typing import Any, NoReturn

import click

from standfast import __version__
from standfast.cli.common import Decision, common_options
from standfast.cli.output import (
    LOG_FORMAT,
    Exit,
    did_you_mean,
    exit_code,
    flush,
    give,
    print_error,
    silence,
    use_json,
)
from standfast.errors import StandfastError

_COMMANDS = {
    "migrate": ("standfast.cli.migrate", "Move JSON files into the database."),
    "plan": ("standfast.cli.migrate", "Show what `migrate` would do; change nothing."),
    "verify": ("standfast.cli.migrate", "Compare every value of a run with the database."),
    "rollback": ("standfast.cli.migrate", "Undo a run: rows and files as they were."),
    "runs": ("standfast.cli.migrate", "List the runs."),
    "get": ("standfast.cli.data", "Print a document."),
    "put": ("standfast.cli.data", "Put a document."),
    "patch": ("standfast.cli.data", "Change members of a document."),
    "delete": ("standfast.cli.data", "Delete a document."),
    "list": ("standfast.cli.data", "List collections, or the keys of one."),
    "export": ("standfast.cli.data", "Print a collection as the JSON file it came from."),
    "status": ("standfast.cli.status", "Show how the store is doing."),
    "journal": (
        "standfast.cli.journal",
        "The writes that wait for the database: list, drain, discard.",
    ),
    "conflicts": ("standfast.cli.conflicts", "Conflicts of replayed writes: list, show, resolve."),
    "doctor": ("standfast.cli.doctor", "Look for what is wrong, and say what to do about it."),
    "backup": (
        "standfast.cli.backup",
        "Backups: create, list, verify, restore, prune, drill.",
    ),
    "cleanup": ("standfast.cli.cleanup", "Remove what is no longer needed, by stated rules."),
    "promote": (
        "standfast.cli.promote",
        "Move everything from SQLite to PostgreSQL, or back.",
    ),
    "demo": ("standfast.cli.demo", "See it: files moved, PostgreSQL killed, nothing lost."),
    "serve": ("standfast.cli.serve", "Serve probes, metrics and a status page over HTTP."),
    "completion": ("standfast.cli.main", "Print the completion script of a shell."),
    "schema": ("standfast.cli.schema", "The bookkeeping tables: sql, status, apply."),
}


_PREFIX = "STANDFAST_"
#: Flags that the settings read from the environment themselves, under these and other names.
_SETTINGS = frozenset(("--to", "--data-dir"))
#: Flags by which a person agrees to something, or says what becomes of data: a variable that was
#: set for one command, or by another program, must not say it for the next.
DECISIONS = frozenset(
    "--adopt --all --confirm --discard-newer --dismiss --force --split-default --take --value"
    " --yes".split()
)


def add_twins(command: click.Command) -> None:
    """Let every setting of a command, and of those below it, be given by a variable too.

    A flag on the command line goes before its variable; an empty variable counts as unset.  What
    decides (`DECISIONS`) is said on the command line alone.
    """
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            add_twins(inner)
    for param in command.params:
        if isinstance(param, click.Option) and has_twin(param):
            param.envvar = twin(param)
            param.show_envvar = True


def has_twin(option: click.Option) -> bool:
    """Whether a variable of its own gives this option."""
    decides = isinstance(option, Decision) or not DECISIONS.isdisjoint(option.opts)
    return not decides and _SETTINGS.isdisjoint(option.opts)


def twin(option: click.Option) -> str:
    """The name of an option's variable, made of its longest spelling."""
    return _PREFIX + max(option.opts, key=len).lstrip("-").replace("-", "_").upper()


def truth(value: str) -> bool:
    """Whether the variable of a flag says yes, as click reads it."""
    return value.strip().lower() in ("1", "true", "t", "yes", "y", "on")


class _LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            if cmd_name.startswith("-") or ctx.resilient_parsing:
                return None
            meant = did_you_mean(cmd_name, _COMMANDS)
            raise click.UsageError(f"No such command '{cmd_name}'.{meant}", ctx)
        command = getattr(import_module(_COMMANDS[cmd_name][0]), cmd_name + "_command")
        add_twins(command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_) for name, (_, help_) in _COMMANDS.items()])


@click.command(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 the answer is no, 2 usage or configuration, 3 database"
    " unreachable, 4 data refused or corrupt, 5 locked by another process, 70 a bug,"
    " 130 interrupted.",
)
@click.version_option(__version__, prog_name="standfast")
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    envvar="STANDFAST_LOG_FORMAT",
    show_envvar=True,
    help="How warnings are written to stderr: for people, or one JSON object a line.",
)
def main(log_format: str) -> None:
    """Your app's JSON files, safely in a database: move, hold, run.

    The database is PostgreSQL when DATABASE_URL names one, else SQLite in the data directory
    (STANDFAST_DATA_DIR, default ./storage).  Every setting has a twin in the environment:
    --on-conflict is STANDFAST_ON_CONFLICT.  What decides (--yes, --all, --force) has none.
    """
    LOG_FORMAT["json"] = log_format == "json"


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@common_options("--url", reads=False)
def completion_command(shell: str) -> int:
    """Print the script by which SHELL completes commands and options.

    \b
    bash:  eval "$(standfast completion bash)"                      in ~/.bashrc
    zsh:   eval "$(standfast completion zsh)"                       in ~/.zshrc
    fish:  standfast completion fish > ~/.config/fish/completions/standfast.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None, "click completes for all of these shells"
    made = kind(main, {}, "standfast", "_STANDFAST_COMPLETE")
    text = (made.source_template % made.source_vars()).rstrip()
    give({"shell": shell, "script": text}, [text])
    return Exit.DONE


def run() -> NoReturn:
    """The entry point: every way to end becomes an exit code."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: list[str]) -> int:
    """Run one command and return its exit code; nothing is raised."""
    # Before the arguments are understood, since that may fail too.
    flags = arguments[: arguments.index("--")] if "--" in arguments else arguments
    use_json("--json" in flags or truth(os.environ.get("STANDFAST_JSON", "")))
    stdout: object = sys.stdout
    if isinstance(stdout, io.TextIOWrapper):
        # JSON is UTF-8, whatever the locale says.
        stdout.reconfigure(encoding="utf-8", newline="\n")
    return int(_run(arguments))


def _run(arguments: list[str]) -> int:
    try:
        result: Any = main.main(arguments, prog_name="standfast", standalone_mode=False)
        flush()
        return int(result) if isinstance(result, int) else Exit.DONE
    except StandfastError as error:
        print_error(error.code, error.message, error.hint)
        return exit_code(error)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return Exit.USAGE
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        hint = f"see `{context.command_path} --help`" if context else ""
        print_error("usage", error.format_message(), hint)
        return Exit.USAGE
    except (click.Abort, KeyboardInterrupt):
        print_error("interrupted", "interrupted", "run the same command again to continue")
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # Of click's own output, such as --help.
        silence(sys.stdout)
        return Exit.DONE
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            # The operating system does not even look it up, whatever the command wanted with it.
            print_error("no_such_file", f"a path is refused: {error.strerror}", "check the paths")
            return Exit.USAGE
        # Where it happened, without the text of the error: that may repeat a document.
        frames = "".join(traceback.format_tb(error.__traceback__))
        click.echo(frames, err=True, nl=False)
        print_error("bug", f"a bug in standfast: {type(error).__name__}", "please report it")
        return Exit.BUG
