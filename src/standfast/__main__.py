"""`python -m standfast` is the command `standfast`."""

from __future__ import annotations

from standfast.cli.main import run

if __name__ == "__main__":
    run()
