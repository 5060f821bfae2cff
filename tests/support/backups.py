"""Databases of the tests for backups."""

from __future__ import annotations

from standfast.api.opening import backend_for
from standfast.backends.base import Backend
from standfast.config.settings import load_settings


def backend_of(url: str) -> Backend:
    """The backend of a URL; the caller closes it."""
    return backend_for(load_settings(url).target)
