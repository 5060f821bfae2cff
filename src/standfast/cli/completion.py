"""`completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from standfast.cli.common import common_options
from standfast.cli.output import Exit, print_json, print_line

_SHELLS = ("bash", "zsh", "fish")


@click.command("completion")
@click.argument("shell", type=click.Choice(_SHELLS))
@common_options("--url")
def completion_command(shell: str, url: str | None, data_dir: str | None, as_json: bool) -> int:
    r"""Print the script by which SHELL completes commands and options.

    \b
    bash:  eval "$(standfast completion bash)"                      in ~/.bashrc
    zsh:   eval "$(standfast completion zsh)"                       in ~/.zshrc
    fish:  standfast completion fish > ~/.config/fish/completions/standfast.fish
    """
    from standfast.cli.main import main

    kind = get_completion_class(shell)
    assert kind is not None, "click completes for all of these shells"
    made = kind(main, {}, "standfast", "_STANDFAST_COMPLETE")
    text = (made.source_template % made.source_vars()).rstrip()
    if as_json:
        print_json({"shell": shell, "script": text})
    else:
        print_line(text)
    return Exit.DONE
