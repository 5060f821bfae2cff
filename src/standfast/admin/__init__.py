"""How a store is doing, seen from outside: what the commands show, and what they set right."""

from __future__ import annotations


def library_version() -> str:
    """The version of this package; empty where it is not installed."""
    # Read when it is asked for: the import takes milliseconds.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("standfast")
    except PackageNotFoundError:
        return ""
